/* Layers for a block of samples: samples in lanes. X and Y are rows of one column each, [column][NV * VW].
 * A tile computes MR outputs for NV vectors of samples, the sums in registers. */

/* acc[r][v] += sum over k of w[k][r] * X[k][v], k ascending */
INLINE void batch_accumulate(const int MR, const int NV, vf acc[16][3], const float *w, const int panel,
                             const float *x, const int64_t step, const int64_t K)
{
    for (int64_t k = 0; k < K; k++) {
        vf xv[3];
        UNROLL
        for (int v = 0; v < NV; v++)
            xv[v] = vf_load(x + v * VW);
        UNROLL
        for (int r = 0; r < MR; r++) {
            vf weight = vf_set(w[r]);
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_fma(weight, xv[v], acc[r][v]);
        }
        w += panel;
        x += step;
    }
}

INLINE void batch_store(const int MR, const int NV, vf acc[16][3], float *y, const int64_t ld, bool relu)
{
    if (relu) {
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                vf_store(y + r * ld + v * VW, vf_relu(acc[r][v]));
        }
    } else {
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                vf_store(y + r * ld + v * VW, acc[r][v]);
        }
    }
}

/* ORDER_CHAIN */
INLINE void batch_chain(const int MR, const int NV, const emu_layer *layer, const float *X, float *Y)
{
    const int64_t K = layer->num_inputs, ld = NV * VW;
    for (int64_t j = 0; j < layer->num_outputs; j += MR) {
        const float *w = layer->panels + j / EMU_PANEL * K * EMU_PANEL + j % EMU_PANEL;
        vf acc[16][3];
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_set(layer->bias[j + r]);
        }
        batch_accumulate(MR, NV, acc, w, EMU_PANEL, X, ld, K);
        batch_store(MR, NV, acc, Y + j * ld, ld, layer->activation == ACT_RELU);
    }
}

#if VW == 16
/* ORDER_HALVES, both halves at once: MR outputs take twice MR * NV registers */
INLINE void batch_halves(const int MR, const int NV, const emu_layer *layer, const float *X, float *Y)
{
    const int64_t K = layer->num_inputs, ld = NV * VW, half = K / 2;
    for (int64_t j = 0; j < layer->num_outputs; j += MR) {
        const float *w = layer->panels + j / EMU_PANEL * K * EMU_PANEL + j % EMU_PANEL;
        const float *w2 = w + half * EMU_PANEL, *x = X, *x2 = X + half * ld;
        vf acc[16][3], acc2[16][3];
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++) {
                acc[r][v] = vf_set(layer->bias[j + r]);
                acc2[r][v] = vf_zero();
            }
        }
        for (int64_t k = 0; k < half; k++) {
            batch_accumulate(MR, NV, acc, w, EMU_PANEL, x, ld, 1);
            batch_accumulate(MR, NV, acc2, w2, EMU_PANEL, x2, ld, 1);
            w += EMU_PANEL;
            w2 += EMU_PANEL;
            x += ld;
            x2 += ld;
        }
        if (K % 2 != 0)
            batch_accumulate(MR, NV, acc2, w2, EMU_PANEL, x2, ld, 1);
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_add(acc[r][v], acc2[r][v]);
        }
        batch_store(MR, NV, acc, Y + j * ld, ld, layer->activation == ACT_RELU);
    }
}
#else
/* ORDER_HALVES, one half after the other: for 16 registers */
INLINE void batch_halves_in_turn(const int MR, const int NV, const emu_layer *layer, const float *X, float *Y)
{
    const int64_t K = layer->num_inputs, ld = NV * VW, half = K / 2;
    for (int64_t j = 0; j < layer->num_outputs; j += MR) {
        const float *w = layer->panels + j / EMU_PANEL * K * EMU_PANEL + j % EMU_PANEL;
        vf acc[16][3];
        float first[16 * 3 * VW] ALIGNED;
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_set(layer->bias[j + r]);
        }
        batch_accumulate(MR, NV, acc, w, EMU_PANEL, X, ld, half);
        batch_store(MR, NV, acc, first, ld, false);
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_zero();
        }
        batch_accumulate(MR, NV, acc, w + half * EMU_PANEL, EMU_PANEL, X + half * ld, ld, K - half);
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_add(vf_load(first + r * ld + v * VW), acc[r][v]);
        }
        batch_store(MR, NV, acc, Y + j * ld, ld, layer->activation == ACT_RELU);
    }
}
#endif

/* ORDER_NARROW: the pairs (q, q + 8) in bit-reversed order of q, so that the fold of sixteen partial sums needs
 * only three tiles of temporary storage: after pair i, as many stored sums join as i has trailing ones. */
