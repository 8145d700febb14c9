/* Elementwise programs: normalisation and transforms, in float64; from the host's arrays, between slots of the row, and
 * to the host's arrays. */

/* VD neighbours from element i on */
INLINE vd load_vd(const void *data, bool single, int64_t i)
{
    return single ? vd_load_float((const float *)data + i) : vd_load((const double *)data + i);
}

INLINE void store_vd(void *data, bool single, int64_t i, vd v)
{
    if (single)
        vd_store_float((float *)data + i, v);
    else
        vd_store((double *)data + i, v);
}

/* A column's or VD columns' constants */
INLINE vd constants_at(const double *p, bool columns_in_lanes)
{
    return columns_in_lanes ? vd_load(p) : vd_set(*p);
}

/* Those operations that take long beside a call, or are rare */
MATH vd operation(emu_op op, vd t, vd a, vd b)
{
    switch (op) {
    case OP_SET: return a;
    case OP_DIV: return vd_div(t, a);
    case OP_RSUB: return vd_sub(a, t);
    case OP_RDIV: return vd_div(a, t);
    case OP_ABS: return vd_abs(t);
    case OP_NEG: return vd_neg(t);
    case OP_SQUARE: return vd_mul(t, t);
    case OP_SQRT: return vd_sqrt(t);
    case OP_LOG: return vd_log(t);
    case OP_EXP: return vd_exp(t);
    case OP_SIGMOID: return vd_sigmoid(t);
    case OP_TANH: return vd_tanh(t);
    case OP_CUBE: return vd_mul(vd_mul(t, t), t);
    case OP_ERF: return vd_erf(t);
    case OP_LEAKY_RELU: return vd_leaky_relu(t, a);
    case OP_ELU: return vd_elu(t, a, b);
    case OP_GELU: return vd_gelu(t);
    case OP_GELU_TANH: return vd_gelu_tanh(t);
    case OP_SILU: return vd_silu(t);
    case OP_SOFTPLUS: return vd_softplus(t);
    case OP_HARD_SIGMOID: return vd_hard_sigmoid(t, a, b);
    case OP_HARD_SWISH: return vd_hard_swish(t, a, b);
    default: return t;
    }
}

/* Apply the operations of a group to v[0..n). The constants are those of one column, for samples in lanes; or, with
 * n = 1, those of VD neighbouring columns, for columns in lanes. */
static void apply_operations(const emu_group *group, int64_t column, bool columns_in_lanes, vd *v, int n,
                             void (*wide)(emu_op op, double *t, int n))
{
    const double *constants = group->constants + column;
    for (int k = 0; k < group->num_ops; k++, constants += 2 * (int64_t)group->padded) {
        const emu_op op = (emu_op)group->ops[k];
        const vd a = constants_at(constants, columns_in_lanes), b = constants_at(constants + group->padded, columns_in_lanes);
#define EACH(expression)                                                                                     \
    for (int i = 0; i < n; i++) {                                                                            \
        const vd t = v[i];                                                                                   \
        v[i] = (expression);                                                                                 \
    }                                                                                                        \
    break
        switch (op) {
        case OP_ADD: EACH(vd_add(t, a));
        case OP_MUL: EACH(vd_mul(t, a));
        case OP_SUB_MUL: EACH(vd_mul(vd_sub(t, a), b));
        case OP_MUL_ADD: EACH(vd_add(vd_mul(t, a), b));
        case OP_AT_LEAST: EACH(vd_less_select(t, a, a, t));
        case OP_AT_MOST: EACH(vd_less_select(a, t, a, t));
        case OP_ROUND_F32: EACH(vd_round_f32(t));
        case OP_LOG:
        case OP_EXP:
            if (wide != NULL) {
                wide(op, (double *)v, n * VD);
                break;
            } /* fall through */
        default: EACH(operation(op, t, a, b));
        }
#undef EACH
    }
}

COLD double apply_scalar(emu_op op, double a, double b, double t)
{
    double constants[2] = {a, b}, result[VD];
    const uint8_t ops[1] = {(uint8_t)op};
    const emu_group group = {.num_ops = 1, .num_columns = 1, .padded = 1, .ops = ops, .constants = constants};
    vd v = vd_set(t);
    apply_operations(&group, 0, false, &v, 1, NULL);
    vd_store(result, v);
    return result[0];
}

#if defined(EMU_ISA_AVX2)
double emu_apply_avx2(emu_op op, double a, double b, double t)
{
    return apply_scalar(op, a, b, t);
}
#endif

