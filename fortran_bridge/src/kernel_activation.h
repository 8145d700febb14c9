/* What a layer applies to its sums. ReLU, or nothing, is done as sums are stored: everything below `floor` becomes floor. */

INLINE float floor_of_single(const emu_layer *layer)
{
    return layer->activation == ACT_RELU ? 0.0f : -INFINITY;
}

INLINE double floor_of_double(const emu_layer *layer)
{
    return layer->activation == ACT_RELU ? 0.0 : (double)-INFINITY;
}

MATH vf activated_single(const emu_layer *layer, vf x)
{
    const vf a = vf_set(layer->a), b = vf_set(layer->b);
    switch (layer->activation) {
    case ACT_SIGMOID: return vf_sigmoid(x);
    case ACT_TANH: return vf_tanh(x);
    case ACT_LEAKY_RELU: return vf_leaky_relu(x, a);
    case ACT_ELU: return vf_elu(x, a, b);
    case ACT_GELU: return vf_gelu(x);
    case ACT_GELU_TANH: return vf_gelu_tanh(x);
    case ACT_SILU: return vf_silu(x);
    case ACT_SOFTPLUS: return vf_softplus(x);
    case ACT_HARD_SIGMOID: return vf_hard_sigmoid(x, a, b);
    case ACT_HARD_SWISH: return vf_hard_swish(x, a, b);
    default: return x;
    }
}

#if defined(EMU_ISA_AVX512)
/* The usual ones at full width, the others by the code for AVX2 */
static void activate_single(const emu_layer *layer, float *y, int64_t count)
{
    if (layer->activation != ACT_SIGMOID && layer->activation != ACT_TANH) {
        emu_activate_avx2(layer, y, count);
        return;
    }
    for (int64_t i = 0; i < count; i += VW)
        vf_store(y + i, layer->activation == ACT_TANH ? vf_tanh(vf_load(y + i)) : vf_sigmoid(vf_load(y + i)));
}
#else
static void activate_single(const emu_layer *layer, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i += VW)
        vf_store(y + i, activated_single(layer, vf_load(y + i)));
}
#if defined(EMU_ISA_AVX2)
void emu_activate_avx2(const emu_layer *layer, float *y, int64_t count)
{
    activate_single(layer, y, count);
}
#endif

/* In float64: the operation of a program */
static void activate_double(const emu_layer *layer, double *y, int64_t count)
{
    static const uint8_t op_of[] = {[ACT_SIGMOID] = OP_SIGMOID,
                                    [ACT_TANH] = OP_TANH,
                                    [ACT_LEAKY_RELU] = OP_LEAKY_RELU,
                                    [ACT_ELU] = OP_ELU,
                                    [ACT_GELU] = OP_GELU,
                                    [ACT_GELU_TANH] = OP_GELU_TANH,
                                    [ACT_SILU] = OP_SILU,
                                    [ACT_SOFTPLUS] = OP_SOFTPLUS,
                                    [ACT_HARD_SIGMOID] = OP_HARD_SIGMOID,
                                    [ACT_HARD_SWISH] = OP_HARD_SWISH};
    const vd a = vd_set((double)layer->a), b = vd_set((double)layer->b);
    for (int64_t i = 0; i < count; i += VD)
        vd_store(y + i, operation((emu_op)op_of[layer->activation], vd_load(y + i), a, b));
}
#endif
