/* Dense layers. Included for sums in float32 and in float64, as REAL, in vectors VEC of LANES (kernels.c).
 * The order of every sum is that of model.h, whichever way a layer is computed. */

#define VECTORS (EMU_PANEL / LANES) /* of outputs in a panel */

/* Some outputs of a layer: the weights for the first input, and steps from one input to the next */
typedef struct {
    const REAL *w, *bias, *x, *ahead;
    int64_t w_step, x_step, inputs;
    int parts;
    REAL floor;
} LOCAL(sums);

/* ---- samples in lanes: X and Y are rows of one column each, [column][NV * LANES] ---- */

/* MR outputs of NV vectors of samples, G parts at a time, which stay in registers; the sum of those before goes through
 * memory. `apart`: inputs from one of the G parts to the next. On the way, weights are fetched into the cache from `ahead`
 * on: the next group, while this one is used. A host's other work may have driven them out to memory, and the rows of a
 * group are too far apart for the processor to guess the next. */
INLINE void LOCAL(batch_tile)(const int MR, const int NV, const int G, const int apart, const LOCAL(sums) p, REAL *Y,
                              const int64_t ld)
{
    const bool narrow = apart != 1;
    const REAL *ahead = p.ahead;
    for (int part = 0; part < (narrow ? apart : p.parts); part += narrow ? 1 : G) {
        VEC acc[4][8][3];
        UNROLL
        for (int r = 0; r < MR; r++) {
            const VEC start = part == 0 ? OP(set)(p.bias[r]) : OP(set)(0);
            UNROLL
            for (int v = 0; v < NV; v++) {
                acc[0][r][v] = start;
                UNROLL
                for (int g = 1; g < G; g++)
                    acc[g][r][v] = OP(set)(0);
            }
        }
        const REAL *w = p.w + part * p.w_step, *x = p.x + part * ld;
        const int64_t w_step = apart * p.w_step, last = p.parts - (G - 1) * apart, x_last = last * ld;
        const int64_t w_last = narrow ? 16 * EMU_NARROW - 12 : last * p.w_step;
        for (int64_t left = p.inputs - part; left > 0; left -= p.parts) {
            if (!narrow)
                __builtin_prefetch(ahead, 0, 2);
            UNROLL
            for (int g = 0; g < G; g++) {
                if (left <= g * apart)
                    break;
                VEC xv[3];
                UNROLL
                for (int v = 0; v < NV; v++)
                    xv[v] = OP(load)(x + v * LANES);
                UNROLL
                for (int r = 0; r < MR; r++) {
                    const VEC weight = OP(set)(w[narrow ? 16 * r : r]);
                    UNROLL
                    for (int v = 0; v < NV; v++)
                        acc[g][r][v] = OP(fma)(weight, xv[v], acc[g][r][v]);
                }
                KEEP_ORDER;
                ADVANCE(w, g == G - 1 ? w_last : w_step);
                ADVANCE(x, g == G - 1 ? x_last : apart * ld);
            }
            ahead += G * MR;
        }
        const VEC lowest = OP(set)(part == (narrow ? apart - 1 : p.parts - G) ? p.floor : -(REAL)INFINITY);
#define EACH_SUM(statement)                                                                                  \
    UNROLL                                                                                                   \
    for (int r = 0; r < MR; r++) {                                                                           \
        UNROLL                                                                                               \
        for (int v = 0; v < NV; v++) {                                                                       \
            REAL *y = Y + r * ld + v * LANES;                                                                \
            statement;                                                                                       \
        }                                                                                                    \
    }
        if (narrow) {
            EACH_SUM(acc[0][r][v] = OP(add)(OP(add)(OP(add)(acc[0][r][v], acc[1][r][v]), acc[2][r][v]), acc[3][r][v]); (void)y)
        }
        if (part > 0) {
            EACH_SUM(acc[0][r][v] = OP(add)(OP(load)(y), acc[0][r][v]))
        }
        if (G == 2) {
            EACH_SUM(acc[0][r][v] = OP(add)(acc[0][r][v], acc[1][r][v]); (void)y)
        }
        EACH_SUM(OP(store)(y, OP(at_least)(acc[0][r][v], lowest)))
#undef EACH_SUM
    }
}

