/* Elementwise programs: normalisation and transforms, in float64; from the host's arrays, between slots of the row, and
 * to the host's arrays. */

/* Numbers of samples and columns: column f of sample s is element s * sample + f * column */
typedef struct {
    void *data;
    int64_t sample, column;
    bool single; /* float32 */
    bool padded; /* has room for whole vectors of samples: rows of ours, not the host's */
} array;

INLINE void *element(const array *a, int64_t sample, int64_t column)
{
    const int64_t i = sample * a->sample + column * a->column;
    return (unsigned char *)a->data + (a->single ? i * (int64_t)sizeof(float) : i * (int64_t)sizeof(double));
}

/* The part of an array from a sample and column on */
INLINE array at(const array *a, int64_t sample, int64_t column)
{
    array part = *a;
    part.data = element(a, sample, column);
    return part;
}

INLINE double number_at(const array *a, int64_t sample, int64_t column)
{
    const void *p = element(a, sample, column);
    return a->single ? (double)*(const float *)p : *(const double *)p;
}

INLINE void set_number(const array *a, int64_t sample, int64_t column, double value)
{
    void *p = element(a, sample, column);
    if (a->single)
        *(float *)p = (float)value;
    else
        *(double *)p = value;
}

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

/* Apply the operations of a group to v[0..n). The constants are those of one column, for samples in lanes; or, with
 * n = 1, those of VD neighbouring columns, for columns in lanes. */
