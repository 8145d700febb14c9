/* Operators that multiply by matrices, and normalisations. */
#include <math.h>
#include <string.h>

#include "columns.h"

/* ---- Gemm, MatMul, and Add where it is a bias ---- */

static bool is_real(const onnx_tensor *tensor)
{
    return tensor != NULL && tensor->data != NULL && (tensor->type == ONNX_FLOAT || tensor->type == ONNX_DOUBLE);
}

/* A row of `width` real constants, or one for all */
static bool is_bias(const emu_value *bias, int64_t width)
{
    const onnx_tensor *t = bias->tensor;
    bool good = is_real(t) && !bias->transposed && (t->count == 1 || t->count == (size_t)width);
    for (int d = 0; good && d + 1 < t->rank; d++)
        good = t->dims[d] == 1;
    return good;
}

static bool new_layer(emu_draft *draft, emu_value *input, const emu_value *weights, bool transposed,
                      const emu_value *bias, emu_value *result)
{
    emu_shown shown;
    const onnx_tensor *w = weights->tensor;
    transposed = transposed != weights->transposed;
    if (!emu_as_columns(draft, input))
        return false;
    if (w == NULL || w->rank != 2)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "weights '%s' must be a constant with two dimensions",
                               emu_show(&shown, weights->name));
    if (!is_real(w))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "weights '%s' have data type %d; float (1) and double (11) are possible",
                               emu_show(&shown, weights->name), (int)w->type);
    if (!input->is_rows || input->rank < 2)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "multiplies a constant or a single number a sample");
    const int64_t rows = w->dims[transposed ? 1 : 0], width = w->dims[transposed ? 0 : 1];
    if (rows != input->n)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "weights '%s' take %lld inputs, but %lld columns arrive",
                               emu_show(&shown, weights->name), (long long)rows, (long long)input->n);
    if (bias != NULL && !is_bias(bias, width))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "bias '%s' must be a constant row of %lld values",
                               emu_show(&shown, bias->name), (long long)width);
    if (width < 1 || width > MAX_WIDTH)
        return emu_refuse_node(draft, EMU_ERR_LIMIT, "its result has %lld columns; 1 to %d are possible",
                               (long long)width, MAX_WIDTH);
    emu_draft_node *node = emu_new_node(draft, NODE_DENSE, width);
    if (node == NULL)
        return false;
    node->inputs[0] = input;
    node->layer = (emu_draft_layer){.num_inputs = (int32_t)rows,
                                    .num_outputs = (int32_t)width,
                                    .weights = w,
                                    .transposed = transposed,
                                    .bias = bias != NULL ? bias->tensor : NULL};
    if (!emu_slot_result(draft, result, input))
        return false;
    if (draft->precision == 32)
        result->type = ONNX_FLOAT; /* float64 weights are rounded */
    return true;
}

bool emu_matmul(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    if (!new_layer(draft, inputs[0], inputs[1], false, NULL, results[0]))
        return false;
    results[0]->product = draft->num_nodes - 1;
    return true;
}

bool emu_gemm(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    double alpha = 1.0, beta = 1.0;
    int64_t trans_a = 0, trans_b = 0;
    if (!emu_attribute_real(draft, "alpha", &alpha) || !emu_attribute_real(draft, "beta", &beta) ||
        !emu_attribute_int(draft, "transA", &trans_a) || !emu_attribute_int(draft, "transB", &trans_b))
        return false;
    if (trans_a != 0)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "transposes its data (transA)");
    emu_value *bias = inputs[2];
    if (alpha == 1.0 && (bias == NULL || (beta == 1.0 && bias->tensor != NULL)))
        return new_layer(draft, inputs[0], inputs[1], trans_b != 0, bias, results[0]);
    emu_value *product = emu_new_value(draft, 1, inputs[0]);
    emu_value *scaled = bias == NULL ? results[0] : emu_new_value(draft, 1, inputs[0]);
    emu_value *scaled_bias = bias == NULL ? NULL : emu_new_value(draft, 1, bias);
    if (product == NULL || scaled == NULL || (bias != NULL && scaled_bias == NULL))
        return false;
    return new_layer(draft, inputs[0], inputs[1], trans_b != 0, NULL, product) &&
           emu_map(draft, product, &(emu_stage){OP_MUL, alpha, 0.0}, 1, scaled) &&
           (bias == NULL || (emu_map(draft, bias, &(emu_stage){OP_MUL, beta, 0.0}, 1, scaled_bias) &&
                             emu_binary(draft, scaled, scaled_bias, ADD, results[0])));
}

