/* Weights into the order in which the kernels read them (model.h). */
#include <string.h>

#include "columns.h"

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Most of the time that loading takes is spent here */
static inline double weight_at(const onnx_tensor *tensor, size_t i)
{
    if (tensor->type != ONNX_FLOAT)
        return emu_onnx_value_at(tensor, i);
    const uint8_t *p = tensor->data + 4 * i;
    const uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static inline void set(void *array, size_t i, bool is_double, double value)
{
    if (is_double)
        ((double *)array)[i] = value;
    else
        ((float *)array)[i] = (float)value;
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
    for (size_t first = 0; first < columns; first += EMU_GROUP) {
        const size_t wide = columns - first < EMU_GROUP ? columns - first : EMU_GROUP;
        for (size_t k = 0; k < rows; k++)
            for (size_t lane = 0; lane < wide; lane++) {
                const size_t n = first + lane, to = first * rows + k * wide + lane;
                if (n < N && k < K)
                    set(weights, to, is_double, weight_at(draft->weights, n * step_n + k * step_k));
                else if (narrow && k >= K) /* -0 times 0 changes no sum */
                    set(weights, to, is_double, -0.0);
            }
    }
    for (size_t n = 0; draft->bias != NULL && n < N; n++)
        set(bias, n, is_double, weight_at(draft->bias, draft->bias->count == 1 ? 0 : n));
    layer->weights = weights;
    layer->bias = bias;
    model->num_parameters += (int64_t)(K * N + (draft->bias != NULL ? N : 0));
    return true;
}