static void apply_operations(const emu_group *group, int64_t column, bool columns_in_lanes, vd *v, int n)
{
    const double *constants = group->constants + column;
    for (int op = 0; op < group->num_ops; op++, constants += 2 * (int64_t)group->padded) {
        const double *b = constants + group->padded;
        const vd A = columns_in_lanes ? vd_load(constants) : vd_set(*constants);
        const vd B = columns_in_lanes ? vd_load(b) : vd_set(*b);
#define EACH(expression)                                                                                     \
    for (int i = 0; i < n; i++) {                                                                            \
        const vd t = v[i];                                                                                   \
        v[i] = (expression);                                                                                 \
    }                                                                                                        \
    break
        switch ((emu_op)group->ops[op]) {
        case OP_SET: EACH(((void)t, A));
        case OP_ADD: EACH(vd_add(t, A));
        case OP_MUL: EACH(vd_mul(t, A));
        case OP_DIV: EACH(vd_div(t, A));
        case OP_SUB_MUL: EACH(vd_mul(vd_sub(t, A), B));
        case OP_MUL_ADD: EACH(vd_add(vd_mul(t, A), B));
        case OP_RSUB: EACH(vd_sub(A, t));
        case OP_RDIV: EACH(vd_div(A, t));
        case OP_AT_LEAST: EACH(vd_less_select(t, A, A, t));
        case OP_AT_MOST: EACH(vd_less_select(A, t, A, t));
        case OP_ABS: EACH(vd_abs(t));
        case OP_NEG: EACH(vd_neg(t));
        case OP_SQUARE: EACH(vd_mul(t, t));
        case OP_SQRT: EACH(vd_sqrt(t));
        case OP_LOG: EACH(vd_log(t));
        case OP_EXP: EACH(vd_exp(t));
        case OP_SIGMOID: EACH(vd_sigmoid(t));
        case OP_TANH: EACH(vd_tanh(t));
        case OP_ROUND_F32: EACH(vd_round_f32(t));
        case OP_CUBE: EACH(vd_mul(vd_mul(t, t), t));
        case OP_ERF: EACH(vd_erf(t));
        case OP_LEAKY_RELU: EACH(vd_leaky_relu(t, A));
        case OP_ELU: EACH(vd_elu(t, A, B));
        case OP_GELU: EACH(vd_gelu(t));
        case OP_GELU_TANH: EACH(vd_gelu_tanh(t));
        case OP_SILU: EACH(vd_silu(t));
        case OP_SOFTPLUS: EACH(vd_softplus(t));
        case OP_HARD_SIGMOID: EACH(vd_hard_sigmoid(t, A, B));
        case OP_HARD_SWISH: EACH(vd_mul(t, vd_hard_sigmoid(t, A, B)));
        case OP_COUNT: break;
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
    apply_operations(&group, 0, false, &v, 1);
    vd_store(result, v);
    return result[0];
}

/* ---- samples in lanes ---- */

/* to(column, sample) = from(sample, column) for 4 samples and 4 neighbouring columns; or, the same, the other way round:
 * rows of `from` lie from_step apart, those of `to` to_step */
static void transpose4(const void *from, bool from_single, int64_t from_step, void *to, bool to_single, int64_t to_step)
{
#if defined(EMU_ISA_AVX2) || defined(EMU_ISA_AVX512)
    __m256d r[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        r[i] = from_single ? _mm256_cvtps_pd(_mm_loadu_ps((const float *)from + i * from_step))
                           : _mm256_loadu_pd((const double *)from + i * from_step);
    const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20);
    r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31);
    r[3] = _mm256_permute2f128_pd(b, d, 0x31);
    UNROLL
    for (int i = 0; i < 4; i++) {
        if (to_single)
            _mm_storeu_ps((float *)to + i * to_step, _mm256_cvtpd_ps(r[i]));
        else
            _mm256_storeu_pd((double *)to + i * to_step, r[i]);
    }
#else
    const array a = {(void *)(uintptr_t)from, from_step, 1, from_single, false};
    const array b = {to, 1, to_step, to_single, false};
    for (int s = 0; s < 4; s++)
        for (int c = 0; c < 4; c++)
            set_number(&b, s, c, number_at(&a, s, c));
#endif
}

enum { COLUMNS = 4 }; /* fetched and put at a time */

/* `columns` columns of `count` samples, in float64, for ld lanes: those beyond `count` repeat the last sample, a valid
 * value, whatever valid means */
static void fetch(const array *from, const int32_t *source, int columns, bool adjacent, int count, int ld, double *to)
{
    int done = 0;
    if (columns == COLUMNS && adjacent && from->column == 1) {
        for (; done + 4 <= count; done += 4)
            transpose4(element(from, done, source[0]), from->single, from->sample, to + done, false, ld);
    }
    for (int c = 0; c < columns; c++) {
        int s = done;
        for (; from->sample == 1 && s < count && count >= VD; s += VD) { /* the last vector overlaps the one before */
            const int at_s = s + VD <= count ? s : count - VD;
            vd_store(to + c * ld + at_s, load_vd(element(from, at_s, source[c]), from->single, 0));
        }
        s = s < count ? s : count;
        for (; s < count; s++)
            to[c * ld + s] = number_at(from, s, source[c]);
        for (; s < ld; s++)
            to[c * ld + s] = to[c * ld + count - 1];
    }
}

static void put(const double *from, int ld, const array *to, const int32_t *target, int columns, bool adjacent, int count)
{
    int done = 0;
    if (columns == COLUMNS && adjacent && to->column == 1) {
        for (; done + 4 <= count; done += 4)
            transpose4(from + done, false, ld, element(to, done, target[0]), to->single, to->sample);
    }
    for (int c = 0; c < columns; c++) {
        int s = done;
        for (; to->sample == 1 && s < count && count >= VD; s += VD) {
            const int at_s = s + VD <= count ? s : count - VD;
            store_vd(element(to, at_s, target[c]), to->single, 0, vd_load(from + c * ld + at_s));
        }
        for (; s < count; s++)
            set_number(to, s, target[c], from[c * ld + s]);
    }
}

/* For `count` samples in ld lanes */
static void program_block(const emu_program *program, const array *from, const array *to, int count, int ld)
{
    const bool from_rows = from->sample == 1 && (from->padded || count == ld);
    const bool to_rows = to->sample == 1 && (to->padded || count == ld);
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        const bool normalises = group->num_ops == 1 && group->ops[0] == OP_SUB_MUL; /* the usual input program */
        for (int32_t first = 0; first < group->num_columns; first += COLUMNS) {
            const int32_t left = group->num_columns - first;
            const int columns = left < COLUMNS ? left : COLUMNS;
            double fetched[COLUMNS * EMU_MAX_BLOCK] ALIGNED, results[COLUMNS * EMU_MAX_BLOCK] ALIGNED;
            if (!from_rows)
                fetch(from, group->source + first, columns, group->source_adjacent, count, ld, fetched);
            for (int c = 0; c < columns; c++) {
                const void *x = from_rows ? element(from, 0, group->source[first + c]) : fetched + c * ld;
                void *y = to_rows ? element(to, 0, group->target[first + c]) : results + c * ld;
                const bool x_single = from_rows && from->single, y_single = to_rows && to->single;
                if (normalises || group->num_ops == 0) { /* without the detour through memory */
                    const vd a = normalises ? vd_set(group->constants[first + c]) : vd_set(0.0);
                    const vd b = normalises ? vd_set(group->constants[group->padded + first + c]) : a;
                    for (int i = 0; i < ld; i += VD) {
                        const vd t = load_vd(x, x_single, i);
                        store_vd(y, y_single, i, normalises ? vd_mul(vd_sub(t, a), b) : t);
                    }
                    continue;
                }
                vd v[EMU_MAX_BLOCK / VD];
                for (int i = 0; i < ld / VD; i++)
                    v[i] = load_vd(x, x_single, i * VD);
                apply_operations(group, first + c, false, v, ld / VD);
                for (int i = 0; i < ld / VD; i++)
                    store_vd(y, y_single, i * VD, v[i]);
            }
            if (!to_rows)
                put(results, ld, to, group->target + first, columns, group->adjacent, count);
        }
    }
}

