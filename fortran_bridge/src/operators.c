/* The ONNX operators that libemulator evaluates, each as an operation on columns (columns.h). */
#include <math.h>
#include <string.h>

#include "columns.h"

#define SUPPORTED                                                                                            \
    "Gemm, MatMul, Add, Sub, Mul, Div, Neg, Abs, Reciprocal, Sqrt, Pow (by 2, 1 or 0.5), Exp, Log, Min, Max, Clip, " \
    "Relu, Sigmoid, Tanh, Where, Less, Greater, Cast, Identity, Constant"

static bool start_result(emu_draft *draft, emu_value *result, int64_t n, int layer, bool is_f32)
{
    result->columns = emu_new_columns(draft, n);
    result->n = n;
    result->layer = layer;
    result->is_f32 = is_f32;
    return result->columns != NULL;
}

/* Width of the result of broadcasting a against b; 0 with a message if they do not fit. */
static int64_t broadcast(emu_draft *draft, const emu_value *a, const emu_value *b)
{
    const bool row = b->layer != LAYER_NONE || a->layer != LAYER_NONE;
    if (a->n == b->n)
        return a->n;
    /* a constant may be repeated over columns; a single column of the batch over a row of constants may not */
    if (a->n == 1 && (a->layer == LAYER_NONE || !row))
        return b->n;
    if (b->n == 1 && (b->layer == LAYER_NONE || !row))
        return a->n;
    emu_refuse_node(draft, EMU_ERR_FORMAT, "its operands have %lld and %lld columns", (long long)a->n,
                    (long long)b->n);
    return 0;
}

static const emu_column *column_of(const emu_value *value, int64_t i)
{
    return &value->columns[value->n == 1 ? 0 : i];
}

/* ---- unary ---- */

static bool unary(emu_draft *draft, emu_value *input, emu_op op, double a, double b, emu_value *result)
{
    if (!emu_as_columns(draft, input) || !start_result(draft, result, input->n, input->layer, input->is_f32))
        return false;
    for (int64_t i = 0; i < input->n; i++) {
        result->columns[i] = input->columns[i];
        if (!emu_push(draft, &result->columns[i], op, a, b, input->is_f32))
            return false;
    }
    return true;
}

static bool identity(emu_draft *draft, emu_value *input, emu_value *result)
{
    if (input->tensor != NULL) {
        result->tensor = input->tensor;
        return true;
    }
    if (!emu_as_columns(draft, input) || !start_result(draft, result, input->n, input->layer, input->is_f32))
        return false;
    memcpy(result->columns, input->columns, (size_t)input->n * sizeof *input->columns);
    return true;
}

static bool cast(emu_draft *draft, emu_value *input, emu_value *result)
{
    onnx_attribute to;
    if (!emu_onnx_find_attribute(draft->node, "to", &to, draft->scratch, draft->error))
        return false;
    if (to.kind != ONNX_INT || (to.integer != ONNX_FLOAT && to.integer != ONNX_DOUBLE))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "casts to data type %lld; float (1) and double (11) are possible",
                               (long long)to.integer);
    const bool to_f32 = to.integer == ONNX_FLOAT;
    if (!emu_as_columns(draft, input))
        return false;
    if (to_f32 && !input->is_f32) {
        if (!unary(draft, input, OP_ROUND_F32, 0.0, 0.0, result))
            return false;
    } else if (!start_result(draft, result, input->n, input->layer, input->is_f32)) {
        return false;
    } else {
        memcpy(result->columns, input->columns, (size_t)input->n * sizeof *input->columns);
    }
    result->is_f32 = to_f32;
    return true;
}

/* ---- binary with a constant ---- */

typedef enum { ADD, SUB, MUL, DIV, MIN, MAX, POW } binary_kind;

