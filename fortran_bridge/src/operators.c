/* The ONNX operators that libemulator evaluates, each as an operation on columns (columns.h). */
#include <math.h>
#include <string.h>

#include "columns.h"

/* ---- attributes ---- */

bool emu_attribute(emu_draft *draft, const char *name, onnx_attribute *attribute)
{
    return emu_onnx_find_attribute(draft->node, name, attribute, draft->scratch, draft->error);
}

bool emu_attribute_real(emu_draft *draft, const char *name, double *value)
{
    onnx_attribute attribute;
    if (!emu_attribute(draft, name, &attribute))
        return false;
    if (attribute.kind == ONNX_REAL)
        *value = attribute.real;
    return true;
}

bool emu_attribute_int(emu_draft *draft, const char *name, int64_t *value)
{
    onnx_attribute attribute;
    if (!emu_attribute(draft, name, &attribute))
        return false;
    if (attribute.kind == ONNX_INT)
        *value = attribute.integer;
    return true;
}

/* ---- operators that are one or a few steps ---- */

bool emu_identity(emu_draft *draft, emu_value *input, emu_value *result)
{
    result->transposed = input->transposed;
    result->stacked = result->stacked || input->stacked;
    if (input->tensor != NULL) {
        result->tensor = input->tensor;
        result->type = input->type;
        result->rank = input->rank;
        return true;
    }
    if (!emu_as_columns(draft, input) || !emu_start_result(draft, result, input->n, input))
        return false;
    memcpy(result->columns, input->columns, (size_t)input->n * sizeof *input->columns);
    return true;
}

typedef emu_value *const *values;

static bool do_identity(emu_draft *draft, values in, values out)
{
    return emu_identity(draft, in[0], out[0]);
}

static bool do_dropout(emu_draft *draft, values in, values out)
{
    if (in[2] != NULL) { /* training_mode */
        if (!emu_as_columns(draft, in[2]))
            return false;
        if (in[2]->is_rows || in[2]->n != 1 || in[2]->columns[0].value != 0.0)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "is in training mode; export the model for inference");
    }
    return emu_identity(draft, in[0], out[0]);
}

#define UNARY(name, op, a)                                                                                   \
    static bool do_##name(emu_draft *draft, values in, values out)                                           \
    {                                                                                                        \
        return emu_map(draft, in[0], &(emu_stage){op, a, 0.0}, 1, out[0]);                                   \
    }
UNARY(relu, OP_AT_LEAST, 0.0)
UNARY(sigmoid, OP_SIGMOID, 0.0)
UNARY(tanh, OP_TANH, 0.0)
UNARY(exp, OP_EXP, 0.0)
UNARY(log, OP_LOG, 0.0)
UNARY(sqrt, OP_SQRT, 0.0)
UNARY(abs, OP_ABS, 0.0)
UNARY(neg, OP_NEG, 0.0)
UNARY(reciprocal, OP_RDIV, 1.0)
UNARY(erf, OP_ERF, 0.0)
UNARY(softplus, OP_SOFTPLUS, 0.0)

#define BINARY(name, kind)                                                                                   \
    static bool do_##name(emu_draft *draft, values in, values out)                                           \
    {                                                                                                        \
        return emu_binary(draft, in[0], in[1], kind, out[0]);                                                \
    }
BINARY(sub, SUB)
BINARY(mul, MUL)
BINARY(div, DIV)
BINARY(pow, POW)

static bool do_erfc(emu_draft *draft, values in, values out)
{
    const emu_stage stages[] = {{OP_ERF, 0.0, 0.0}, {OP_RSUB, 1.0, 0.0}};
    return emu_map(draft, in[0], stages, 2, out[0]);
}

static bool do_leaky_relu(emu_draft *draft, values in, values out)
{
    double alpha = (double)0.01f;
    return emu_attribute_real(draft, "alpha", &alpha) &&
           emu_map(draft, in[0], &(emu_stage){OP_LEAKY_RELU, alpha, 0.0}, 1, out[0]);
}

static bool do_prelu(emu_draft *draft, values in, values out)
{
    return emu_map_columns(draft, in[0], &(emu_stage){OP_LEAKY_RELU, 0.0, 0.0}, 1, in[1], out[0]);
}

