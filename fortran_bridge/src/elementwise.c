/* Elementwise operators: steps of a column where an operand is constant, a node of the draft where both are results. */
#include <math.h>
#include <string.h>

#include "columns.h"

/* ---- one operand ---- */

/* The stages with a parameter of the column's own as `a` of the first; parameters NULL: none */
bool emu_map_columns(emu_draft *draft, emu_value *input, const emu_stage *stages, int count, emu_value *parameters,
                     emu_value *result)
{
    if (!emu_as_columns(draft, input) || (parameters != NULL && !emu_as_columns(draft, parameters)))
        return false;
    if (parameters != NULL && (parameters->is_rows || parameters->rank > input->rank ||
                               (parameters->n != 1 && parameters->n != input->n)))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its parameters must be a constant row of %lld values",
                               (long long)input->n);
    if (!emu_start_result(draft, result, input->n, input))
        return false;
    const bool is_f32 = emu_is_f32(input);
    for (int64_t i = 0; i < input->n; i++) {
        result->columns[i] = input->columns[i];
        for (int s = 0; s < count; s++) {
            const double a = parameters != NULL && s == 0 ? emu_column_of(parameters, i)->value : stages[s].a;
            if (!emu_push(draft, &result->columns[i], stages[s].op, a, stages[s].b, is_f32))
                return false;
        }
    }
    return true;
}

bool emu_map(emu_draft *draft, emu_value *input, const emu_stage *stages, int count, emu_value *result)
{
    return emu_map_columns(draft, input, stages, count, NULL, result);
}

bool emu_cast(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0], *result = results[0];
    onnx_attribute to;
    if (!emu_attribute(draft, "to", &to))
        return false;
    const bool to_real = to.integer == ONNX_FLOAT || to.integer == ONNX_DOUBLE;
    const bool to_integer = to.integer == ONNX_INT32 || to.integer == ONNX_INT64;
    if (to.kind != ONNX_INT || !(to_real || (to_integer && !input->is_rows)))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "casts to data type %lld; float (1) and double (11) are possible",
                               (long long)to.integer);
    if (!emu_as_columns(draft, input))
        return false;
    if (to.integer == ONNX_FLOAT && input->type == ONNX_DOUBLE) {
        if (!emu_map(draft, input, &(emu_stage){OP_ROUND_F32, 0.0, 0.0}, 1, result))
            return false;
    } else {
        if (!emu_start_result(draft, result, input->n, input))
            return false;
        for (int64_t i = 0; i < input->n; i++) {
            result->columns[i] = input->columns[i];
            if (to_integer)
                result->columns[i].value = trunc(input->columns[i].value);
        }
    }
    result->type = (int32_t)to.integer;
    return true;
}

/* ---- two operands ---- */

/* column := column (op) c */
static bool push_right(emu_draft *draft, emu_column *column, emu_binary_kind kind, double c, bool is_f32)
{
    switch (kind) {
    case ADD: return emu_push(draft, column, OP_ADD, c, 0.0, is_f32);
    case SUB: return emu_push(draft, column, OP_ADD, -c, 0.0, is_f32);
    case MUL:
    case DIV: {
        if (kind == DIV && !(isnormal(c) && isnormal(1.0 / c)))
            return emu_push(draft, column, OP_DIV, c, 0.0, is_f32);
        const double factor = kind == MUL ? c : 1.0 / c;
        return factor == 1.0 || emu_push_scale(draft, column, factor, is_f32);
    }
    case MIN: return c == (double)INFINITY || emu_push(draft, column, OP_AT_MOST, c, 0.0, is_f32);
    case MAX: return c == -(double)INFINITY || emu_push(draft, column, OP_AT_LEAST, c, 0.0, is_f32);
    case POW:
        if (c == 1.0)
            return true;
        if (c == 2.0 || c == -2.0) {
            if (!emu_push(draft, column, OP_SQUARE, 0.0, 0.0, is_f32))
                return false;
        } else if (c == 3.0) {
            return emu_push(draft, column, OP_CUBE, 0.0, 0.0, is_f32);
        } else if (c == 4.0) {
            return emu_push(draft, column, OP_SQUARE, 0.0, 0.0, is_f32) &&
                   emu_push(draft, column, OP_SQUARE, 0.0, 0.0, is_f32);
        } else if (c == 0.5 || c == -0.5) {
            if (!emu_push(draft, column, OP_SQRT, 0.0, 0.0, is_f32))
                return false;
        } else if (c != -1.0) {
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                                   "raises to the power %g; 4, 3, 2, 1, 0.5 and -0.5, -1, -2 are possible", c);
        }
        return c > 0.0 || emu_push(draft, column, OP_RDIV, 1.0, 0.0, is_f32);
    }
    return false;
}