/* column := column (op) c */
static bool push_right(emu_draft *draft, emu_column *column, binary_kind kind, double c, bool is_f32)
{
    switch (kind) {
    case ADD: return emu_push(draft, column, OP_ADD, c, 0.0, is_f32);
    case SUB: return emu_push(draft, column, OP_ADD, -c, 0.0, is_f32);
    case MUL: return c == 1.0 || emu_push(draft, column, OP_MUL, c, 0.0, is_f32);
    case DIV:
        if (isnormal(c) && isnormal(1.0 / c))
            return c == 1.0 || emu_push(draft, column, OP_MUL, 1.0 / c, 0.0, is_f32);
        return emu_push(draft, column, OP_DIV, c, 0.0, is_f32);
    case MIN: return c == (double)INFINITY || emu_push(draft, column, OP_AT_MOST, c, 0.0, is_f32);
    case MAX: return c == -(double)INFINITY || emu_push(draft, column, OP_AT_LEAST, c, 0.0, is_f32);
    case POW:
        if (c == 1.0)
            return true;
        if (c == 2.0 || c == 0.5)
            return emu_push(draft, column, c == 2.0 ? OP_SQUARE : OP_SQRT, 0.0, 0.0, is_f32);
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "raises to the power %g; 2, 1 and 0.5 are possible", c);
    }
    return false;
}

/* column := c (op) column */
static bool push_left(emu_draft *draft, emu_column *column, binary_kind kind, double c, bool is_f32)
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

static bool binary(emu_draft *draft, emu_value *a, emu_value *b, binary_kind kind, emu_value *result)
{
    if (!emu_as_columns(draft, a) || !emu_as_columns(draft, b))
        return false;
    const int64_t n = broadcast(draft, a, b);
    const bool a_is_row = a->layer != LAYER_NONE;
    if (n == 0 || !start_result(draft, result, n, a_is_row ? a->layer : b->layer, a_is_row ? a->is_f32 : b->is_f32))
        return false;
    for (int64_t i = 0; i < n; i++) {
        const emu_column *p = column_of(a, i), *q = column_of(b, i);
        emu_column *out = &result->columns[i];
        bool good;
        if (q->source < 0) {
            *out = *p;
            good = push_right(draft, out, kind, q->value, result->is_f32);
        } else if (p->source < 0) {
            *out = *q;
            good = push_left(draft, out, kind, p->value, result->is_f32);
        } else if (kind == MUL && emu_same_column(p, q)) {
            *out = *p;
            good = emu_push(draft, out, OP_SQUARE, 0.0, 0.0, result->is_f32);
        } else {
            good = emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                                   "combines two results; one operand must be a constant (a plain chain of layers, "
                                   "without skip connections)");
        }
        if (!good)
            return false;
    }
    return true;
}

/* Min and Max take any number of operands; more than two are folded from the left. */
static bool extremum(emu_draft *draft, emu_value *const *inputs, binary_kind kind, emu_value *result)
{
    if (draft->node->num_inputs == 1)
        return identity(draft, inputs[0], result);
    if (draft->node->num_inputs != 2)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "has %d operands; 2 are possible",
                               draft->node->num_inputs);
    return binary(draft, inputs[0], inputs[1], kind, result);
}

/* Clip: limits as inputs (operator set 11 and later) or as attributes */
static bool clip(emu_draft *draft, emu_value *const *inputs, emu_value *result)
{
    static const char *const names[2] = {"min", "max"};
    double limits[2] = {-(double)INFINITY, (double)INFINITY};
    for (int i = 0; i < 2; i++) {
        onnx_attribute attribute;
        if (!emu_onnx_find_attribute(draft->node, names[i], &attribute, draft->scratch, draft->error))
            return false;
        emu_value *limit = inputs[i + 1];
        if (attribute.kind == ONNX_REAL) {
            limits[i] = attribute.real;
        } else if (limit != NULL) {
            if (!emu_as_columns(draft, limit))
                return false;
            if (limit->n != 1 || limit->columns[0].source >= 0)
                return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its %s is not one constant", names[i]);
            limits[i] = limit->columns[0].value;
        }
    }
    emu_value *input = inputs[0];
    if (!emu_as_columns(draft, input) || !start_result(draft, result, input->n, input->layer, input->is_f32))
        return false;
    for (int64_t i = 0; i < input->n; i++) {
        result->columns[i] = input->columns[i];
        if (!push_right(draft, &result->columns[i], MAX, limits[0], input->is_f32) ||
            !push_right(draft, &result->columns[i], MIN, limits[1], input->is_f32))
            return false;
    }
    return true;
}

/* ---- Less, Greater, Where ---- */