static bool do_elu(emu_draft *draft, values in, values out)
{
    double alpha = 1.0;
    return emu_attribute_real(draft, "alpha", &alpha) &&
           emu_map(draft, in[0], &(emu_stage){OP_ELU, alpha, 1.0}, 1, out[0]);
}

/* x < 0 ? alpha (e^(x / alpha) - 1) : x */
static bool do_celu(emu_draft *draft, values in, values out)
{
    double alpha = 1.0;
    if (!emu_attribute_real(draft, "alpha", &alpha))
        return false;
    if (!(alpha > 0.0) || !isnormal(1.0 / alpha))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "has alpha %g; it must be positive", alpha);
    const emu_stage stages[] = {{OP_MUL, 1.0 / alpha, 0.0}, {OP_ELU, alpha, alpha}};
    return alpha == 1.0 ? emu_map(draft, in[0], stages + 1, 1, out[0]) : emu_map(draft, in[0], stages, 2, out[0]);
}

static bool do_selu(emu_draft *draft, values in, values out)
{
    double alpha = (double)1.67326319217681884765625f, gamma = (double)1.05070102214813232421875f;
    return emu_attribute_real(draft, "alpha", &alpha) && emu_attribute_real(draft, "gamma", &gamma) &&
           emu_map(draft, in[0], &(emu_stage){OP_ELU, alpha * gamma, gamma}, 1, out[0]);
}

static bool do_gelu(emu_draft *draft, values in, values out)
{
    onnx_attribute approximate;
    if (!emu_attribute(draft, "approximate", &approximate))
        return false;
    const bool by_tanh = approximate.kind == ONNX_TEXT && emu_text_is(approximate.text, "tanh");
    if (approximate.kind == ONNX_TEXT && !by_tanh && !emu_text_is(approximate.text, "none"))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "is approximated in another way than by tanh");
    return emu_map(draft, in[0], &(emu_stage){by_tanh ? OP_GELU_TANH : OP_GELU, 0.0, 0.0}, 1, out[0]);
}

static bool do_swish(emu_draft *draft, values in, values out)
{
    double alpha = 1.0;
    if (!emu_attribute_real(draft, "alpha", &alpha))
        return false;
    if (!isnormal(alpha) || !isnormal(1.0 / alpha))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "has alpha %g", alpha);
    const emu_stage stages[] = {{OP_MUL, alpha, 0.0}, {OP_SILU, 0.0, 0.0}, {OP_MUL, 1.0 / alpha, 0.0}};
    return alpha == 1.0 ? emu_map(draft, in[0], stages + 1, 1, out[0]) : emu_map(draft, in[0], stages, 3, out[0]);
}

static bool do_hard_sigmoid(emu_draft *draft, values in, values out)
{
    double alpha = (double)0.2f, beta = 0.5;
    return emu_attribute_real(draft, "alpha", &alpha) && emu_attribute_real(draft, "beta", &beta) &&
           emu_map(draft, in[0], &(emu_stage){OP_HARD_SIGMOID, alpha, beta}, 1, out[0]);
}

static bool do_hard_swish(emu_draft *draft, values in, values out)
{
    return emu_map(draft, in[0], &(emu_stage){OP_HARD_SWISH, 1.0 / 6.0, 0.5}, 1, out[0]);
}

/* x * tanh(softplus(x)) */
static bool do_mish(emu_draft *draft, values in, values out)
{
    const emu_stage stages[] = {{OP_SOFTPLUS, 0.0, 0.0}, {OP_TANH, 0.0, 0.0}};
    emu_value *factor = emu_new_value(draft, 1, in[0]);
    return factor != NULL && emu_map(draft, in[0], stages, 2, factor) && emu_binary(draft, in[0], factor, MUL, out[0]);
}

/* x / (1 + |x|) */
static bool do_softsign(emu_draft *draft, values in, values out)
{
    const emu_stage stages[] = {{OP_ABS, 0.0, 0.0}, {OP_ADD, 1.0, 0.0}};
    emu_value *divisor = emu_new_value(draft, 1, in[0]);
    return divisor != NULL && emu_map(draft, in[0], stages, 2, divisor) &&
           emu_binary(draft, in[0], divisor, DIV, out[0]);
}