/* column := c (op) column */
static bool push_left(emu_draft *draft, emu_column *column, emu_binary_kind kind, double c, bool is_f32)
{
    switch (kind) {
    case SUB: return emu_push(draft, column, OP_RSUB, c, 0.0, is_f32);
    case DIV: return emu_push(draft, column, OP_RDIV, c, 0.0, is_f32);
    case POW:
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "raises a constant to a power; write it with Mul and Exp");
    default: return push_right(draft, column, kind, c, is_f32);
    }
}

/* Whole numbers: sizes and indices that the graph computes. NaN, the number of samples, stays NaN. */
static bool whole_numbers(emu_draft *draft, emu_binary_kind kind, double a, double b, double *result)
{
    *result = (double)NAN;
    if (isnan(a) || isnan(b))
        return true;
    switch (kind) {
    case ADD: *result = a + b; return true;
    case SUB: *result = a - b; return true;
    case MUL: *result = a * b; return true;
    case MIN: *result = a < b ? a : b; return true;
    case MAX: *result = a > b ? a : b; return true;
    case DIV:
        if (b == 0.0)
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "divides a whole number by 0");
        *result = trunc(a / b);
        return true;
    default: return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "works on whole numbers");
    }
}

/* The columns that are no steps of one operand become a node */
static bool combine(emu_draft *draft, emu_binary_kind kind, emu_value *a, emu_value *b, const bool *pending,
                    int64_t count, emu_value *result)
{
    static const emu_combine kinds[] = {
        [ADD] = COMBINE_ADD, [SUB] = COMBINE_SUB, [MUL] = COMBINE_MUL, [DIV] = COMBINE_DIV};
    if (kind > DIV)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "combines two results; only Add, Sub, Mul and Div can, one operand must be a constant");
    emu_value *operands[2] = {a, b};
    for (int k = 0; k < 2; k++) {
        const emu_value *from = operands[k];
        if (count == result->n && from->n == result->n && from->is_rows)
            continue; /* as it is */
        operands[k] = emu_new_value(draft, count, result);
        if (operands[k] == NULL)
            return false;
        int64_t to = 0;
        for (int64_t i = 0; i < result->n; i++)
            if (pending[i])
                operands[k]->columns[to++] = *emu_column_of(from, i);
    }
    emu_draft_node *node = emu_new_node(draft, NODE_COMBINE, count);
    if (node == NULL)
        return false;
    node->combine = kinds[kind];
    node->inputs[0] = operands[0];
    node->inputs[1] = operands[1];
    int32_t index = 0;
    for (int64_t i = 0; i < result->n; i++)
        if (pending[i])
            result->columns[i] = (emu_column){.slot = draft->num_nodes - 1, .index = index++};
    return true;
}