static bool compare(emu_draft *draft, emu_value *a, emu_value *b, bool less, emu_value *result)
{
    if (!emu_as_columns(draft, a) || !emu_as_columns(draft, b))
        return false;
    if (a->layer == LAYER_NONE) { /* c < x is x > c */
        emu_value *swap = a;
        a = b;
        b = swap;
        less = !less;
    }
    if (a->layer == LAYER_NONE || b->layer != LAYER_NONE)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "must compare a result with a constant");
    const int64_t n = broadcast(draft, a, b);
    if (n == 0)
        return false;
    emu_column *counted = emu_new_columns(draft, n); /* keeps the tally of columns; thresholds lie beside them */
    emu_comparison *comparisons = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *comparisons);
    if (counted == NULL)
        return false;
    if (comparisons == NULL)
        return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while reading the graph");
    for (int64_t i = 0; i < n; i++)
        comparisons[i] = (emu_comparison){a->columns[i], column_of(b, i)->value};
    result->comparisons = comparisons;
    result->less = less;
    result->n = n;
    result->layer = a->layer;
    return true;
}

/* Where(x < c, c, x): a limit that lets NaN pass */
static bool limit_column(emu_draft *draft, const emu_comparison *comparison, bool less, const emu_column *yes,
                         const emu_column *no, bool is_f32, emu_column *out)
{
    const double c = comparison->threshold;
    if (comparison->column.source < 0) { /* both known now */
        const double value = comparison->column.value;
        *out = (less ? isless(value, c) : isgreater(value, c)) ? *yes : *no;
        return true;
    }
    *out = *no;
    if (c == (less ? -(double)INFINITY : (double)INFINITY))
        return true;
    if (yes->source >= 0 || yes->value != c || !emu_same_column(no, &comparison->column))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "chooses by the data in another way than a limit, Where(x < c, c, x) or "
                               "Where(x > c, c, x) with constant c");
    return emu_push(draft, out, less ? OP_AT_LEAST : OP_AT_MOST, c, 0.0, is_f32);
}

static bool where(emu_draft *draft, emu_value *condition, emu_value *yes, emu_value *no, emu_value *result)
{
    if (!emu_as_columns(draft, yes) || !emu_as_columns(draft, no))
        return false;
    if (condition->comparisons == NULL && !emu_as_columns(draft, condition))
        return false;
    if (condition->comparisons == NULL && condition->layer != LAYER_NONE)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its condition is neither constant nor a comparison");
    int64_t n = condition->n;
    const emu_value *rows = yes->layer != LAYER_NONE ? yes : no;
    if (n == 1)
        n = yes->n > no->n ? yes->n : no->n;
    if ((yes->n != 1 && yes->n != n) || (no->n != 1 && no->n != n) || (rows->layer != LAYER_NONE && rows->n != n))
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "its operands have %lld, %lld and %lld columns",
                               (long long)condition->n, (long long)yes->n, (long long)no->n);
    if (yes->layer != LAYER_NONE && no->layer != LAYER_NONE && yes->layer != no->layer)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "mixes the results of different layers");
    if (!start_result(draft, result, n, rows->layer, rows->is_f32))
        return false;
    for (int64_t i = 0; i < n; i++) {
        const emu_column *p = column_of(yes, i), *q = column_of(no, i);
        if (condition->comparisons == NULL) {
            result->columns[i] = column_of(condition, i)->value != 0.0 ? *p : *q;
        } else {
            const emu_comparison *comparison = &condition->comparisons[condition->n == 1 ? 0 : i];
            if (!limit_column(draft, comparison, condition->less, p, q, rows->is_f32, &result->columns[i]))
                return false;
        }
    }
    return true;
}

/* ---- layers ---- */

static bool check_bias(emu_draft *draft, const emu_value *bias, int64_t width)
{
    const onnx_tensor *t = bias->tensor;
    emu_shown shown;
    bool good = t != NULL && t->type == ONNX_FLOAT && t->data != NULL && (t->count == 1 || t->count == (size_t)width);
    for (int d = 0; good && d + 1 < t->rank; d++)
        good = t->dims[d] == 1;
    return good || emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                                   "bias '%s' must be a float32 constant of %lld values", emu_show(&shown, bias->name),
                                   (long long)width);
}

