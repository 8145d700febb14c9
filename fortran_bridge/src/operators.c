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

static bool map(emu_draft *draft, emu_op op, double a, values in, values out)
{
    return emu_map(draft, in[0], &(emu_stage){op, a, 0.0}, 1, out[0]);
}

static bool do_erfc(emu_draft *draft, values in, values out)
{
    const emu_stage stages[] = {{OP_ERF, 0.0, 0.0}, {OP_RSUB, 1.0, 0.0}};
    return emu_map(draft, in[0], stages, 2, out[0]);
}

static bool do_leaky_relu(emu_draft *draft, values in, values out)
{
    double alpha = (double)0.01f;
    return emu_attribute_real(draft, "alpha", &alpha) && map(draft, OP_LEAKY_RELU, alpha, in, out);
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
    return map(draft, by_tanh ? OP_GELU_TANH : OP_GELU, 0.0, in, out);
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
static bool fold(emu_draft *draft, emu_binary_kind kind, values in, values out)
{
    emu_value *result = out[0];
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

/* ---- dispatch ---- */

enum { ANY = 255, ONE = 1 };
enum { PLAIN, WEIGHTS, MOVES }; /* transposed operands: none; the second, if constant; any */

/* X(operator, inputs that must be given, inputs possible, outputs that may be used, operands, evaluation). Erfc is no
 * operator of ONNX, but tf2onnx leaves it in for Keras' gelu. The last two are of the domain ai.onnx.ml. */
#define OPERATORS(X)                                                                 \
    X(Constant, 0, 0, ONE, PLAIN, emu_constant(draft, in, out))                      \
    X(ConstantOfShape, 1, 1, ONE, PLAIN, emu_constant_of_shape(draft, in, out))      \
    X(Identity, 1, 1, ONE, MOVES, emu_identity(draft, in[0], out[0]))                \
    X(Dropout, 1, 3, ONE, PLAIN, do_dropout(draft, in, out))                         \
    X(Cast, 1, 1, ONE, PLAIN, emu_cast(draft, in, out))                              \
    X(Shape, 1, 1, ONE, PLAIN, emu_shape(draft, in, out))                            \
    X(Reshape, 2, 2, ONE, PLAIN, emu_reshape(draft, in, out))                        \
    X(Flatten, 1, 1, ONE, PLAIN, emu_flatten(draft, in, out))                        \
    X(Squeeze, 1, 2, ONE, PLAIN, emu_squeeze(draft, in, out))                        \
    X(Unsqueeze, 1, 2, ONE, PLAIN, emu_unsqueeze(draft, in, out))                    \
    X(Transpose, 1, 1, ONE, MOVES, emu_transpose(draft, in, out))                    \
    X(Concat, 1, ANY, ONE, PLAIN, emu_concat(draft, in, out))                        \
    X(Split, 1, 2, ANY, PLAIN, emu_split(draft, in, out))                            \
    X(Slice, 1, 5, ONE, PLAIN, emu_slice(draft, in, out))                            \
    X(Gather, 2, 2, ONE, MOVES, emu_gather(draft, in, out))                          \
    X(GatherND, 2, 2, ONE, MOVES, emu_gather_nd(draft, in, out))                     \
    X(Relu, 1, 1, ONE, PLAIN, map(draft, OP_AT_LEAST, 0.0, in, out))                 \
    X(LeakyRelu, 1, 1, ONE, PLAIN, do_leaky_relu(draft, in, out))                    \
    X(PRelu, 2, 2, ONE, PLAIN, do_prelu(draft, in, out))                             \
    X(Elu, 1, 1, ONE, PLAIN, do_elu(draft, in, out))                                 \
    X(Celu, 1, 1, ONE, PLAIN, do_celu(draft, in, out))                               \
    X(Selu, 1, 1, ONE, PLAIN, do_selu(draft, in, out))                               \
    X(Gelu, 1, 1, ONE, PLAIN, do_gelu(draft, in, out))                               \
    X(Swish, 1, 1, ONE, PLAIN, do_swish(draft, in, out))                             \
    X(Mish, 1, 1, ONE, PLAIN, do_mish(draft, in, out))                               \
    X(HardSigmoid, 1, 1, ONE, PLAIN, do_hard_sigmoid(draft, in, out))                \
    X(HardSwish, 1, 1, ONE, PLAIN, do_hard_swish(draft, in, out))                    \
    X(Softplus, 1, 1, ONE, PLAIN, map(draft, OP_SOFTPLUS, 0.0, in, out))             \
    X(Softsign, 1, 1, ONE, PLAIN, do_softsign(draft, in, out))                       \
    X(Sigmoid, 1, 1, ONE, PLAIN, map(draft, OP_SIGMOID, 0.0, in, out))               \
    X(Tanh, 1, 1, ONE, PLAIN, map(draft, OP_TANH, 0.0, in, out))                     \
    X(Erf, 1, 1, ONE, PLAIN, map(draft, OP_ERF, 0.0, in, out))                       \
    X(Erfc, 1, 1, ONE, PLAIN, do_erfc(draft, in, out))                               \
    X(Exp, 1, 1, ONE, PLAIN, map(draft, OP_EXP, 0.0, in, out))                       \
    X(Log, 1, 1, ONE, PLAIN, map(draft, OP_LOG, 0.0, in, out))                       \
    X(Sqrt, 1, 1, ONE, PLAIN, map(draft, OP_SQRT, 0.0, in, out))                     \
    X(Abs, 1, 1, ONE, PLAIN, map(draft, OP_ABS, 0.0, in, out))                       \
    X(Neg, 1, 1, ONE, PLAIN, map(draft, OP_NEG, 0.0, in, out))                       \
    X(Reciprocal, 1, 1, ONE, PLAIN, map(draft, OP_RDIV, 1.0, in, out))               \
    X(Add, 2, 2, ONE, PLAIN, emu_add(draft, in, out))                                \
    X(Sub, 2, 2, ONE, PLAIN, emu_binary(draft, in[0], in[1], SUB, out[0]))           \
    X(Mul, 2, 2, ONE, PLAIN, emu_binary(draft, in[0], in[1], MUL, out[0]))           \
    X(Div, 2, 2, ONE, PLAIN, emu_binary(draft, in[0], in[1], DIV, out[0]))           \
    X(Pow, 2, 2, ONE, PLAIN, emu_binary(draft, in[0], in[1], POW, out[0]))           \
    X(Sum, 1, ANY, ONE, PLAIN, fold(draft, ADD, in, out))                            \
    X(Min, 1, ANY, ONE, PLAIN, fold(draft, MIN, in, out))                            \
    X(Max, 1, ANY, ONE, PLAIN, fold(draft, MAX, in, out))                            \
    X(Clip, 1, 3, ONE, PLAIN, emu_clip(draft, in, out))                              \
    X(Less, 2, 2, ONE, PLAIN, emu_less(draft, in, out))                              \
    X(Greater, 2, 2, ONE, PLAIN, emu_greater(draft, in, out))                        \
    X(Where, 3, 3, ONE, PLAIN, emu_where(draft, in, out))                            \
    X(Gemm, 2, 3, ONE, WEIGHTS, emu_gemm(draft, in, out))                            \
    X(MatMul, 2, 2, ONE, WEIGHTS, emu_matmul(draft, in, out))                        \
    X(ReduceMean, 1, 2, ONE, PLAIN, emu_reduce_mean(draft, in, out))                 \
    X(BatchNormalization, 5, 5, ONE, PLAIN, emu_batch_normalization(draft, in, out)) \
    X(LayerNormalization, 2, 3, ONE, PLAIN, emu_layer_normalization(draft, in, out)) \
    X(Scaler, 1, 1, ONE, PLAIN, emu_scaler(draft, in, out))                          \
    X(ArrayFeatureExtractor, 2, 2, ONE, PLAIN, emu_extract_features(draft, in, out))

#define NUMBER(name, least, most, outputs, operands, evaluation) IS_##name,
enum { OPERATORS(NUMBER) NUM_OPERATORS };

/* No pointers, which would have to be relocated when the library is loaded: the names follow one another. */
#define NAME(name, least, most, outputs, operands, evaluation) #name "\0"
static const char names[] = OPERATORS(NAME);

#define SHAPE(name, least, most, outputs, operands, evaluation) {least, most, outputs, operands},
static const struct {
    uint8_t least, most, outputs, operands;
} operators[] = {OPERATORS(SHAPE)};

static int find_operator(const onnx_node *node)
{
    const bool ml = emu_text_is(node->domain, "ai.onnx.ml");
    if (!ml && node->domain.size != 0 && !emu_text_is(node->domain, "ai.onnx"))
        return -1;
    const char *name = names;
    for (int i = 0; i < NUM_OPERATORS; i++, name += strlen(name) + 1)
        if (ml == (i >= IS_Scaler) && emu_text_is(node->op_type, name))
            return i;
    return -1;
}

static bool evaluate(emu_draft *draft, int number, values in, values out)
{
#define CASE(name, least, most, outputs, operands, evaluation) case IS_##name: return evaluation;
    switch (number) {
        OPERATORS(CASE)
    }
    return false;
}

bool emu_evaluate_node(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    const onnx_node *node = draft->node;
    const int number = find_operator(node);
    emu_shown shown;
    if (number < 0)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "libemulator's own engine does not evaluate this operator (emu_load in libemulator.h "
                               "lists those that it does): build the network from others");
    const int least = operators[number].least, outputs = operators[number].outputs, kind = operators[number].operands;
    const int most = operators[number].most == ANY ? ONNX_MAX_NODE_NAMES : operators[number].most;
    bool complete = node->num_inputs <= most;
    for (int i = 0; i < least; i++)
        complete = complete && inputs[i] != NULL;
    if (!complete)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "has %d inputs, expected %d to %d", node->num_inputs, least, most);
    for (int i = 0; i < node->num_outputs; i++) {
        if (i >= outputs && outputs != ANY && results[i] != NULL && results[i]->uses > 0)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its output '%s' is used; only the first %d can be",
                                   emu_show(&shown, node->outputs[i]), outputs);
    }
    if (results[0] == NULL && outputs == ONE)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "has no output");
    for (int i = 0; i < node->num_inputs; i++) {
        if (inputs[i] == NULL)
            continue;
        const bool transposed_possible = kind == MOVES || (kind == WEIGHTS && i == 1 && !inputs[i]->is_rows);
        if (inputs[i]->stacked && number != IS_Identity)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "uses '%s', which is one column of all outputs",
                                   emu_show(&shown, inputs[i]->name));
        if (inputs[i]->transposed && !transposed_possible)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "uses the transposed tensor '%s'",
                                   emu_show(&shown, inputs[i]->name));
    }
    return evaluate(draft, number, inputs, results) && (results[0] == NULL || emu_note_role(draft, inputs, results[0]));
}
