/* Dense layers. Included twice: for sums in float32 and in float64, as REAL, in vectors VEC of LANES (kernels.c).
 * The order of every sum is that of model.h, whichever way a layer is computed. */

#define VECTORS (EMU_PANEL / LANES) /* of outputs in a panel */

/* ---- samples in lanes: X and Y are rows of one column each, [column][NV * LANES] ---- */

/* acc[r][v] += sum over k of w[k][r] * X[k][v] for MR outputs and NV vectors of samples. On the way, MR numbers for each k
 * are fetched into the cache from `ahead` on: the next group of weights, while this one is used. A host's other work may
 * have driven them out to memory, and the rows of a group are too far apart for the processor to guess the next. */
INLINE void LOCAL(batch_part)(const int MR, const int NV, VEC acc[16][3], const REAL *w, int64_t w_step, const REAL *x,
                              int64_t x_step, int64_t inputs, const REAL *ahead)
{
    for (int64_t k = 0; k < inputs; k++) {
        __builtin_prefetch(ahead + k * MR, 0, 2);
        VEC xv[3];
        UNROLL
        for (int v = 0; v < NV; v++)
            xv[v] = OP(load)(x + v * LANES);
        UNROLL
        for (int r = 0; r < MR; r++) {
            const VEC weight = OP(set)(w[r]);
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = OP(fma)(weight, xv[v], acc[r][v]);
        }
        w += w_step;
        x += x_step;
    }
}

typedef struct {
    const REAL *bias, *w, *x, *ahead;
    int64_t w_step, x_step; /* to the next input; w_step and ahead are set for each group */
    int64_t inputs, outputs;
    int parts;
    REAL floor;
} LOCAL(products);

/* Y[r][v] = the sum of all parts, two at a time: so they stay in registers, and go through memory only between pairs */
INLINE void LOCAL(batch_sum)(const int MR, const int NV, const LOCAL(products) p, REAL *Y)
{
    const int64_t ld = NV * LANES, w_step = p.parts * p.w_step, x_step = p.parts * p.x_step;
    const int shift = p.parts == 2 ? 1 : 2;
    for (int part = 0; part < p.parts; part += 2) {
        const REAL *w = p.w + part * p.w_step, *x = p.x + part * p.x_step;
        VEC first[16][3], second[16][3];
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++) {
                first[r][v] = OP(set)(part == 0 ? p.bias[r] : 0);
                second[r][v] = OP(set)(0);
            }
        }
        const int64_t left = (p.inputs - part + p.parts - 1) >> shift;
        const int64_t pairs = (p.inputs - part + p.parts - 2) >> shift;
        const REAL *ahead = p.ahead + part * p.inputs / p.parts * MR;
        LOCAL(batch_part)(MR, NV, first, w, w_step, x, x_step, left, ahead);
        if (part > 0) {
            UNROLL
            for (int r = 0; r < MR; r++) {
                UNROLL
                for (int v = 0; v < NV; v++)
                    first[r][v] = OP(add)(OP(load)(Y + r * ld + v * LANES), first[r][v]);
            }
        }
        LOCAL(batch_part)(MR, NV, second, w + p.w_step, w_step, x + p.x_step, x_step, pairs, ahead + left * MR);
        const VEC lowest = OP(set)(part + 2 == p.parts ? p.floor : -(REAL)INFINITY);
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                OP(store)(Y + r * ld + v * LANES, OP(at_least)(OP(add)(first[r][v], second[r][v]), lowest));
        }
    }
}