/* All outputs, MR at a time */
#define BATCH(NV, MR, G)                                                                                     \
    static __attribute__((noinline)) void LOCAL(batch_##NV)(const LOCAL(sums) * all, int64_t outputs, REAL *Y) \
    {                                                                                                        \
        for (int64_t j = 0; j < outputs; j += (MR)) {                                                        \
            LOCAL(sums) p = *all;                                                                            \
            const int64_t group = j / EMU_GROUP * EMU_GROUP;                                                 \
            const int64_t padded = (outputs - group + EMU_PANEL - 1) / EMU_PANEL * EMU_PANEL;                \
            p.bias += j;                                                                                     \
            p.ahead = p.w + (group + EMU_GROUP + (j - group)) * p.inputs;                                    \
            p.w += group * p.inputs + (j - group);                                                           \
            p.w_step = padded < EMU_GROUP ? padded : EMU_GROUP;                                              \
            LOCAL(batch_tile)(MR, NV, G, 1, p, Y + j * (NV)*LANES, (NV)*LANES);                              \
        }                                                                                                    \
    }
BATCH(1, BATCH_1, BATCH_G)
#if BATCH_2
BATCH(2, BATCH_2, BATCH_G)
#endif
#if BATCH_3
BATCH(3, BATCH_3, BATCH_G)
#endif
#undef BATCH

/* At most four outputs: the parts q, q + 4, q + 8, q + 12 at once, for q = 0..3 */
static __attribute__((noinline)) void LOCAL(batch_narrow)(const LOCAL(sums) * all, REAL *Y, int64_t ld)
{
    enum { MR = MANY_REGISTERS ? EMU_NARROW : EMU_NARROW / 2 };
    for (int64_t v = 0; v < ld; v += LANES)
        for (int r = 0; r < EMU_NARROW; r += MR) {
            LOCAL(sums) p = *all;
            p.w += 16 * r;
            p.bias += r;
            p.x += v;
            LOCAL(batch_tile)(MR, 1, 4, 4, p, Y + r * ld + v, ld);
        }
}

static int LOCAL(batch)(const emu_model *m, int i, void *block, int samples)
{
    const int64_t ld = samples;
    for (; i < m->num_nodes && m->nodes[i].kind == NODE_DENSE; i++) {
        const emu_layer *layer = m->nodes[i].layer;
        REAL *Y = (REAL *)block + m->nodes[i].to * ld;
        LOCAL(sums) p = {.w = layer->weights, .bias = layer->bias, .x = (REAL *)block + m->nodes[i].from * ld,
                         .w_step = 1, .inputs = layer->num_inputs, .parts = layer->parts,
                         .floor = LOCAL(floor_of)(layer)};
        if (layer->parts == 16) {
            LOCAL(batch_narrow)(&p, Y, ld);
        } else {
            p.parts = BATCH_PARTS(layer);
#if BATCH_3
            if (samples == 3 * LANES)
                LOCAL(batch_3)(&p, layer->num_outputs, Y);
            else
#endif
#if BATCH_2
            if (samples == 2 * LANES)
                LOCAL(batch_2)(&p, layer->num_outputs, Y);
            else
#endif
                LOCAL(batch_1)(&p, layer->num_outputs, Y);
        }
        if (layer->activation > ACT_RELU)
            LOCAL(activate)(layer, Y, layer->num_outputs * ld);
    }
    return i;
}

#if ONE_2
/* ---- outputs in lanes: X and Y are rows of one sample each, [S][x_step] ---- */

/* `samples`, FEWEST to S of them, and V panels, G parts at a time. Branches that the processor foresees cost less than the
 * space of a tile for each number of samples. A single sample has all parts at once: they hide the latency of additions.
 * Whole groups are read in one piece, which the processor foresees as well; where several passes each take a part of every
 * row, the next group is fetched on the way (batch_tile). */
INLINE void LOCAL(few_tile)(const int FEWEST, const int S, const int V, const int G, const LOCAL(sums) * all,
                            const REAL *weights, const REAL *bias, const REAL *X, REAL *Y, int samples)
{
    const int64_t ld = all->x_step, w_step = all->w_step;
    const bool in_passes = S > 1 && V < EMU_GROUP / EMU_PANEL;
    const REAL *ahead = all->ahead + (weights - all->w) * all->inputs;
    const int parts = S == 1 ? G : all->parts;
#define LAST_SAMPLE(s) ((s) >= FEWEST && (s) >= samples)
    for (int part = 0; part < parts; part += G) {
        VEC acc[4][EMU_MAX_FEW][4 * VECTORS];
        UNROLL
        for (int v = 0; v < V * VECTORS; v++) {
            const VEC start = part == 0 ? OP(load)(bias + v * LANES) : OP(set)(0);
            UNROLL
            for (int s = 0; s < S; s++) {
                acc[0][s][v] = start;
                UNROLL
                for (int g = 1; g < G; g++)
                    acc[g][s][v] = OP(set)(0);
            }
        }
        const REAL *w = weights + part * w_step, *x = X + part;
        const int64_t w_skip = (parts - G + 1) * w_step, x_skip = parts - G + 1;
        for (int64_t left = all->inputs - part; left > 0; left -= parts) {
            UNROLL
            for (int g = 0; g < G; g++) {
                if (left <= g)
                    break;
                VEC weight[4 * VECTORS];
                UNROLL
                for (int v = 0; v < V * VECTORS; v++)
                    weight[v] = OP(load)(w + v * LANES);
                if (in_passes) {
                    UNROLL
                    for (int v = 0; v < V; v++)
                        __builtin_prefetch(ahead + v * EMU_PANEL, 0, 2);
                    ADVANCE(ahead, V * EMU_PANEL);
                }
                UNROLL
                for (int s = 0; s < S; s++) {
                    if (LAST_SAMPLE(s))
                        break;
                    const VEC xs = OP(set)(x[s * ld]);
                    UNROLL
                    for (int v = 0; v < V * VECTORS; v++)
                        acc[g][s][v] = OP(fma)(weight[v], xs, acc[g][s][v]);
                }
                if (S > 1)
                    KEEP_ORDER;
                ADVANCE(w, g == G - 1 ? w_skip : w_step);
                ADVANCE(x, g == G - 1 ? x_skip : 1);
            }
        }
        const VEC lowest = OP(set)(part == parts - G ? all->floor : -(REAL)INFINITY);
#define EACH_SUM(statement)                                                                                  \
    UNROLL                                                                                                   \
    for (int s = 0; s < S; s++) {                                                                            \
        if (LAST_SAMPLE(s))                                                                                  \
            break;                                                                                           \
        UNROLL                                                                                               \
        for (int v = 0; v < V * VECTORS; v++) {                                                              \
            REAL *y = Y + s * ld + v * LANES;                                                                \
            statement;                                                                                       \
        }                                                                                                    \
    }
        if (S > 1 && part > 0) {
            EACH_SUM(acc[0][s][v] = OP(add)(OP(load)(y), acc[0][s][v]))
        }
        UNROLL
        for (int g = 1; g < G; g++) {
            EACH_SUM(acc[0][s][v] = OP(add)(acc[0][s][v], acc[g][s][v]); (void)y)
        }
        EACH_SUM(OP(store)(y, OP(at_least)(acc[0][s][v], lowest)))
#undef EACH_SUM
    }
#undef LAST_SAMPLE
}

/* At most four outputs of up to NARROW samples, with the 16 parts of each sum in lanes. Rows of y are y_step apart and have
 * room for LANES. */
static __attribute__((noinline)) void LOCAL(narrow)(const emu_layer *layer, const REAL *X, int64_t x_step, REAL *y,
                                                    int64_t y_step, const VEC floor, int samples)
{
    enum { V = 16 / LANES, REGISTERS = MANY_REGISTERS ? 32 : 16 };
    /* outputs at a time: their sums and weights and an input are in registers */
    enum { R = (NARROW * V + 1) * EMU_NARROW < REGISTERS ? EMU_NARROW : EMU_NARROW / 2 };
    VEC sums[NARROW][EMU_NARROW][V];
#define EACH_SAMPLE(statement)                                                                               \
    UNROLL                                                                                                   \
    for (int s = 0; s < NARROW; s++) {                                                                       \
        if (s > 0 && s >= samples)                                                                           \
            break;                                                                                           \
        statement                                                                                            \
    }
    UNROLL
    for (int first = 0; first < EMU_NARROW; first += R) {
        const REAL *w = (const REAL *)layer->weights + first * 16, *x = X;
        REAL rest[NARROW][16] ALIGNED;
        int64_t step = x_step;
        VEC acc[NARROW][R][V];
        UNROLL
        for (int s = 0; s < NARROW; s++) {
            UNROLL
            for (int r = 0; r < R; r++) {
                UNROLL
                for (int v = 0; v < V; v++)
                    acc[s][r][v] = v > 0 ? OP(set)(0) : OP(first)(((const REAL *)layer->bias)[first + r]);
            }
        }
        for (int64_t left = layer->num_inputs; left > 0; left -= 16, w += 16 * EMU_NARROW, x += 16) {
            if (left < 16) { /* inputs beyond the last are 0 here and their weights -0: adding -0 changes nothing */
                memset(rest, 0, sizeof rest);
                for (int s = 0; s < NARROW && s < samples; s++)
                    memcpy(rest[s], x + s * step, (size_t)left * sizeof(REAL));
                x = rest[0];
                step = 16;
            }
            UNROLL
            for (int v = 0; v < V; v++) {
                VEC weight[R];
                UNROLL
                for (int r = 0; r < R; r++)
                    weight[r] = OP(load)(w + r * 16 + v * LANES);
                EACH_SAMPLE({
                    const VEC xs = OP(load)(x + s * step + v * LANES);
                    UNROLL
                    for (int r = 0; r < R; r++)
                        acc[s][r][v] = OP(fma)(weight[r], xs, acc[s][r][v]);
                })
            }
        }
        EACH_SAMPLE({
            UNROLL
            for (int r = 0; r < R; r++) {
                UNROLL
                for (int v = 0; v < V; v++)
                    sums[s][first + r][v] = acc[s][r][v];
            }
        })
#undef EACH_SAMPLE
    }
    for (int s = 0; s < NARROW && s < samples; s++) {
        OP(four) folded[EMU_NARROW];
        UNROLL
        for (int r = 0; r < EMU_NARROW; r++)
            folded[r] = OP(fold)(sums[s][r]);
        UNROLL
        for (int r = 0; r < EMU_NARROW; r += LANES)
            OP(store)(y + s * y_step + r, OP(at_least)(OP(sums)(folded + r), floor));
    }
}

/* The activation is applied to the outputs of LANES / 4 samples at once */
static void LOCAL(few_narrow)(const emu_layer *layer, const REAL *X, REAL *Y, int64_t ld, int samples)
{
    const VEC floor = OP(set)(LOCAL(floor_of)(layer));
    REAL sums[EMU_MAX_FEW * EMU_NARROW + LANES] ALIGNED;
    const bool gathered = samples > 1 && layer->activation > ACT_RELU;
    REAL *y = gathered ? sums : Y;
    const int64_t y_step = gathered ? EMU_NARROW : ld;
    for (int s = 0; s < samples; s += NARROW) /* zeros after the last */
        LOCAL(narrow)(layer, X + s * ld, ld, y + s * y_step, y_step, floor, samples - s);
    if (layer->activation <= ACT_RELU)
        return;
    LOCAL(activate)(layer, y, samples * EMU_NARROW);
    for (int s = 0; s < samples && gathered; s++)
        memcpy(Y + s * ld, sums + s * EMU_NARROW, EMU_NARROW * sizeof *sums);
}

/* The panels of a layer, V at a time while there are so many */
#define PANELS(FEWEST, S, V, G)                                                                              \
    for (; left >= (V); left -= (V), w += (V)*EMU_PANEL, bias += (V)*EMU_PANEL, Y += (V)*EMU_PANEL)          \
    LOCAL(few_tile)(FEWEST, S, V, G, all, w, bias, X, Y, samples)

/* A group of at most four panels, which lie side by side */
static __attribute__((noinline)) void LOCAL(few_1)(const LOCAL(sums) * all, const REAL *w, const REAL *bias, int left,
                                                   const REAL *X, REAL *Y)
{
    const int samples = 1;
    if (all->parts == 2) {
#if ONE_2 >= 4
        PANELS(1, 1, 4, 2);
#endif
#if ONE_2 >= 2
        PANELS(1, 1, 2, 2);
#endif
        PANELS(1, 1, 1, 2);
    } else {
#if ONE_4 >= 2
        PANELS(1, 1, 2, 4);
#endif
        PANELS(1, 1, 1, 4);
    }
}

/* A panel that is left over is taken sample by sample */
#define FEW(NAME, FEWEST, S, V)                                                                              \
    static __attribute__((noinline)) void LOCAL(NAME)(const LOCAL(sums) * all, const REAL *w,                \
                                                      const REAL *bias, int left, const REAL *X, REAL *Y, int samples) \
    {                                                                                                        \
        PANELS(FEWEST, S, V, FEW_G);                                                                         \
        for (int s = 0; left > 0 && s < samples; s++)                                                        \
            LOCAL(few_1)(all, w, bias, left, X + s * all->x_step, Y + s * all->x_step);                      \
    }
#if FEW_LOW
FEW(few_low, 2, FEW_LOW, FEW_LOW_V)
#endif
#if FEW_HIGH
FEW(few_high, FEW_LOW + 1, FEW_HIGH, FEW_HIGH_V)
#endif

static int LOCAL(few)(const emu_model *m, int i, void *rows, int samples)
{
    const int64_t ld = m->num_columns;
    for (; i < m->num_nodes && m->nodes[i].kind == NODE_DENSE; i++) {
        const emu_layer *layer = m->nodes[i].layer;
        const REAL *X = (REAL *)rows + m->nodes[i].from;
        REAL *Y = (REAL *)rows + m->nodes[i].to;
        if (layer->parts == 16) {
            LOCAL(few_narrow)(layer, X, Y, ld, samples);
            continue;
        }
        const int64_t panels = (layer->num_outputs + EMU_PANEL - 1) / EMU_PANEL;
        LOCAL(sums) p = {.x_step = ld, .inputs = layer->num_inputs, .parts = layer->parts,
                         .floor = LOCAL(floor_of)(layer)};
        const REAL *w = layer->weights, *bias = layer->bias;
        REAL *y = Y;
        for (int64_t panel = 0; panel < panels; panel += EMU_GROUP / EMU_PANEL) {
            const int left = panels - panel < EMU_GROUP / EMU_PANEL ? (int)(panels - panel) : EMU_GROUP / EMU_PANEL;
            p.w_step = left * EMU_PANEL;
            p.w = w;
            p.ahead = w + p.inputs * p.w_step;
#if FEW_HIGH
            if (samples > FEW_LOW)
                LOCAL(few_high)(&p, w, bias, left, X, y, samples);
            else
#endif
#if FEW_LOW
            if (samples > 1)
                LOCAL(few_low)(&p, w, bias, left, X, y, samples);
            else
#endif
                LOCAL(few_1)(&p, w, bias, left, X, y);
            w += EMU_GROUP * p.inputs;
            bias += EMU_GROUP;
            y += EMU_GROUP;
        }
        for (int s = 0; s < samples && layer->activation > ACT_RELU; s++)
            LOCAL(activate)(layer, Y + s * ld, panels * EMU_PANEL);
    }
    return i;
}
#undef FEW
#undef PANELS
#endif
#undef VECTORS

#if ONE_2
#define FEW_OR_NULL LOCAL(few)
#else
#define FEW_OR_NULL NULL
#endif
const emu_dense ISA(LOCAL(emu_dense)) = {LANES, LOCAL(batch), FEW_OR_NULL};
#undef FEW_OR_NULL