/* Min, Max, Sum take any number of operands: folded from the left */
static bool fold(emu_draft *draft, values in, emu_binary_kind kind, emu_value *result)
{
    const int count = draft->node->num_inputs;
    emu_value *sum = in[0];
    for (int i = 1; i < count; i++) {
        if (in[i] == NULL)
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "leaves out an input");
        emu_value *next = i == count - 1 ? result : emu_new_value(draft, 1, in[0]);
        if (next == NULL || !emu_binary(draft, sum, in[i], kind, next))
            return false;
        sum = next;
    }
    return count > 1 || emu_identity(draft, sum, result);
}

static bool do_min(emu_draft *draft, values in, values out)
{
    return fold(draft, in, MIN, out[0]);
}

static bool do_max(emu_draft *draft, values in, values out)
{
    return fold(draft, in, MAX, out[0]);
}

static bool do_sum(emu_draft *draft, values in, values out)
{
    return fold(draft, in, ADD, out[0]);
}

/* ---- dispatch ---- */

enum { ANY = ONNX_MAX_NODE_NAMES, ONE = 1 };
typedef enum { PLAIN, TAKES_TRANSPOSED } operand_kind;

typedef struct {
    const char *name;
    int least, most, outputs; /* inputs that must be given; inputs possible; outputs that may be used */
    bool (*evaluate)(emu_draft *draft, values in, values out);
    operand_kind operands;
} operator_entry;

static const operator_entry operators[] = {
    {"Constant", 0, 0, ONE, emu_constant, PLAIN},
    {"ConstantOfShape", 1, 1, ONE, emu_constant_of_shape, PLAIN},
    {"Identity", 1, 1, ONE, do_identity, TAKES_TRANSPOSED},
    {"Dropout", 1, 3, ONE, do_dropout, PLAIN},
    {"Cast", 1, 1, ONE, emu_cast, PLAIN},
    {"Shape", 1, 1, ONE, emu_shape, PLAIN},
    {"Reshape", 2, 2, ONE, emu_reshape, PLAIN},
    {"Flatten", 1, 1, ONE, emu_flatten, PLAIN},
    {"Squeeze", 1, 2, ONE, emu_squeeze, PLAIN},
    {"Unsqueeze", 1, 2, ONE, emu_unsqueeze, PLAIN},
    {"Transpose", 1, 1, ONE, emu_transpose, TAKES_TRANSPOSED},
    {"Concat", 1, ANY, ONE, emu_concat, PLAIN},
    {"Split", 1, 2, ANY, emu_split, PLAIN},
    {"Slice", 1, 5, ONE, emu_slice, PLAIN},
    {"Gather", 2, 2, ONE, emu_gather, TAKES_TRANSPOSED},
    {"GatherND", 2, 2, ONE, emu_gather_nd, TAKES_TRANSPOSED},
    {"Relu", 1, 1, ONE, do_relu, PLAIN},
    {"LeakyRelu", 1, 1, ONE, do_leaky_relu, PLAIN},
    {"PRelu", 2, 2, ONE, do_prelu, PLAIN},
    {"Elu", 1, 1, ONE, do_elu, PLAIN},
    {"Celu", 1, 1, ONE, do_celu, PLAIN},
    {"Selu", 1, 1, ONE, do_selu, PLAIN},
    {"Gelu", 1, 1, ONE, do_gelu, PLAIN},
    {"Swish", 1, 1, ONE, do_swish, PLAIN},
    {"Mish", 1, 1, ONE, do_mish, PLAIN},
    {"HardSigmoid", 1, 1, ONE, do_hard_sigmoid, PLAIN},
    {"HardSwish", 1, 1, ONE, do_hard_swish, PLAIN},
    {"Softplus", 1, 1, ONE, do_softplus, PLAIN},
    {"Softsign", 1, 1, ONE, do_softsign, PLAIN},
    {"Sigmoid", 1, 1, ONE, do_sigmoid, PLAIN},
    {"Tanh", 1, 1, ONE, do_tanh, PLAIN},
    {"Erf", 1, 1, ONE, do_erf, PLAIN},
    {"Erfc", 1, 1, ONE, do_erfc, PLAIN}, /* no operator of ONNX, but tf2onnx leaves it in for Keras' gelu */
    {"Exp", 1, 1, ONE, do_exp, PLAIN},
    {"Log", 1, 1, ONE, do_log, PLAIN},
    {"Sqrt", 1, 1, ONE, do_sqrt, PLAIN},
    {"Abs", 1, 1, ONE, do_abs, PLAIN},
    {"Neg", 1, 1, ONE, do_neg, PLAIN},
    {"Reciprocal", 1, 1, ONE, do_reciprocal, PLAIN},
    {"Add", 2, 2, ONE, emu_add, PLAIN},
    {"Sub", 2, 2, ONE, do_sub, PLAIN},
    {"Mul", 2, 2, ONE, do_mul, PLAIN},
    {"Div", 2, 2, ONE, do_div, PLAIN},
    {"Pow", 2, 2, ONE, do_pow, PLAIN},
    {"Sum", 1, ANY, ONE, do_sum, PLAIN},
    {"Min", 1, ANY, ONE, do_min, PLAIN},
    {"Max", 1, ANY, ONE, do_max, PLAIN},
    {"Clip", 1, 3, ONE, emu_clip, PLAIN},
    {"Less", 2, 2, ONE, emu_less, PLAIN},
    {"Greater", 2, 2, ONE, emu_greater, PLAIN},
    {"Where", 3, 3, ONE, emu_where, PLAIN},
    {"Gemm", 2, 3, ONE, emu_gemm, TAKES_TRANSPOSED},
    {"MatMul", 2, 2, ONE, emu_matmul, TAKES_TRANSPOSED},
    {"ReduceMean", 1, 2, ONE, emu_reduce_mean, PLAIN},
    {"BatchNormalization", 5, 5, ONE, emu_batch_normalization, PLAIN},
    {"LayerNormalization", 2, 3, ONE, emu_layer_normalization, PLAIN},
};

