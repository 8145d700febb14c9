/* What a layer applies to its sums. ReLU, or nothing, is done as sums are stored: everything below `floor` becomes floor. */

INLINE float floor_of_single(const emu_layer *layer)
{
    return layer->activation == ACT_RELU ? 0.0f : -INFINITY;
}

INLINE double floor_of_double(const emu_layer *layer)
{
    return layer->activation == ACT_RELU ? 0.0 : (double)-INFINITY;
}

static vf activated_single(const emu_layer *layer, vf x)
{
    const vf a = vf_set(layer->a), b = vf_set(layer->b);
    switch (layer->activation) {
    case ACT_RELU: return vf_at_least(x, vf_set(0.0f));
    case ACT_SIGMOID: return vf_sigmoid(x);
    case ACT_TANH: return vf_tanh(x);
    case ACT_LEAKY_RELU: return vf_leaky_relu(x, a);
    case ACT_ELU: return vf_elu(x, a, b);
    case ACT_GELU: return vf_gelu(x);
    case ACT_GELU_TANH: return vf_gelu_tanh(x);
    case ACT_SILU: return vf_silu(x);
    case ACT_SOFTPLUS: return vf_softplus(x);
    case ACT_HARD_SIGMOID: return vf_hard_sigmoid(x, a, b);
    case ACT_HARD_SWISH: return vf_mul(x, vf_hard_sigmoid(x, a, b));
    case ACT_NONE: break;
    }
    return x;
}

static void activate_single(const emu_layer *layer, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i += VW)
        vf_store(y + i, activated_single(layer, vf_load(y + i)));
}

/* In float64: the operation of a program */
static vd activated_double(const emu_layer *layer, vd x)
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
    if (layer->activation == ACT_NONE)
        return x;
    if (layer->activation == ACT_RELU)
        return vd_at_least(x, vd_set(0.0));
    const double constants[2] = {(double)layer->a, (double)layer->b};
    const emu_group group = {
        .num_ops = 1, .num_columns = 1, .padded = 1, .ops = op_of + layer->activation, .constants = constants};
    apply_operations(&group, 0, false, &x, 1);
    return x;
}

static void activate_double(const emu_layer *layer, double *y, int64_t count)
{
    for (int64_t i = 0; i < count; i += VD)
        vd_store(y + i, activated_double(layer, vd_load(y + i)));
}