/* All outputs, MR at a time */
#define BATCH(NAME, NV, MR)                                                                                      \
    static __attribute__((noinline)) void LOCAL(batch_##NAME)(const LOCAL(products) * all, REAL *Y)             \
    {                                                                                                        \
        for (int64_t j = 0; j < all->outputs; j += (MR)) {                                                   \
            LOCAL(products) p = *all;                                                                        \
            const int64_t group = j / EMU_GROUP * EMU_GROUP;                                                 \
            const int64_t padded = (p.outputs - group + EMU_PANEL - 1) / EMU_PANEL * EMU_PANEL;              \
            p.bias += j;                                                                                     \
            p.ahead = p.w + (group + EMU_GROUP + (j - group)) * p.inputs;                                    \
            p.w += group * p.inputs + (j - group);                                                           \
            p.w_step = padded < EMU_GROUP ? padded : EMU_GROUP;                                              \
            LOCAL(batch_sum)(MR, NV, p, Y + j * (NV)*LANES);                                                 \
        }                                                                                                    \
    }
BATCH(1, 1, BATCH_1)
#if BATCH_2
BATCH(2, 2, BATCH_2)
#endif
#if BATCH_3
BATCH(3, 3, BATCH_3)
#endif
#undef BATCH

static void LOCAL(batch)(const LOCAL(products) * p, REAL *Y, int vectors)
{
    switch (vectors) {
#if BATCH_3
    case 3: LOCAL(batch_3)(p, Y); break;
#endif
#if BATCH_2
    case 2: LOCAL(batch_2)(p, Y); break;
#endif
    default: LOCAL(batch_1)(p, Y);
    }
}

/* acc[a][r] += w x of input k + 4 a, for MR outputs */
INLINE void LOCAL(narrow_products)(const int MR, VEC acc[4][4], const int a, const REAL *w, const REAL *x)
{
    const VEC xk = OP(load)(x);
    UNROLL
    for (int r = 0; r < MR; r++)
        acc[a][r] = OP(fma)(OP(set)(w[r]), xk, acc[a][r]);
}

/* At most four outputs, MR of them at a time: the parts q, q + 4, q + 8, q + 12 at once, for q = 0..3 */
static void LOCAL(batch_narrow)(const emu_layer *layer, const REAL *X, REAL *Y, int vectors)
{
    enum { MR = MANY_REGISTERS ? EMU_NARROW : EMU_NARROW / 2 };
    const int64_t ld = vectors * LANES, K = layer->num_inputs;
    const VEC floor = OP(set)(LOCAL(floor_of)(layer));
    for (int i = 0; i < vectors * EMU_NARROW / MR; i++) {
        const int first = i % (EMU_NARROW / MR) * MR, v = i / (EMU_NARROW / MR);
        const REAL *weights = (const REAL *)layer->weights + first, *bias = (const REAL *)layer->bias + first;
        VEC sum[MR];
        for (int q = 0; q < 4; q++) {
            VEC acc[4][EMU_NARROW];
            UNROLL
            for (int r = 0; r < MR; r++) {
                acc[0][r] = OP(set)(q == 0 ? bias[r] : 0);
                acc[1][r] = acc[2][r] = acc[3][r] = OP(set)(0);
            }
            const REAL *w = weights + q * EMU_NARROW, *x = X + q * ld + v * LANES;
            int64_t k = q;
            for (; k + 12 < K; k += 16) {
                UNROLL
                for (int a = 0; a < 4; a++)
                    LOCAL(narrow_products)(MR, acc, a, w + a * 4 * EMU_NARROW, x + a * 4 * ld);
                w += 16 * EMU_NARROW;
                x += 16 * ld;
            }
            UNROLL
            for (int a = 0; a < 3; a++) {
                if (k + a * 4 < K)
                    LOCAL(narrow_products)(MR, acc, a, w + a * 4 * EMU_NARROW, x + a * 4 * ld);
            }
            UNROLL
            for (int r = 0; r < MR; r++) {
                const VEC part = OP(add)(OP(add)(OP(add)(acc[0][r], acc[1][r]), acc[2][r]), acc[3][r]);
                sum[r] = q == 0 ? part : OP(add)(sum[r], part);
            }
        }
        UNROLL
        for (int r = 0; r < MR; r++)
            OP(store)(Y + (first + r) * ld + v * LANES, OP(at_least)(sum[r], floor));
    }
}

static void LOCAL(batch_layer)(const emu_layer *layer, const REAL *X, REAL *Y, int vectors)
{
    const int64_t N = layer->num_outputs, ld = vectors * LANES;
    if (layer->parts == 16) {
        LOCAL(batch_narrow)(layer, X, Y, vectors);
    } else {
        const LOCAL(products) p = {
            layer->bias, layer->weights, X, NULL, 0, ld, layer->num_inputs, N, BATCH_PARTS(layer), LOCAL(floor_of)(layer)};
        LOCAL(batch)(&p, Y, vectors);
    }
    if (layer->activation > ACT_RELU)
        LOCAL(activate)(layer, Y, N * ld);
}

#if FEW_1
/* ---- outputs in lanes: X and Y are rows of one sample each, [S][ld] ---- */

/* Outputs of V panels, side by side in w, whose rows are `step` long */
typedef struct {
    const REAL *w, *bias;
    int64_t step, inputs;
} LOCAL(panels);

/* One sample, all P parts at once: they hide the latency of the additions */
INLINE void LOCAL(one_dense)(const int P, const int V, const LOCAL(panels) p, const REAL *x, REAL *y, const VEC floor)
{
    const REAL *w = p.w;
    VEC acc[4][4 * VECTORS];
    UNROLL
    for (int v = 0; v < V * VECTORS; v++) {
        acc[0][v] = OP(load)(p.bias + v * LANES);
        UNROLL
        for (int q = 1; q < P; q++)
            acc[q][v] = OP(set)(0);
    }
    int64_t k = 0;
    for (; k + P <= p.inputs; k += P) {
        UNROLL
        for (int q = 0; q < P; q++) {
            const VEC xk = OP(set)(x[k + q]);
            UNROLL
            for (int v = 0; v < V * VECTORS; v++)
                acc[q][v] = OP(fma)(OP(load)(w + v * LANES), xk, acc[q][v]);
            w += p.step;
        }
    }
    UNROLL
    for (int q = 0; q < P - 1; q++) {
        if (k + q < p.inputs) {
            const VEC xk = OP(set)(x[k + q]);
            UNROLL
            for (int v = 0; v < V * VECTORS; v++)
                acc[q][v] = OP(fma)(OP(load)(w + v * LANES), xk, acc[q][v]);
            w += p.step;
        }
    }
    UNROLL
    for (int v = 0; v < V * VECTORS; v++) {
        VEC sum = acc[0][v];
        UNROLL
        for (int q = 1; q < P; q++)
            sum = OP(add)(sum, acc[q][v]);
        OP(store)(y + v * LANES, OP(at_least)(sum, floor));
    }
}

/* acc[s][v] += sum over k of w[k][v] * X[s][k] for S samples */
INLINE void LOCAL(few_part)(const int S, const int V, VEC acc[8][4 * VECTORS], const REAL *w, int64_t w_step,
                            const REAL *x, int64_t x_step, int64_t ld, int64_t inputs)
{
    for (int64_t k = 0; k < inputs; k++) {
        VEC weight[4 * VECTORS];
        UNROLL
        for (int v = 0; v < V * VECTORS; v++)
            weight[v] = OP(load)(w + v * LANES);
        UNROLL
        for (int s = 0; s < S; s++) {
            const VEC xs = OP(set)(x[s * ld]);
            UNROLL
            for (int v = 0; v < V * VECTORS; v++)
                acc[s][v] = OP(fma)(weight[v], xs, acc[s][v]);
        }
        w += w_step;
        x += x_step;
    }
}

/* S samples, the parts one after the other, as in batch_sum */
INLINE void LOCAL(few_dense)(const int S, const int V, const LOCAL(panels) p, const int parts, const REAL *X, REAL *Y,
                             const int64_t ld, const VEC floor)
{
    const int shift = parts == 2 ? 1 : 2;
    const bool at_once = MANY_REGISTERS && S * V * VECTORS <= 12;
    for (int part = 0; part < parts; part += 2) {
        const REAL *w = p.w + part * p.step, *x = X + part;
        VEC first[8][4 * VECTORS], second[8][4 * VECTORS];
        UNROLL
        for (int v = 0; v < V * VECTORS; v++) {
            const VEC start = part == 0 ? OP(load)(p.bias + v * LANES) : OP(set)(0);
            UNROLL
            for (int s = 0; s < S; s++) {
                first[s][v] = start;
                second[s][v] = OP(set)(0);
            }
        }
        int64_t left = (p.inputs - part + parts - 1) >> shift;
        const int64_t pairs = (p.inputs - part + parts - 2) >> shift;
        for (int64_t k = 0; at_once && k < pairs; k++) {
            LOCAL(few_part)(S, V, first, w, 0, x, 0, ld, 1);
            KEEP_ORDER;
            LOCAL(few_part)(S, V, second, w + p.step, 0, x + 1, 0, ld, 1);
            w += parts * p.step;
            x += parts;
        }
        if (at_once)
            left -= pairs;
        LOCAL(few_part)(S, V, first, w, parts * p.step, x, parts, ld, left);
        if (part > 0) {
            UNROLL
            for (int s = 0; s < S; s++) {
                UNROLL
                for (int v = 0; v < V * VECTORS; v++)
                    first[s][v] = OP(add)(OP(load)(Y + s * ld + v * LANES), first[s][v]);
            }
        }
        if (!at_once)
            LOCAL(few_part)(S, V, second, w + p.step, parts * p.step, x + 1, parts, ld, pairs);
        const VEC lowest = part + 2 == parts ? floor : OP(set)(-(REAL)INFINITY);
        UNROLL
        for (int s = 0; s < S; s++) {
            UNROLL
            for (int v = 0; v < V * VECTORS; v++)
                OP(store)(Y + s * ld + v * LANES, OP(at_least)(OP(add)(first[s][v], second[s][v]), lowest));
        }
    }
}

/* At most four outputs of one sample: a vector holds four outputs for LANES / 4 inputs. y has room for LANES. */
INLINE void LOCAL(narrow_sum)(const emu_layer *layer, const REAL *x, REAL *y, const bool activate)
{
    enum { V = 4 * EMU_NARROW / LANES };
    const REAL *w = layer->weights, *bias = layer->bias;
    const int64_t K = layer->num_inputs;
    VEC acc[4][V];
    UNROLL
    for (int v = 0; v < V; v++) {
        acc[0][v] = OP(load)(bias + v * LANES); /* 0 from the fifth on */
        UNROLL
        for (int a = 1; a < 4; a++)
            acc[a][v] = OP(set)(0);
    }
    for (int64_t k = 0; k < K; k += 16, w += 64) {
        const REAL *xk = x + k;
        REAL rest[16] ALIGNED;
        if (k + 16 > K) { /* inputs beyond the last are 0 here and their weights -0: adding -0 changes nothing */
            memset(rest, 0, sizeof rest);
            memcpy(rest, xk, (size_t)(K - k) * sizeof *rest);
            xk = rest;
        }
        UNROLL
        for (int a = 0; a < 4; a++) {
            UNROLL
            for (int v = 0; v < V; v++)
                acc[a][v] = OP(fma)(OP(load)(w + a * 16 + v * LANES), OP(repeat4)(xk + a * 4, v), acc[a][v]);
        }
    }
    UNROLL
    for (int v = 0; v < V; v++)
        acc[0][v] = OP(add)(OP(add)(OP(add)(acc[0][v], acc[1][v]), acc[2][v]), acc[3][v]);
#if LANES >= 4
    const VEC sum = OP(sum_quarters)(acc[0]);
    OP(store)(y, activate ? LOCAL(activated)(layer, sum) : sum);
#else
    UNROLL
    for (int v = 0; v < EMU_NARROW / LANES; v++) {
        VEC sum = acc[0][v];
        UNROLL
        for (int q = 1; q < 4; q++)
            sum = OP(add)(sum, acc[0][q * EMU_NARROW / LANES + v]);
        OP(store)(y + v * LANES, activate ? LOCAL(activated)(layer, sum) : sum);
    }
#endif
}

/* The activation is applied to the outputs of LANES / 4 samples at once */
static void LOCAL(few_narrow)(const emu_layer *layer, const REAL *X, REAL *Y, int64_t ld, int samples)
{
    if (samples == 1 || layer->activation == ACT_NONE) {
        for (int s = 0; s < samples; s++)
            LOCAL(narrow_sum)(layer, X + s * ld, Y + s * ld, true);
        return;
    }
    REAL sums[8 * EMU_NARROW + LANES] ALIGNED;
    for (int s = 0; s < samples; s++)
        LOCAL(narrow_sum)(layer, X + s * ld, sums + s * EMU_NARROW, false); /* zeros after the last */
    for (int i = 0; i < samples * EMU_NARROW; i += LANES)
        OP(store)(sums + i, LOCAL(activated)(layer, OP(load)(sums + i)));
    for (int s = 0; s < samples; s++)
        memcpy(Y + s * ld, sums + s * EMU_NARROW, EMU_NARROW * sizeof *sums);
}

/* The panels of a layer, V at a time while there are so many */
#define PANELS(V, CALL)                                                                                      \
    for (; left >= (V); left -= (V), p.w += (V)*EMU_PANEL, p.bias += (V)*EMU_PANEL, Y += (V)*EMU_PANEL)      \
    CALL

/* A group of at most four panels, which lie side by side */
static __attribute__((noinline)) void LOCAL(one_group)(const REAL *w, const REAL *bias, int64_t step, int64_t inputs,
                                                       int parts, int left, const REAL *X, REAL *Y, const VEC floor)
{
    LOCAL(panels) p = {w, bias, step, inputs}; /* not handed over as a whole: that would go through memory */
    if (parts == 2) {
#if ONE_2 >= 4
        PANELS(4, LOCAL(one_dense)(2, 4, p, X, Y, floor));
#endif
#if ONE_2 >= 2
        PANELS(2, LOCAL(one_dense)(2, 2, p, X, Y, floor));
#endif
        PANELS(1, LOCAL(one_dense)(2, 1, p, X, Y, floor));
    } else {
#if ONE_4 >= 2
        PANELS(2, LOCAL(one_dense)(4, 2, p, X, Y, floor));
#endif
        PANELS(1, LOCAL(one_dense)(4, 1, p, X, Y, floor));
    }
}

/* A panel that is left over is taken sample by sample */
#define FEW(S, MOST)                                                                                         \
    static void LOCAL(few_group_##S)(const REAL *w, const REAL *bias, int64_t step, int64_t inputs, int parts, \
                                     int left, const REAL *X, REAL *Y, const int64_t ld, const VEC floor)    \
    {                                                                                                        \
        LOCAL(panels) p = {w, bias, step, inputs};                                                           \
        PANELS(MOST, LOCAL(few_dense)(S, MOST, p, parts, X, Y, ld, floor));                                  \
        for (int s = 0; left > 0 && s < (S); s++)                                                            \
            LOCAL(one_group)(p.w, p.bias, step, inputs, parts, left, X + s * ld, Y + s * ld, floor);                                 \
    }
#if FEW_2
FEW(2, FEW_2)
#endif
#if FEW_3
FEW(3, FEW_3)
#endif
#if FEW_4
FEW(4, FEW_4)
#endif
#if FEW_6
FEW(6, FEW_6)
#endif
#if FEW_8
FEW(8, FEW_8)
#endif

static void LOCAL(few_layer)(const emu_layer *layer, const REAL *X, REAL *Y, int64_t ld, int samples)
{
    if (layer->parts == 16) {
        LOCAL(few_narrow)(layer, X, Y, ld, samples);
        return;
    }
    const int64_t K = layer->num_inputs, panels = (layer->num_outputs + EMU_PANEL - 1) / EMU_PANEL;
    const VEC floor = OP(set)(LOCAL(floor_of)(layer));
    const REAL *w = layer->weights, *bias = layer->bias;
    const int parts = layer->parts;
    REAL *y = Y;
    for (int64_t panel = 0; panel < panels; panel += EMU_GROUP / EMU_PANEL) {
        const int left = panels - panel < EMU_GROUP / EMU_PANEL ? (int)(panels - panel) : EMU_GROUP / EMU_PANEL;
        const int64_t step = left * EMU_PANEL;
        switch (samples) {
#if FEW_2
        case 2: LOCAL(few_group_2)(w, bias, step, K, parts, left, X, y, ld, floor); break;
#endif
#if FEW_3
        case 3: LOCAL(few_group_3)(w, bias, step, K, parts, left, X, y, ld, floor); break;
#endif
#if FEW_4
        case 4: LOCAL(few_group_4)(w, bias, step, K, parts, left, X, y, ld, floor); break;
#endif
#if FEW_6
        case 6: LOCAL(few_group_6)(w, bias, step, K, parts, left, X, y, ld, floor); break;
#endif
#if FEW_8
        case 8: LOCAL(few_group_8)(w, bias, step, K, parts, left, X, y, ld, floor); break;
#endif
        default: LOCAL(one_group)(w, bias, step, K, parts, left, X, y, floor);
        }
        w += EMU_GROUP * K;
        bias += EMU_GROUP;
        y += EMU_GROUP;
    }
    if (layer->activation > ACT_RELU) {
        for (int s = 0; s < samples; s++)
            LOCAL(activate)(layer, Y + s * ld, panels * EMU_PANEL);
    }
}
#undef FEW
#undef PANELS
#endif
#undef VECTORS
