/* Layers for one or a few samples: outputs in lanes. X and Y are rows of one sample each, [S][ld]. */

enum { VECTORS_PER_PANEL = EMU_PANEL / VW };

/* acc[s][v] += w[v] * x[s], for one k */
INLINE void few_accumulate(const int S, const int V, vf acc[6][8], const float *w, int64_t panel_size, const float *x,
                           int64_t ld)
{
    vf weight[8];
    UNROLL
    for (int v = 0; v < V; v++)
        weight[v] = vf_load(w + v / VECTORS_PER_PANEL * panel_size + v % VECTORS_PER_PANEL * VW);
    UNROLL
    for (int s = 0; s < S; s++) {
        const vf xs = vf_set(x[s * ld]);
        UNROLL
        for (int v = 0; v < V; v++)
            acc[s][v] = vf_fma(weight[v], xs, acc[s][v]);
    }
}

/* ORDER_CHAIN, V vectors of outputs starting at `panel` */
INLINE void few_chain(const int S, const int V, const emu_layer *layer, int64_t panel, const float *X, float *Y,
                      int64_t ld)
{
    const int64_t K = layer->num_inputs, panel_size = K * EMU_PANEL;
    const float *w = layer->panels + panel * panel_size;
    vf acc[6][8];
    UNROLL
    for (int v = 0; v < V; v++) {
        vf bias = vf_load(layer->bias + panel * EMU_PANEL + v * VW);
        UNROLL
        for (int s = 0; s < S; s++)
            acc[s][v] = bias;
    }
    for (int64_t k = 0; k < K; k++) {
        few_accumulate(S, V, acc, w, panel_size, X, ld);
        w += EMU_PANEL;
        X++;
    }
    const bool relu = layer->activation == ACT_RELU;
    UNROLL
    for (int s = 0; s < S; s++) {
        UNROLL
        for (int v = 0; v < V; v++)
            vf_store(Y + s * ld + panel * EMU_PANEL + v * VW, relu ? vf_relu(acc[s][v]) : acc[s][v]);
    }
}

/* ORDER_HALVES, both halves at once */
INLINE void few_halves(const int S, const int V, const emu_layer *layer, int64_t panel, const float *X, float *Y,
                       int64_t ld)
{
    const int64_t K = layer->num_inputs, panel_size = K * EMU_PANEL, half = K / 2;
    const float *w = layer->panels + panel * panel_size, *w2 = w + half * EMU_PANEL, *x = X, *x2 = X + half;
    vf acc[6][8], acc2[6][8];
    UNROLL
    for (int v = 0; v < V; v++) {
        vf bias = vf_load(layer->bias + panel * EMU_PANEL + v * VW);
        UNROLL
        for (int s = 0; s < S; s++) {
            acc[s][v] = bias;
            acc2[s][v] = vf_zero();
        }
    }
    for (int64_t k = 0; k < half; k++) {
        few_accumulate(S, V, acc, w, panel_size, x, ld);
        few_accumulate(S, V, acc2, w2, panel_size, x2, ld);
        w += EMU_PANEL;
        w2 += EMU_PANEL;
        x++;
        x2++;
    }
    if (K % 2 != 0)
        few_accumulate(S, V, acc2, w2, panel_size, x2, ld);
    const bool relu = layer->activation == ACT_RELU;
    UNROLL
    for (int s = 0; s < S; s++) {
        UNROLL
        for (int v = 0; v < V; v++) {
            vf sum = vf_add(acc[s][v], acc2[s][v]);
            vf_store(Y + s * ld + panel * EMU_PANEL + v * VW, relu ? vf_relu(sum) : sum);
        }
    }
}

#if VW < 16 && !defined(EMU_ISA_PORTABLE)
/* ORDER_HALVES, one half after the other: 16 registers hold too little of both for the loads to keep up */
INLINE void few_halves_in_turn(const int S, const int V, const emu_layer *layer, int64_t panel, const float *X,
                               float *Y, int64_t ld)
{
    const int64_t K = layer->num_inputs, panel_size = K * EMU_PANEL, half = K / 2;
    const float *w = layer->panels + panel * panel_size, *x = X;
    float first[6 * 8 * VW] ALIGNED;
    vf acc[6][8];
    UNROLL
    for (int v = 0; v < V; v++) {
        vf bias = vf_load(layer->bias + panel * EMU_PANEL + v * VW);
        UNROLL
        for (int s = 0; s < S; s++)
            acc[s][v] = bias;
    }
    for (int64_t k = 0; k < half; k++) {
        few_accumulate(S, V, acc, w, panel_size, x++, ld);
        w += EMU_PANEL;
    }
    UNROLL
    for (int s = 0; s < S; s++) {
        UNROLL
        for (int v = 0; v < V; v++) {
            vf_store(first + (s * V + v) * VW, acc[s][v]);
            acc[s][v] = vf_zero();
        }
    }
    for (int64_t k = half; k < K; k++) {
        few_accumulate(S, V, acc, w, panel_size, x++, ld);
        w += EMU_PANEL;
    }
    const bool relu = layer->activation == ACT_RELU;
    UNROLL
    for (int s = 0; s < S; s++) {
        UNROLL
        for (int v = 0; v < V; v++) {
            vf sum = vf_add(vf_load(first + (s * V + v) * VW), acc[s][v]);
            vf_store(Y + s * ld + panel * EMU_PANEL + v * VW, relu ? vf_relu(sum) : sum);
        }
    }
}
#endif

/* ORDER_NARROW: inputs in lanes, so that lane q holds the partial sum s_q; four outputs at once. Activations are
 * applied to whole vectors, so lanes beyond the outputs are made 0. */