static bool new_layer(emu_draft *draft, emu_value *input, const emu_value *weights, bool transposed,
                      const emu_value *bias, emu_value *result)
{
    emu_shown shown;
    const onnx_tensor *w = weights->tensor;
    if (!emu_as_columns(draft, input))
        return false;
    if (w == NULL || w->rank != 2)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "weights '%s' must be a constant with two dimensions",
                               emu_show(&shown, weights->name));
    if (w->type != ONNX_FLOAT || w->data == NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "weights '%s' have data type %d; layers are evaluated in float32 (1): cast them before "
                               "exporting",
                               emu_show(&shown, weights->name), (int)w->type);
    const int64_t rows = w->dims[transposed ? 1 : 0], width = w->dims[transposed ? 0 : 1];
    if (rows != input->n)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "weights '%s' take %lld inputs, but %lld columns arrive",
                               emu_show(&shown, weights->name), (long long)rows, (long long)input->n);
    if (input->layer != draft->num_layers - 1)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "reads another tensor than the result of the layer before it; only a plain chain of "
                               "layers is possible (no branches, no skip connections)");
    if (draft->num_layers == MAX_LAYERS)
        return emu_refuse_node(draft, EMU_ERR_LIMIT, "the model has more than %d layers", MAX_LAYERS);
    if (bias != NULL && !check_bias(draft, bias, width))
        return false;
    if (!start_result(draft, result, width, draft->num_layers, true) || !emu_settle_activation(draft, input))
        return false;
    draft->layers[draft->num_layers++] = (emu_draft_layer){.num_inputs = (int32_t)rows,
                                                           .num_outputs = (int32_t)width,
                                                           .weights = w,
                                                           .transposed = transposed,
                                                           .bias = bias != NULL ? bias->tensor : NULL,
                                                           .input = input};
    for (int64_t i = 0; i < width; i++)
        result->columns[i] = (emu_column){.source = (int32_t)i};
    return true;
}

static bool gemm(emu_draft *draft, emu_value *const *inputs, emu_value *result)
{
    onnx_attribute alpha, beta, trans_a, trans_b;
    if (!emu_onnx_find_attribute(draft->node, "alpha", &alpha, draft->scratch, draft->error) ||
        !emu_onnx_find_attribute(draft->node, "beta", &beta, draft->scratch, draft->error) ||
        !emu_onnx_find_attribute(draft->node, "transA", &trans_a, draft->scratch, draft->error) ||
        !emu_onnx_find_attribute(draft->node, "transB", &trans_b, draft->scratch, draft->error))
        return false;
    if ((alpha.kind != ONNX_ABSENT && alpha.real != 1.0) ||
        (beta.kind != ONNX_ABSENT && beta.real != 1.0 && inputs[2] != NULL))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "scales by alpha or beta other than 1; multiply the weights by it before exporting");
    if (trans_a.kind != ONNX_ABSENT && trans_a.integer != 0)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "transposes its data (transA)");
    return new_layer(draft, inputs[0], inputs[1], trans_b.kind != ONNX_ABSENT && trans_b.integer != 0, inputs[2],
                     result);
}

/* MatMul, then Add of a constant: the bias of that layer, provided nobody has used the product without it.
 * The product itself may not be used after that. */
static bool is_pending_product(const emu_draft *draft, const emu_value *value)
{
    return value->is_product && value->uses == 1 && value->layer == draft->num_layers - 1;
}

static bool add(emu_draft *draft, emu_value *a, emu_value *b, emu_value *result)
{
    emu_value *product = is_pending_product(draft, a) ? a : is_pending_product(draft, b) ? b : NULL;
    emu_value *bias = product == a ? b : a;
    if (product == NULL || bias->tensor == NULL || bias->tensor->type != ONNX_FLOAT ||
        (bias->tensor->count != 1 && bias->tensor->count != (size_t)product->n))
        return binary(draft, a, b, ADD, result);
    if (!check_bias(draft, bias, product->n))
        return false;
    draft->layers[product->layer].bias = bias->tensor;
    product->superseded = true;
    return identity(draft, product, result);
}

/* ---- dispatch ---- */

static bool constant(emu_draft *draft, emu_value *result)
{
    static const char *const names[] = {"value", "value_float", "value_floats", "value_int"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        onnx_attribute value;
        if (!emu_onnx_find_attribute(draft->node, names[i], &value, draft->scratch, draft->error))
            return false;
        if (value.kind == ONNX_TENSOR || value.kind == ONNX_REALS) {
            onnx_tensor *tensor = emu_arena_alloc(draft->scratch, 1, sizeof *tensor);
            if (tensor == NULL)
                return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while reading the graph");
            *tensor = value.tensor;
            result->tensor = tensor;
            return true;
        }
        if (value.kind == ONNX_REAL || value.kind == ONNX_INT) {
            if (!start_result(draft, result, 1, LAYER_NONE, value.kind == ONNX_REAL))
                return false;
            result->columns[0] =
                (emu_column){.source = -1, .value = value.kind == ONNX_REAL ? value.real : (double)value.integer};
            return true;
        }
    }
    return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "holds no numbers");
}