static const operator_entry ml_operators[] = {
    {"Scaler", 1, 1, ONE, emu_scaler, PLAIN},
    {"ArrayFeatureExtractor", 2, 2, ONE, emu_extract_features, PLAIN},
};

static const operator_entry *find_operator(const onnx_node *node)
{
    const bool ml = emu_text_is(node->domain, "ai.onnx.ml");
    const operator_entry *table = ml ? ml_operators : operators;
    const size_t count = ml ? sizeof ml_operators / sizeof *table : sizeof operators / sizeof *table;
    if (!ml && node->domain.size != 0 && !emu_text_is(node->domain, "ai.onnx"))
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (emu_text_is(node->op_type, table[i].name))
            return &table[i];
    return NULL;
}

bool emu_evaluate_node(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    const onnx_node *node = draft->node;
    const operator_entry *entry = find_operator(node);
    emu_shown shown;
    if (entry == NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "libemulator's own engine does not evaluate this operator (emu_load in libemulator.h "
                               "lists those that it does): build the network from others");
    bool complete = node->num_inputs <= entry->most;
    for (int i = 0; i < entry->least; i++)
        complete = complete && inputs[i] != NULL;
    if (!complete)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "has %d inputs, expected %d to %d", node->num_inputs,
                               entry->least, entry->most);
    for (int i = 0; i < node->num_outputs; i++) {
        if (i >= entry->outputs && results[i] != NULL && results[i]->uses > 0)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its output '%s' is used; only the first %d can be",
                                   emu_show(&shown, node->outputs[i]), entry->outputs);
    }
    if (results[0] == NULL && entry->outputs == ONE)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "has no output");
    for (int i = 0; i < node->num_inputs; i++) {
        if (inputs[i] == NULL)
            continue;
        const bool weights = i == 1 && entry->operands == TAKES_TRANSPOSED && !inputs[i]->is_rows;
        const bool mover = entry->operands == TAKES_TRANSPOSED && entry->evaluate != emu_gemm &&
                           entry->evaluate != emu_matmul;
        if (inputs[i]->stacked && entry->evaluate != do_identity)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "uses '%s', which is one column of all outputs",
                                   emu_show(&shown, inputs[i]->name));
        if (inputs[i]->transposed && !weights && !mover)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "uses the transposed tensor '%s'",
                                   emu_show(&shown, inputs[i]->name));
    }
    return entry->evaluate(draft, inputs, results) && (results[0] == NULL || emu_note_role(draft, inputs, results[0]));
}