/* MatMul, then Add of a constant: the bias of that layer, if nobody else uses the product. */
bool emu_add(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    for (int swap = 0; swap < 2; swap++) {
        emu_value *product = inputs[swap], *bias = inputs[!swap];
        if (product->product < 0 || product->uses != 1 || !is_bias(bias, product->n) || bias->rank > product->rank)
            continue;
        draft->nodes[product->product].layer.bias = bias->tensor;
        return emu_identity(draft, product, results[0]);
    }
    return emu_binary(draft, inputs[0], inputs[1], ADD, results[0]);
}

/* ---- normalisations ---- */

/* result := (input - mean) / sqrt(variance + epsilon), over the columns */
bool emu_normalize(emu_draft *draft, emu_value *input, double epsilon, emu_value *result)
{
    emu_draft_node *node = emu_new_node(draft, NODE_NORM, input->n);
    if (node == NULL)
        return false;
    node->inputs[0] = input;
    node->epsilon = epsilon;
    return emu_slot_result(draft, result, input);
}

bool emu_layer_normalization(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    double epsilon = (double)1e-5f;
    int64_t axis = -1;
    if (!emu_attribute_real(draft, "epsilon", &epsilon) || !emu_attribute_int(draft, "axis", &axis) ||
        !emu_as_columns(draft, input))
        return false;
    if (!input->is_rows || input->rank < 2 || (axis != -1 && axis != input->rank - 1))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "normalises over axis %lld; the last one is possible",
                               (long long)axis);
    if (!(epsilon > 0.0))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "has epsilon %g; it must be positive", epsilon);
    emu_value *parts[3] = {NULL, NULL, NULL}; /* normalised, scaled, shifted */
    const int last = inputs[2] != NULL ? 2 : 1;
    for (int i = 0; i < 3; i++) {
        parts[i] = i == last ? results[0] : emu_new_value(draft, 1, input);
        if (parts[i] == NULL)
            return false;
    }
    return emu_normalize(draft, input, epsilon, parts[0]) && emu_binary(draft, parts[0], inputs[1], MUL, parts[1]) &&
           (last == 1 || emu_binary(draft, parts[1], inputs[2], ADD, parts[2]));
}

/* The mean over the columns: a layer of one output with weights 1/n, which a recognised normalisation replaces */
bool emu_reduce_mean(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    onnx_attribute axes;
    int64_t keep = 1, count = 0;
    const double *list = NULL;
    if (!emu_attribute(draft, "axes", &axes) || !emu_attribute_int(draft, "keepdims", &keep) ||
        !emu_as_columns(draft, input))
        return false;
    if (inputs[1] != NULL && !emu_as_integers(draft, inputs[1], &list, &count))
        return false;
    double axis = count == 1 ? list[0] : 0.0;
    if (axes.kind == ONNX_INTS) {
        count = (int64_t)axes.tensor.count;
        axis = count == 1 ? emu_onnx_value_at(&axes.tensor, 0) : 0.0;
    }
    if (!input->is_rows || input->rank < 2 || count != 1 || (axis != -1.0 && axis != input->rank - 1))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "averages over other axes than the last");
    if (keep == 0 && input->rank != 2)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "drops one of more than two dimensions");
    if (!emu_track(draft, (size_t)input->n))
        return false;
    onnx_tensor *weights = emu_arena_alloc(draft->scratch, 1, sizeof *weights);
    uint8_t *data = emu_arena_alloc(draft->scratch, (size_t)input->n, 8);
    emu_value *operand = emu_new_value(draft, 1, input);
    if (weights == NULL || data == NULL)
        return emu_draft_memory(draft);
    if (operand == NULL)
        return false;
    const double share = 1.0 / (double)input->n;
    uint64_t bits;
    memcpy(&bits, &share, sizeof bits);
    for (int64_t i = 0; i < 8 * input->n; i++)
        data[i] = (uint8_t)(bits >> (8 * (i % 8)));
    *weights = (onnx_tensor){.name = draft->node->op_type,
                             .type = ONNX_DOUBLE,
                             .rank = 2,
                             .dims = {input->n, 1},
                             .count = (size_t)input->n,
                             .data = data};
    operand->tensor = weights;
    const int32_t type = input->type;
    if (!new_layer(draft, input, operand, false, NULL, results[0]))
        return false;
    results[0]->type = type;
    results[0]->rank = keep != 0 ? input->rank : 1;
    return true;
}