typedef struct {
    const char *name;
    int least, most; /* inputs that must be given; inputs possible */
} operator_arity;

static const operator_arity arities[] = {
    {"Constant", 0, 0}, {"Identity", 1, 1}, {"Cast", 1, 1},    {"Relu", 1, 1},  {"Sigmoid", 1, 1},
    {"Tanh", 1, 1},     {"Exp", 1, 1},      {"Log", 1, 1},     {"Sqrt", 1, 1},  {"Abs", 1, 1},
    {"Neg", 1, 1},      {"Add", 2, 2},      {"Sub", 2, 2},     {"Mul", 2, 2},   {"Div", 2, 2},
    {"Pow", 2, 2},      {"Less", 2, 2},     {"Greater", 2, 2}, {"Where", 3, 3}, {"Reciprocal", 1, 1},
    {"MatMul", 2, 2},   {"Gemm", 2, 3},     {"Clip", 1, 3},    {"Min", 1, ONNX_MAX_NODE_INPUTS},
    {"Max", 1, ONNX_MAX_NODE_INPUTS},
};

bool emu_evaluate_node(emu_draft *draft, emu_value *const *inputs, emu_value *result)
{
    const onnx_node *node = draft->node;
    const operator_arity *arity = NULL;
    const bool default_domain = node->domain.size == 0 || emu_text_is(node->domain, "ai.onnx");
    for (size_t i = 0; default_domain && i < sizeof arities / sizeof arities[0]; i++) {
        if (emu_text_is(node->op_type, arities[i].name))
            arity = &arities[i];
    }
    if (arity == NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "libemulator does not evaluate this operator, only " SUPPORTED
                               "; use ONNX Runtime for this model");
    bool complete = node->num_inputs <= arity->most && node->num_outputs == 1;
    for (int i = 0; i < arity->least; i++)
        complete = complete && inputs[i] != NULL;
    if (!complete)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "has %d inputs and %d outputs, expected %d to %d and 1",
                               node->num_inputs, node->num_outputs, arity->least, arity->most);
    const emu_text op = node->op_type;
    emu_value *const a = inputs[0], *const b = inputs[1];
#define IS(name) emu_text_is(op, name)
    if (IS("Constant")) return constant(draft, result);
    if (IS("Identity")) return identity(draft, a, result);
    if (IS("Cast")) return cast(draft, a, result);
    if (IS("Relu")) return unary(draft, a, OP_AT_LEAST, 0.0, 0.0, result);
    if (IS("Sigmoid")) return unary(draft, a, OP_SIGMOID, 0.0, 0.0, result);
    if (IS("Tanh")) return unary(draft, a, OP_TANH, 0.0, 0.0, result);
    if (IS("Exp")) return unary(draft, a, OP_EXP, 0.0, 0.0, result);
    if (IS("Log")) return unary(draft, a, OP_LOG, 0.0, 0.0, result);
    if (IS("Sqrt")) return unary(draft, a, OP_SQRT, 0.0, 0.0, result);
    if (IS("Abs")) return unary(draft, a, OP_ABS, 0.0, 0.0, result);
    if (IS("Neg")) return unary(draft, a, OP_NEG, 0.0, 0.0, result);
    if (IS("Reciprocal")) return unary(draft, a, OP_RDIV, 1.0, 0.0, result);
    if (IS("Add")) return add(draft, a, b, result);
    if (IS("Sub")) return binary(draft, a, b, SUB, result);
    if (IS("Mul")) return binary(draft, a, b, MUL, result);
    if (IS("Div")) return binary(draft, a, b, DIV, result);
    if (IS("Pow")) return binary(draft, a, b, POW, result);
    if (IS("Min")) return extremum(draft, inputs, MIN, result);
    if (IS("Max")) return extremum(draft, inputs, MAX, result);
    if (IS("Clip")) return clip(draft, inputs, result);
    if (IS("Less")) return compare(draft, a, b, true, result);
    if (IS("Greater")) return compare(draft, a, b, false, result);
    if (IS("Where")) return where(draft, inputs[0], inputs[1], inputs[2], result);
    if (IS("Gemm")) return gemm(draft, inputs, result);
    result->is_product = true;
    return new_layer(draft, a, b, false, NULL, result);
#undef IS
}
