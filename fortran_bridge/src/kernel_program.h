/* Elementwise programs: normalisation and transforms, in float64. */

/* Apply the operations of a group to v[0..n). Constants: of one column, broadcast (samples in lanes); or of n
 * vectors of neighbouring columns (columns in lanes). */
INLINE void apply_operations(const bool columns_in_lanes, const emu_group *group, int64_t column, vd *v, int64_t n)
{
    for (int op = 0; op < group->num_ops; op++) {
        const double *a = group->constants + (int64_t)op * 2 * group->padded + column, *b = a + group->padded;
#define A (columns_in_lanes ? vd_load(a + i * VD) : vd_set(*a))
#define B (columns_in_lanes ? vd_load(b + i * VD) : vd_set(*b))
#define EACH(expression)                                                                                     \
    for (int64_t i = 0; i < n; i++)                                                                          \
        v[i] = (expression);                                                                                 \
    break
        switch ((emu_op)group->ops[op]) {
        case OP_SET: EACH(A);
        case OP_ADD: EACH(vd_add(v[i], A));
        case OP_MUL: EACH(vd_mul(v[i], A));
        case OP_DIV: EACH(vd_div(v[i], A));
        case OP_SUB_MUL: EACH(vd_mul(vd_sub(v[i], A), B));
        case OP_MUL_ADD: EACH(vd_add(vd_mul(v[i], A), B));
        case OP_RSUB: EACH(vd_sub(A, v[i]));
        case OP_RDIV: EACH(vd_div(A, v[i]));
        case OP_AT_LEAST: EACH(vd_less_select(v[i], A, A, v[i]));
        case OP_AT_MOST: EACH(vd_less_select(A, v[i], A, v[i]));
        case OP_ABS: EACH(vd_abs(v[i]));
        case OP_NEG: EACH(vd_neg(v[i]));
        case OP_SQUARE: EACH(vd_mul(v[i], v[i]));
        case OP_SQRT: EACH(vd_sqrt(v[i]));
        case OP_LOG: EACH(vd_log(v[i]));
        case OP_EXP: EACH(vd_exp(v[i]));
        case OP_SIGMOID: EACH(vd_sigmoid(v[i]));
        case OP_TANH: EACH(vd_tanh(v[i]));
        case OP_ROUND_F32: EACH(vd_round_f32(v[i]));
        case OP_COUNT: break;
        }
#undef A
#undef B
#undef EACH
    }
}

enum { BLOCK_VD = 3 * VW / VD }; /* float64 vectors in the largest block of samples */

static void apply_block(const emu_group *group, int64_t column, vd *v, int n)
{
    apply_operations(false, group, column, v, n);
}

/* Constants of VD neighbouring columns from `column` on */
static vd apply_columns(const emu_group *group, int64_t column, vd v)
{
    apply_operations(true, group, column, &v, 1);
    return v;
}

/* The usual input program: nothing but (t - mean) * (1/std) */
INLINE bool only_normalises(const emu_group *group)
{
    return group->num_ops == 1 && group->ops[0] == OP_SUB_MUL;
}

static double apply_scalar(emu_op op, double a, double b, double t)
{
    double constants[2] = {a, b}, result[VD];
    const uint8_t ops[1] = {(uint8_t)op};
    const emu_group group = {.num_ops = 1, .num_columns = 1, .padded = 1, .ops = ops, .constants = constants};
    vd v = vd_set(t);
    apply_block(&group, 0, &v, 1);
    vd_store(result, v);
    return result[0];
}

/* rows -> rows, between layers; blocks of `ld` samples */
static void program_rows(const emu_program *program, const float *from, float *to, int ld)
{
    const int n = ld / VW;
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        for (int32_t c = 0; c < group->num_columns; c++) {
            const float *source = from + (int64_t)group->source[c] * ld;
            float *target = to + (int64_t)group->target[c] * ld;
            vd v[BLOCK_VD];
            for (int i = 0; i < 2 * n; i++)
                v[i] = vd_load_float(source + i * VD);
            apply_block(group, c, v, 2 * n);
            for (int i = 0; i < n; i++)
                vf_store(target + i * VW, vf_round(v[2 * i], v[2 * i + 1]));
        }
    }
}

/* The same for one sample, columns in lanes */
static void program_row(const emu_program *program, const float *from, float *to)
{
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        for (int32_t c = 0; c < group->num_columns; c += VD) {
            float result[VD];
            vd_store_float(result, apply_columns(group, c, vd_gather_float(from, group->source + c, 1)));
            for (int i = 0; i < VD && c + i < group->num_columns; i++)
                to[group->target[c + i]] = result[i];
        }
    }
}
