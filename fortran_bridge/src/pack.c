/* Weights into the order in which the kernels read them (model.h). */
#include <string.h>

#include "columns.h"

static float float_at(const onnx_tensor *tensor, size_t i)
{
    const uint8_t *p = tensor->data + 4 * i;
    const uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

bool emu_pack_layer(const emu_draft_layer *draft, emu_layer *layer, emu_model *model, emu_error *error)
{
    const size_t K = (size_t)draft->num_inputs, N = (size_t)draft->num_outputs;
    layer->num_inputs = draft->num_inputs;
    layer->num_outputs = draft->num_outputs;
    layer->activation = draft->activation;
    layer->order = N <= 16 ? ORDER_NARROW : N <= 64 ? ORDER_HALVES : ORDER_CHAIN;
    const bool narrow = layer->order == ORDER_NARROW;
    const size_t panel = narrow ? EMU_NARROW_PANEL : EMU_PANEL;
    const size_t panel_floats = round_up(N, panel) * K, row = round_up(K, 16);
    const size_t row_floats = narrow ? round_up(N, EMU_NARROW_PANEL) * row : 0;
    if (model->arena.used / sizeof(float) + panel_floats + row_floats > MAX_WEIGHTS)
        return emu_fail(error, EMU_ERR_LIMIT, "the weights take more than 4 GiB");
    float *panels = emu_arena_alloc(&model->arena, panel_floats, sizeof *panels);
    float *bias = emu_arena_alloc(&model->arena, round_up(N, 16), sizeof *bias);
    float *rows = narrow ? emu_arena_alloc(&model->arena, row_floats, sizeof *rows) : NULL;
    if (panels == NULL || bias == NULL || (narrow && rows == NULL))
        return emu_fail(error, EMU_ERR_MEMORY, "out of memory for %zu weights", panel_floats + row_floats);
    const size_t step_n = draft->transposed ? K : 1, step_k = draft->transposed ? 1 : N;
    for (size_t first = 0; first < N; first += panel) {
        const size_t lanes = N - first < panel ? N - first : panel;
        float *to = panels + first * K;
        for (size_t k = 0; k < K; k++, to += panel)
            for (size_t lane = 0; lane < lanes; lane++)
                to[lane] = float_at(draft->weights, (first + lane) * step_n + k * step_k);
    }
    for (size_t n = 0; narrow && n < N; n++)
        for (size_t k = 0; k < K; k++)
            rows[n * row + k] = float_at(draft->weights, n * step_n + k * step_k);
    for (size_t n = 0; draft->bias != NULL && n < N; n++)
        bias[n] = float_at(draft->bias, draft->bias->count == 1 ? 0 : n);
    layer->panels = panels;
    layer->rows = rows;
    layer->bias = bias;
    model->num_parameters += (int64_t)(K * N + (draft->bias != NULL ? N : 0));
    return true;
}
