/* Weights into the order in which the kernels read them (model.h). */
#include <string.h>

#include "columns.h"

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static double weight_at(const onnx_tensor *tensor, size_t i)
{
    if (tensor->type != ONNX_FLOAT)
        return emu_onnx_value_at(tensor, i);
    return (double)emu_onnx_float_at(tensor, i);
}

static void set(void *array, size_t i, bool is_double, double value)
{
    if (is_double)
        ((double *)array)[i] = value;
    else
        ((float *)array)[i] = (float)value;
}

/* to[i * step_to] = weight at + i * step, count times */
static void take_weights(const onnx_tensor *weights, size_t at, size_t step, size_t count, bool is_double, void *array,
                         size_t to, size_t step_to)
{
    if (weights->type == ONNX_FLOAT && !is_double) { /* most of the time that loading takes is spent here */
        for (; count > 0; count--, at += step, to += step_to)
            ((float *)array)[to] = emu_onnx_float_at(weights, at);
    } else {
        for (; count > 0; count--, at += step, to += step_to)
            set(array, to, is_double, weight_at(weights, at));
    }
}

bool emu_pack_layer(const emu_draft_layer *draft, emu_layer *layer, emu_model *model, emu_error *error)
{
    const size_t K = (size_t)draft->num_inputs, N = (size_t)draft->num_outputs;
    const bool is_double = model->precision == 64;
    const size_t size = is_double ? sizeof(double) : sizeof(float);
    layer->num_inputs = draft->num_inputs;
    layer->num_outputs = draft->num_outputs;
    layer->activation = draft->activation;
    layer->a = (float)draft->a;
    layer->b = (float)draft->b;
    layer->parts = emu_parts_of(draft->num_outputs);
    const bool narrow = N <= EMU_NARROW;
    const size_t rows = narrow ? round_up(K, 16) : K, columns = round_up(N, narrow ? EMU_NARROW : EMU_PANEL);
    if (model->arena.used / size + rows * columns > MAX_WEIGHTS)
        return emu_fail(error, EMU_ERR_LIMIT, "the weights take more than 4 GiB");
    void *weights = emu_arena_alloc(&model->arena, rows * columns, size);
    void *bias = emu_arena_alloc(&model->arena, round_up(N, 16), size);
    if (weights == NULL || bias == NULL)
        return emu_fail(error, EMU_ERR_MEMORY, "out of memory for %zu weights", rows * columns);
    const size_t step_n = draft->transposed ? K : 1, step_k = draft->transposed ? 1 : N;
    enum { LINE = 16 }; /* parts of a narrow sum; and rows at a time: what is touched of them stays in the cache */
    for (size_t first = 0; first < columns; first += EMU_GROUP) {
        const size_t wide = columns - first < EMU_GROUP ? columns - first : EMU_GROUP;
        for (size_t k = 0; k < K; k += LINE)
            for (size_t n = first; n < first + wide && n < N; n++)
                take_weights(draft->weights, n * step_n + k * step_k, step_k, K - k < LINE ? K - k : LINE, is_double,
                             weights, narrow ? k * EMU_NARROW + n * LINE : first * rows + k * wide + n - first,
                             narrow ? 1 : wide);
    }
    for (size_t k = K; narrow && k < rows; k++)
        for (size_t n = 0; n < EMU_NARROW; n++)
            set(weights, k / LINE * LINE * EMU_NARROW + n * LINE + k % LINE, is_double, -0.0); /* its product changes no sum */
    for (size_t n = 0; draft->bias != NULL && n < N; n++)
        set(bias, n, is_double, weight_at(draft->bias, draft->bias->count == 1 ? 0 : n));
    layer->weights = weights;
    layer->bias = bias;
    model->num_parameters += (int64_t)(K * N + (draft->bias != NULL ? N : 0));
    return true;
}