/* ---- samples in lanes ---- */

/* to(column, sample) = from(sample, column) for 4 samples and 4 neighbouring columns; or, the same, the other way round:
 * rows of `from` lie from_step apart, those of `to` to_step */
static void transpose4(const void *from, bool from_single, int64_t from_step, void *to, bool to_single, int64_t to_step)
{
#if defined(EMU_ISA_AVX2)
    vd r[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        r[i] = load_vd(from, from_single, i * from_step);
    vd_transpose(r, r);
    UNROLL
    for (int i = 0; i < 4; i++)
        store_vd(to, to_single, i * to_step, r[i]);
#else
    const emu_array a = {(void *)(uintptr_t)from, from_step, 1, from_single, false};
    const emu_array b = {to, 1, to_step, to_single, false};
    for (int s = 0; s < 4; s++)
        for (int c = 0; c < 4; c++)
            emu_set_number(&b, s, c, emu_number_at(&a, s, c));
#endif
}

enum { COLUMNS = 4 }; /* fetched and put at a time */

/* `columns` columns of `count` samples, in float64, for ld lanes: those beyond `count` repeat the last sample, a valid
 * value, whatever valid means */
static void fetch(const emu_array *from, const int32_t *source, int columns, bool adjacent, int count, int ld, double *to)
{
    int done = 0;
    if (columns == COLUMNS && adjacent && from->column == 1)
        for (; done + 4 <= count; done += 4)
            transpose4(emu_element(from, done, source[0]), from->single, from->sample, to + done, false, ld);
    for (int c = 0; c < columns; c++, to += ld) {
        int s = done;
        for (; from->sample == 1 && s < count && count >= VD; s += VD) { /* the last vector overlaps the one before */
            const int at = s + VD <= count ? s : count - VD;
            vd_store(to + at, load_vd(emu_element(from, at, source[c]), from->single, 0));
        }
        for (; s < count; s++)
            to[s] = emu_number_at(from, s, source[c]);
        for (s = count; s < ld; s++)
            to[s] = to[count - 1];
    }
}

static void put(const double *from, int ld, const emu_array *to, const int32_t *target, int columns, bool adjacent, int count)
{
    int done = 0;
    if (columns == COLUMNS && adjacent && to->column == 1)
        for (; done + 4 <= count; done += 4)
            transpose4(from + done, false, ld, emu_element(to, done, target[0]), to->single, to->sample);
    for (int c = 0; c < columns; c++, from += ld) {
        int s = done;
        for (; to->sample == 1 && s < count && count >= VD; s += VD) {
            const int at = s + VD <= count ? s : count - VD;
            store_vd(emu_element(to, at, target[c]), to->single, 0, vd_load(from + at));
        }
        for (; s < count; s++)
            emu_set_number(to, s, target[c], from[s]);
    }
}

/* Whether a vector of samples of a column can be loaded or stored at once, for ld of them */
INLINE bool has_vectors(const emu_array *a, int count, int ld)
{
    return a->sample == 1 && (a->padded || count == ld);
}

static void program_block(const emu_program *program, const emu_array *from, const emu_array *to, int count, int ld,
                          void (*wide)(emu_op op, double *t, int n))
{
    const bool direct_x = has_vectors(from, count, ld), direct_y = has_vectors(to, count, ld);
    const bool x_single = direct_x && from->single, y_single = direct_y && to->single;
    for (const emu_group *group = program->groups; group < program->groups + program->num_groups; group++) {
        const bool normalises = group->num_ops == 1 && group->ops[0] == OP_SUB_MUL; /* the usual input program */
        for (int32_t first = 0; first < group->num_columns; first += COLUMNS) {
            const int32_t left = group->num_columns - first;
            const int columns = left < COLUMNS ? left : COLUMNS;
            double fetched[COLUMNS * EMU_MAX_BLOCK] ALIGNED, results[COLUMNS * EMU_MAX_BLOCK] ALIGNED;
            if (!direct_x)
                fetch(from, group->source + first, columns, group->source_adjacent, count, ld, fetched);
            for (int c = 0; c < columns; c++) {
                const void *x = direct_x ? emu_element(from, 0, group->source[first + c]) : fetched + c * ld;
                void *y = direct_y ? emu_element(to, 0, group->target[first + c]) : results + c * ld;
                if (normalises) { /* without the detour through memory */
                    const vd a = vd_set(group->constants[first + c]);
                    const vd b = vd_set(group->constants[group->padded + first + c]);
                    for (int i = 0; i < ld; i += VD)
                        store_vd(y, y_single, i, vd_mul(vd_sub(load_vd(x, x_single, i), a), b));
                    continue;
                }
                vd v[EMU_MAX_BLOCK / VD];
                for (int i = 0; i < ld / VD; i++)
                    v[i] = load_vd(x, x_single, i * VD);
                apply_operations(group, first + c, false, v, ld / VD, wide);
                for (int i = 0; i < ld / VD; i++)
                    store_vd(y, y_single, i * VD, v[i]);
            }
            if (!direct_y)
                put(results, ld, to, group->target + first, columns, group->adjacent, count);
        }
    }
}

/* NODE_NORM. Lanes beyond the last sample repeat it. */
COLD void norm(const emu_node *node, const emu_array *rows, int samples)
{
    const emu_array from = emu_at(rows, 0, node->from), to = emu_at(rows, 0, node->to);
    const int32_t columns = node->num_columns;
    for (int first = 0; first < samples; first += VD) {
        int32_t lane[VD];
        for (int i = 0; i < VD; i++)
            lane[i] = first + i < samples ? first + i : samples - 1;
#define LOAD(j)                                                                                              \
    (from.sample == 1 ? load_vd(from.data, from.single, (j) * from.column + first)                           \
     : from.single    ? vd_gather_float((const float *)from.data + (j), lane, from.sample)                   \
                      : vd_gather((const double *)from.data + (j), lane, from.sample))
        vd mean = vd_set(0.0), scale = mean;
        for (int pass = 0; pass < 2; pass++) {
            vd s[8];
            for (int q = 0; q < 8; q++)
                s[q] = vd_set(0.0);
            for (int32_t j = 0; j < columns; j++) {
                const vd d = vd_sub(LOAD(j), mean);
                s[j % 8] = pass == 0 ? vd_add(s[j % 8], d) : vd_fma(d, d, s[j % 8]);
            }
            for (int h = 4; h >= 1; h /= 2)
                for (int q = 0; q < h; q++)
                    s[q] = vd_add(s[q], s[q + h]);
            const vd average = vd_div(s[0], vd_set((double)columns));
            if (pass == 0)
                mean = average;
            else
                scale = vd_div(vd_set(1.0), vd_sqrt(vd_add(average, vd_set(node->epsilon))));
        }
        for (int32_t j = 0; j < columns; j++) {
            const vd y = vd_mul(vd_sub(LOAD(j), mean), scale);
            if (to.sample == 1) {
                store_vd(to.data, to.single, j * to.column + first, y);
                continue;
            }
            double result[VD];
            vd_store(result, y);
            for (int i = 0; i < VD && first + i < samples; i++)
                emu_set_number(&to, first + i, j, result[i]);
        }
#undef LOAD
    }
}

#if !SMALL
/* ---- one sample, columns in lanes ---- */

static void program_sample(const emu_program *program, const emu_array *from, int64_t s, const emu_array *to, int64_t t)
{
    const void *x = emu_element(from, s, 0);
    void *y = emu_element(to, t, 0);
    const int64_t x_step = from->column, y_step = to->column;
    const bool x_single = from->single, y_single = to->single;
    for (const emu_group *group = program->groups; group < program->groups + program->num_groups; group++) {
        const bool adjacent_x = group->source_adjacent && x_step == 1, adjacent_y = group->adjacent && y_step == 1;
        const bool normalises = group->num_ops == 1 && group->ops[0] == OP_SUB_MUL;
        const double *constants = group->constants;
        const int32_t *source = group->source, *target = group->target;
        for (int32_t left = group->num_columns; left > 0; left -= VD, constants += VD, source += VD, target += VD) {
            vd v;
            if (adjacent_x && left >= VD)
                v = load_vd(x, x_single, *source);
            else if (x_single)
                v = vd_gather_float(x, source, x_step);
            else
                v = vd_gather(x, source, x_step);
            if (normalises)
                v = vd_mul(vd_sub(v, vd_load(constants)), vd_load(constants + group->padded));
            else if (group->num_ops > 0)
                apply_operations(group, constants - group->constants, true, &v, 1, NULL);
            if (adjacent_y && left >= VD) {
                store_vd(y, y_single, *target, v);
                continue;
            }
            double result[VD];
            vd_store(result, v);
            for (int i = 0; i < VD && i < left; i++) {
                if (y_single)
                    ((float *)y)[target[i] * y_step] = (float)result[i];
                else
                    ((double *)y)[target[i] * y_step] = result[i];
            }
        }
    }
}
#endif