static void few_narrow(int S, const emu_layer *layer, const float *X, float *Y, int64_t ld)
{
    const int64_t N = layer->num_outputs, K = layer->num_inputs, whole = K / 16 * 16, row = (K + 15) / 16 * 16;
    const int rest = (int)(K - whole);
    for (int s = 0; s < S; s++) {
        const float *x = X + s * ld;
        float *y = Y + s * ld;
        v4 result = {0};
        for (int v = 0; N > 4 && v < 16; v += VW)
            vf_store(y + v, vf_zero());
        for (int64_t j = 0; j < N; j += 4) {
            const float *w = layer->rows + j * row;
            vf acc[4][16 / VW];
            UNROLL
            for (int r = 0; r < 4; r++) {
                UNROLL
                for (int v = 0; v < 16 / VW; v++)
                    acc[r][v] = vf_zero();
            }
            for (int64_t k = 0; k < whole; k += 16) {
                UNROLL
                for (int v = 0; v < 16 / VW; v++) {
                    vf xv = vf_load(x + k + v * VW);
                    UNROLL
                    for (int r = 0; r < 4; r++)
                        acc[r][v] = vf_fma(vf_load(w + r * row + k + v * VW), xv, acc[r][v]);
                }
            }
            if (rest > 0) {
                UNROLL
                for (int v = 0; v < 16 / VW; v++) {
                    UNROLL
                    for (int r = 0; r < 4; r++)
                        acc[r][v] = vf_fma_part(w + r * row + whole + v * VW, x + whole + v * VW, acc[r][v],
                                                rest - v * VW);
                }
            }
            result = fold4(acc, layer->bias + j);
            if (N > 4)
                v4_store(y + j, result);
        }
        if (N <= 4) {
            vf_store(y, activated(layer->activation, vf_from_v4(result)));
        } else if (layer->activation != ACT_NONE) {
            for (int v = 0; v < 16; v += VW)
                vf_store(y + v, activated(layer->activation, vf_load(y + v)));
        }
    }
}

/* All panels of a layer, V of them at a time as long as there are so many */
#define PANELS(FUNCTION, S, P)                                                                               \
    for (; panel + (P) <= panels; panel += (P))                                                              \
    FUNCTION(S, (P)*VECTORS_PER_PANEL, layer, panel, X, Y, ld)

static void few_layer_1(const emu_layer *layer, const float *X, float *Y, int64_t ld, int64_t panels)
{
    int64_t panel = 0;
    if (layer->order == ORDER_HALVES) {
#if VW == 16
        PANELS(few_halves, 1, 4);
#endif
#if !defined(EMU_ISA_PORTABLE)
        PANELS(few_halves, 1, 2);
#endif
        PANELS(few_halves, 1, 1);
        return;
    }
#if VW == 16
    PANELS(few_chain, 1, 8);
#endif
#if !defined(EMU_ISA_PORTABLE)
    PANELS(few_chain, 1, 4);
    PANELS(few_chain, 1, 2);
#endif
    PANELS(few_chain, 1, 1);
}

#if !defined(EMU_ISA_PORTABLE)
static void few_layer_2(const emu_layer *layer, const float *X, float *Y, int64_t ld, int64_t panels)
{
    int64_t panel = 0;
    if (layer->order == ORDER_HALVES) {
#if VW == 16
        PANELS(few_halves, 2, 4);
        PANELS(few_halves, 2, 2);
        PANELS(few_halves, 2, 1);
#else
        PANELS(few_halves_in_turn, 2, 2);
        PANELS(few_halves_in_turn, 2, 1);
#endif
        return;
    }
#if VW == 16
    PANELS(few_chain, 2, 8);
    PANELS(few_chain, 2, 4);
#endif
    PANELS(few_chain, 2, 2);
    PANELS(few_chain, 2, 1);
}

static void few_layer_4(const emu_layer *layer, const float *X, float *Y, int64_t ld, int64_t panels)
{
    int64_t panel = 0;
    if (layer->order == ORDER_HALVES) {
#if VW == 16
        PANELS(few_halves, 4, 2);
        PANELS(few_halves, 4, 1);
#else
        PANELS(few_halves_in_turn, 4, 1);
#endif
        return;
    }
#if VW == 16
    PANELS(few_chain, 4, 4);
    PANELS(few_chain, 4, 2);
#endif
    PANELS(few_chain, 4, 1);
}
#endif

#if VW == 16
static void few_layer_6(const emu_layer *layer, const float *X, float *Y, int64_t ld, int64_t panels)
{
    int64_t panel = 0;
    if (layer->order == ORDER_HALVES) {
        PANELS(few_halves, 6, 2);
        PANELS(few_halves, 6, 1);
        return;
    }
    PANELS(few_chain, 6, 4);
    PANELS(few_chain, 6, 2);
    PANELS(few_chain, 6, 1);
}
#endif

static void few_layer(const emu_layer *layer, const float *X, float *Y, int64_t ld, int S)
{
    const int64_t panels = (layer->num_outputs + EMU_PANEL - 1) / EMU_PANEL;
    if (layer->order == ORDER_NARROW) {
        few_narrow(S, layer, X, Y, ld);
        return;
    }
    switch (S) {
#if !defined(EMU_ISA_PORTABLE)
    case 2: few_layer_2(layer, X, Y, ld, panels); break;
    case 4: few_layer_4(layer, X, Y, ld, panels); break;
#endif
#if VW == 16
    case 6: few_layer_6(layer, X, Y, ld, panels); break;
#endif
    default: few_layer_1(layer, X, Y, ld, panels);
    }
    if (layer->activation == ACT_SIGMOID || layer->activation == ACT_TANH) {
        for (int s = 0; s < S; s++)
            activate(layer->activation, Y + s * ld, panels * EMU_PANEL);
    }
}