/* Width of the result; 0 with a message if the operands do not fit. *rows: the one that gives the other dimensions */
static int64_t broadcast(emu_draft *draft, const emu_value *a, const emu_value *b, const emu_value **rows)
{
    const emu_value *wide = a->is_rows == b->is_rows ? (a->rank >= b->rank ? a : b) : a->is_rows ? a : b;
    const emu_value *other = wide == a ? b : a;
    const int64_t n = a->n > b->n ? a->n : b->n;
    *rows = wide;
    /* dimensions are matched from the last on: that of the samples must stay the first, and with itself */
    const bool fits = other->is_rows ? other->rank == wide->rank : other->rank <= wide->rank;
    const bool samples_last = wide->is_rows && wide->rank == 1; /* [ncol] */
    if ((a->n != n && a->n != 1) || (b->n != n && b->n != 1) || (samples_last && n != 1)) {
        emu_refuse_node(draft, EMU_ERR_FORMAT, "its operands have %lld and %lld columns", (long long)a->n,
                        (long long)b->n);
        return 0;
    }
    if (wide->is_rows && !fits) {
        emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its operands have %d and %d dimensions", a->rank, b->rank);
        return 0;
    }
    return n;
}

bool emu_binary(emu_draft *draft, emu_value *a, emu_value *b, emu_binary_kind kind, emu_value *result)
{
    const emu_value *rows;
    if (!emu_as_columns(draft, a) || !emu_as_columns(draft, b))
        return false;
    const int64_t n = broadcast(draft, a, b, &rows);
    if (n == 0 || !emu_start_result(draft, result, n, rows))
        return false;
    const bool is_f32 = emu_is_f32(result);
    const bool whole = !result->is_rows && result->type != ONNX_FLOAT && result->type != ONNX_DOUBLE;
    bool *pending = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *pending);
    if (pending == NULL)
        return emu_draft_memory(draft);
    int64_t num_pending = 0;
    for (int64_t i = 0; i < n; i++) {
        const emu_column *p = emu_column_of(a, i), *q = emu_column_of(b, i);
        emu_column *out = &result->columns[i];
        bool good = true, known = true;
        if (whole) {
            out->slot = SLOT_CONSTANT;
            good = whole_numbers(draft, kind, p->value, q->value, &out->value);
        } else if (q->slot == SLOT_CONSTANT) {
            *out = *p;
            good = push_right(draft, out, kind, q->value, is_f32);
        } else if (p->slot == SLOT_CONSTANT) {
            *out = *q;
            good = push_left(draft, out, kind, p->value, is_f32);
        } else {
            good = emu_join_columns(draft, kind, p, q, is_f32, out, &known);
        }
        if (!good)
            return false;
        pending[i] = !known;
        num_pending += !known;
    }
    return num_pending == 0 || combine(draft, kind, a, b, pending, num_pending, result);
}

/* Clip: limits as inputs (operator set 11 and later) or as attributes */
bool emu_clip(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    static const char *const names[2] = {"min", "max"};
    double limits[2] = {-(double)INFINITY, (double)INFINITY};
    for (int i = 0; i < 2; i++) {
        emu_value *limit = inputs[i + 1];
        if (!emu_attribute_real(draft, names[i], &limits[i]))
            return false;
        if (limit == NULL)
            continue;
        if (!emu_as_columns(draft, limit))
            return false;
        if (limit->n != 1 || limit->columns[0].slot != SLOT_CONSTANT)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its %s is not one constant", names[i]);
        limits[i] = limit->columns[0].value;
    }
    emu_value *input = inputs[0], *result = results[0];
    if (!emu_as_columns(draft, input) || !emu_start_result(draft, result, input->n, input))
        return false;
    for (int64_t i = 0; i < input->n; i++) {
        result->columns[i] = input->columns[i];
        if (!push_right(draft, &result->columns[i], MAX, limits[0], emu_is_f32(input)) ||
            !push_right(draft, &result->columns[i], MIN, limits[1], emu_is_f32(input)))
            return false;
    }
    return true;
}

/* ---- Less, Greater, Where ---- */