INLINE void batch_narrow(const int MR, const int NV, const emu_layer *layer, const float *X, float *Y)
{
    static const int8_t order[8] = {0, 4, 2, 6, 1, 5, 3, 7};
    const int64_t K = layer->num_inputs, ld = NV * VW;
    for (int64_t j = 0; j < layer->num_outputs; j += MR) {
        const float *w = layer->panels + j / EMU_NARROW_PANEL * K * EMU_NARROW_PANEL + j % EMU_NARROW_PANEL;
        float stored[3][16 * 3 * VW] ALIGNED;
        vf acc[16][3], acc2[16][3];
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int r = 0; r < MR; r++) {
                UNROLL
                for (int v = 0; v < NV; v++)
                    acc[r][v] = acc2[r][v] = vf_zero();
            }
            int64_t k = order[i];
            for (; k + 8 < K; k += 16) {
                batch_accumulate(MR, NV, acc, w + k * EMU_NARROW_PANEL, 0, X + k * ld, 0, 1);
                batch_accumulate(MR, NV, acc2, w + (k + 8) * EMU_NARROW_PANEL, 0, X + (k + 8) * ld, 0, 1);
            }
            if (k < K)
                batch_accumulate(MR, NV, acc, w + k * EMU_NARROW_PANEL, 0, X + k * ld, 0, 1);
            UNROLL
            for (int r = 0; r < MR; r++) {
                UNROLL
                for (int v = 0; v < NV; v++)
                    acc[r][v] = vf_add(acc[r][v], acc2[r][v]);
            }
            int level = 0;
            for (; (i >> level) & 1; level++) {
                UNROLL
                for (int r = 0; r < MR; r++) {
                    UNROLL
                    for (int v = 0; v < NV; v++)
                        acc[r][v] = vf_add(vf_load(stored[level] + r * ld + v * VW), acc[r][v]);
                }
            }
            if (i < 7)
                batch_store(MR, NV, acc, stored[level], ld, false);
        }
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < NV; v++)
                acc[r][v] = vf_add(acc[r][v], vf_set(layer->bias[j + r]));
        }
        batch_store(MR, NV, acc, Y + j * ld, ld, layer->activation == ACT_RELU);
    }
}

#if VW == 16
enum { CHAIN_MR1 = 16, CHAIN_MR = 8, HALVES_MR1 = 8 };
#define BATCH_HALVES batch_halves
#else
enum { CHAIN_MR1 = 8, CHAIN_MR = 4, HALVES_MR1 = 8 };
#define BATCH_HALVES batch_halves_in_turn
#endif

#define BATCH_LAYERS(NV, MR_CHAIN, MR_HALVES)                                                                \
    static void batch_chain_##NV(const emu_layer *layer, const float *X, float *Y)                           \
    {                                                                                                        \
        batch_chain(MR_CHAIN, NV, layer, X, Y);                                                              \
    }                                                                                                        \
    static void batch_halves_##NV(const emu_layer *layer, const float *X, float *Y)                          \
    {                                                                                                        \
        BATCH_HALVES(MR_HALVES, NV, layer, X, Y);                                                            \
    }                                                                                                        \
    static void batch_narrow_##NV(const emu_layer *layer, const float *X, float *Y)                          \
    {                                                                                                        \
        batch_narrow(4, NV, layer, X, Y);                                                                    \
    }
BATCH_LAYERS(1, CHAIN_MR1, HALVES_MR1)
#if !defined(EMU_ISA_PORTABLE)
BATCH_LAYERS(2, CHAIN_MR, 4)
BATCH_LAYERS(3, CHAIN_MR, 4)
#endif

static void batch_layer(const emu_layer *layer, const float *X, float *Y, int vectors)
{
    typedef void layer_function(const emu_layer *, const float *, float *);
#if defined(EMU_ISA_PORTABLE)
    static layer_function *const functions[3][1] = {
        [ORDER_NARROW] = {batch_narrow_1}, [ORDER_HALVES] = {batch_halves_1}, [ORDER_CHAIN] = {batch_chain_1}};
#else
    static layer_function *const functions[3][3] = {
        [ORDER_NARROW] = {batch_narrow_1, batch_narrow_2, batch_narrow_3},
        [ORDER_HALVES] = {batch_halves_1, batch_halves_2, batch_halves_3},
        [ORDER_CHAIN] = {batch_chain_1, batch_chain_2, batch_chain_3},
    };
#endif
    functions[layer->order][vectors - 1](layer, X, Y);
    if (layer->activation == ACT_SIGMOID || layer->activation == ACT_TANH)
        activate(layer->activation, Y, (int64_t)layer->num_outputs * vectors * VW);
}