bool emu_batch_normalization(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0], *result = results[0];
    double epsilon = (double)1e-5f;
    int64_t training = 0, spatial = 1;
    if (!emu_attribute_real(draft, "epsilon", &epsilon) || !emu_attribute_int(draft, "training_mode", &training) ||
        !emu_attribute_int(draft, "spatial", &spatial))
        return false;
    if (training != 0)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "is in training mode; export the model for inference");
    for (int i = 0; i < 5; i++)
        if (!emu_as_columns(draft, inputs[i]))
            return false;
    bool fits = input->is_rows && input->rank == 2;
    for (int i = 1; i < 5; i++)
        fits = fits && !inputs[i]->is_rows && inputs[i]->n == input->n;
    if (!fits)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "normalises other than the columns of [ncol, %lld] by as many constants each",
                               (long long)input->n);
    if (!emu_start_result(draft, result, input->n, input))
        return false;
    for (int64_t i = 0; i < input->n; i++) {
        emu_column *column = &result->columns[i];
        *column = input->columns[i];
        const double variance = inputs[4]->columns[i].value + epsilon;
        if (!(variance > 0.0))
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "has a variance of %g", variance - epsilon);
        const double scale = inputs[1]->columns[i].value / sqrt(variance);
        const double shift = inputs[2]->columns[i].value - inputs[3]->columns[i].value * scale;
        if (!emu_push(draft, column, OP_MUL, scale, 0.0, emu_is_f32(input)) ||
            !emu_push(draft, column, OP_ADD, shift, 0.0, emu_is_f32(input)))
            return false;
    }
    return true;
}

/* ai.onnx.ml: (x - offset) * scale, each a list as long as x, or of one */
bool emu_scaler(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0], *result = results[0];
    onnx_attribute lists[2];
    static const char *const names[2] = {"offset", "scale"};
    if (!emu_as_columns(draft, input))
        return false;
    for (int k = 0; k < 2; k++) {
        if (!emu_attribute(draft, names[k], &lists[k]))
            return false;
        const size_t count = lists[k].tensor.count;
        if (lists[k].kind != ONNX_REALS || (count != 1 && count != (size_t)input->n))
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "its %s must be %lld numbers", names[k],
                                   (long long)input->n);
    }
    if (!input->is_rows || !emu_start_result(draft, result, input->n, input))
        return input->is_rows || emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "scales a constant");
    result->type = ONNX_FLOAT; /* whatever it reads */
    for (int64_t i = 0; i < input->n; i++) {
        emu_column *column = &result->columns[i];
        double c[2];
        for (int k = 0; k < 2; k++)
            c[k] = emu_onnx_value_at(&lists[k].tensor, lists[k].tensor.count == 1 ? 0 : (size_t)i);
        *column = input->columns[i];
        if (!emu_push(draft, column, OP_ADD, -c[0], 0.0, true) || !emu_push(draft, column, OP_MUL, c[1], 0.0, true))
            return false;
    }
    return true;
}