static bool compare(emu_draft *draft, emu_value *a, emu_value *b, bool less, emu_value *result)
{
    const emu_value *rows;
    if (!emu_as_columns(draft, a) || !emu_as_columns(draft, b))
        return false;
    if (!a->is_rows) { /* c < x is x > c */
        emu_value *swap = a;
        a = b;
        b = swap;
        less = !less;
    }
    if (!a->is_rows || b->is_rows)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "must compare a result with a constant");
    const int64_t n = broadcast(draft, a, b, &rows);
    if (n == 0)
        return false;
    emu_column *counted = emu_new_columns(draft, n); /* keeps the tally of columns; thresholds lie beside them */
    emu_comparison *comparisons = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *comparisons);
    if (counted == NULL)
        return false;
    if (comparisons == NULL)
        return emu_draft_memory(draft);
    for (int64_t i = 0; i < n; i++)
        comparisons[i] = (emu_comparison){*emu_column_of(a, i), emu_column_of(b, i)->value};
    result->comparisons = comparisons;
    result->less = less;
    result->n = n;
    result->is_rows = true;
    result->rank = a->rank;
    return true;
}

bool emu_less(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    return compare(draft, inputs[0], inputs[1], true, results[0]);
}

bool emu_greater(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    return compare(draft, inputs[0], inputs[1], false, results[0]);
}

/* Where(x < c, c, x): a limit that lets NaN pass. PyTorch writes Softplus with a choice that makes no difference. */
static bool limit_column(emu_draft *draft, const emu_comparison *comparison, bool less, const emu_column *yes,
                         const emu_column *no, bool is_f32, emu_column *out)
{
    const double c = comparison->threshold;
    if (comparison->column.slot == SLOT_CONSTANT) { /* both known now */
        const double value = comparison->column.value;
        *out = (less ? isless(value, c) : isgreater(value, c)) ? *yes : *no;
        return true;
    }
    *out = *no;
    if (c == (less ? -(double)INFINITY : (double)INFINITY))
        return true;
    if (!less && emu_choose_softplus(comparison, yes, no))
        return true;
    if (yes->slot != SLOT_CONSTANT || yes->value != c || !emu_same_column(no, &comparison->column))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "chooses by the data in another way than a limit, Where(x < c, c, x) or "
                               "Where(x > c, c, x) with constant c");
    return emu_push(draft, out, less ? OP_AT_LEAST : OP_AT_MOST, c, 0.0, is_f32);
}

bool emu_where(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *condition = inputs[0], *yes = inputs[1], *no = inputs[2], *result = results[0];
    if (!emu_as_columns(draft, yes) || !emu_as_columns(draft, no))
        return false;
    if (condition->comparisons == NULL && !emu_as_columns(draft, condition))
        return false;
    if (condition->comparisons == NULL && condition->is_rows)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its condition is neither constant nor a comparison");
    const emu_value *rows = yes->is_rows ? yes : no->is_rows ? no : condition;
    const emu_value *kind = yes->is_rows ? yes : no;
    int64_t n = condition->n;
    if (n == 1)
        n = yes->n > no->n ? yes->n : no->n;
    bool fits = (condition->n == 1 || condition->n == n) && (yes->n == 1 || yes->n == n) && (no->n == 1 || no->n == n);
    const emu_value *const all[3] = {condition, yes, no};
    for (int i = 0; i < 3; i++)
        fits = fits && (all[i]->is_rows && rows->is_rows ? all[i]->rank == rows->rank
                                                          : all[i]->rank <= rows->rank || !rows->is_rows);
    if (!fits || (rows->is_rows && rows->rank == 1 && n != 1))
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "its operands have %lld, %lld and %lld columns",
                               (long long)condition->n, (long long)yes->n, (long long)no->n);
    if (!emu_start_result(draft, result, n, rows))
        return false;
    result->type = kind->type;
    for (int64_t i = 0; i < n; i++) {
        const emu_column *p = emu_column_of(yes, i), *q = emu_column_of(no, i);
        if (condition->comparisons == NULL) {
            result->columns[i] = emu_column_of(condition, i)->value != 0.0 ? *p : *q;
        } else {
            const emu_comparison *comparison = &condition->comparisons[condition->n == 1 ? 0 : i];
            if (!limit_column(draft, comparison, condition->less, p, q, emu_is_f32(kind), &result->columns[i]))
                return false;
        }
    }
    return true;
}