/* NODE_NORM */
COLD void norm_block(const emu_node *node, const array *row, int ld)
{
    const array from = at(row, 0, node->from), to = at(row, 0, node->to);
    const int64_t n = node->num_columns;
    for (int first = 0; first < ld; first += VD) {
        vd mean = vd_set(0.0), scale = mean;
        for (int pass = 0; pass < 2; pass++) {
            vd s[8];
            for (int q = 0; q < 8; q++) {
                s[q] = vd_set(0.0);
                for (int64_t j = q; j < n; j += 8) {
                    const vd d = vd_sub(load_vd(from.data, from.single, j * from.column + first), mean);
                    s[q] = pass == 0 ? vd_add(s[q], d) : vd_fma(d, d, s[q]);
                }
            }
            for (int h = 4; h >= 1; h /= 2)
                for (int q = 0; q < h; q++)
                    s[q] = vd_add(s[q], s[q + h]);
            const vd average = vd_div(s[0], vd_set((double)n));
            if (pass == 0)
                mean = average;
            else
                scale = vd_div(vd_set(1.0), vd_sqrt(vd_add(average, vd_set(node->epsilon))));
        }
        for (int64_t j = 0; j < n; j++) {
            const vd d = vd_sub(load_vd(from.data, from.single, j * from.column + first), mean);
            store_vd(to.data, to.single, j * to.column + first, vd_mul(d, scale));
        }
    }
}

#if !SMALL
/* ---- one sample, columns in lanes ---- */

static void program_sample(const emu_program *program, const array *from, const array *to)
{
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        const bool normalises = group->num_ops == 1 && group->ops[0] == OP_SUB_MUL;
        if (group->num_ops == 0) {
            for (int32_t c = 0; c < group->num_columns; c++)
                set_number(to, 0, group->target[c], number_at(from, 0, group->source[c]));
            continue;
        }
        for (int32_t c = 0; c < group->num_columns; c += VD) {
            const int32_t left = group->num_columns - c;
            vd v;
            if (group->source_adjacent && from->column == 1 && left >= VD)
                v = load_vd(from->data, from->single, group->source[c]);
            else if (from->single)
                v = vd_gather_float(from->data, group->source + c, from->column);
            else
                v = vd_gather(from->data, group->source + c, from->column);
            if (normalises)
                v = vd_mul(vd_sub(v, vd_load(group->constants + c)), vd_load(group->constants + group->padded + c));
            else
                apply_operations(group, c, true, &v, 1);
            if (group->adjacent && to->column == 1 && left >= VD) {
                store_vd(to->data, to->single, group->target[c], v);
                continue;
            }
            double result[VD];
            vd_store(result, v);
            for (int i = 0; i < VD && i < left; i++)
                set_number(to, 0, group->target[c + i], result[i]);
        }
    }
}

/* NODE_NORM. Columns beyond the last add 0, which changes no sum. */
COLD void norm_sample(const emu_node *node, const array *row)
{
    const array from = at(row, 0, node->from), to = at(row, 0, node->to);
    const int64_t n = node->num_columns;
    double mean = 0.0, scale = 0.0;
    for (int pass = 0; pass < 2; pass++) {
        double s[8] ALIGNED;
        vd sum[8 / VD];
        for (int v = 0; v < 8 / VD; v++)
            sum[v] = vd_set(0.0);
        for (int64_t j = 0; j < n; j += 8) {
            double d[8] ALIGNED;
            for (int q = 0; q < 8; q++)
                d[q] = j + q < n ? number_at(&from, 0, j + q) - mean : 0.0;
            for (int v = 0; v < 8 / VD; v++) {
                const vd t = vd_load(d + v * VD);
                sum[v] = pass == 0 ? vd_add(sum[v], t) : vd_fma(t, t, sum[v]);
            }
        }
        for (int v = 0; v < 8 / VD; v++)
            vd_store(s + v * VD, sum[v]);
        for (int h = 4; h >= 1; h /= 2)
            for (int q = 0; q < h; q++)
                s[q] += s[q + h];
        if (pass == 0)
            mean = s[0] / (double)n;
        else
            scale = 1.0 / sqrt(s[0] / (double)n + node->epsilon);
    }
    for (int64_t j = 0; j < n; j++)
        set_number(&to, 0, j, (number_at(&from, 0, j) - mean) * scale);
}
#endif
