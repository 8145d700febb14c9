/* From the ONNX graph to the model that the kernels run. */
#include <string.h>

#include "columns.h"

/* ---- names of the graph -> values ---- */

typedef struct {
    emu_value **slots; /* open addressing, a power of two */
    size_t size;
} name_table;

static size_t hash(emu_text name)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    for (size_t i = 0; i < name.size; i++)
        h = (h ^ (uint8_t)name.data[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 32);
}

static emu_value **find(const name_table *table, emu_text name)
{
    size_t i = hash(name) & (table->size - 1);
    while (table->slots[i] != NULL && !emu_text_equal(table->slots[i]->name, name))
        i = (i + 1) & (table->size - 1);
    return &table->slots[i];
}

static emu_value *define(emu_draft *draft, name_table *table, emu_text name)
{
    emu_shown shown;
    emu_value **slot = find(table, name);
    if (*slot != NULL) {
        emu_fail(draft->error, EMU_ERR_FORMAT, "the graph defines '%s' twice", emu_show(&shown, name));
        return NULL;
    }
    emu_value *value = emu_arena_alloc(draft->scratch, 1, sizeof *value);
    if (value == NULL) {
        emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while reading the graph");
        return NULL;
    }
    value->name = name;
    value->layer = LAYER_NONE;
    *slot = value;
    return value;
}

/* ---- the graph's input and output ---- */

/* The one input that is not an initializer (old files list those too) */
static const onnx_value *graph_input(const onnx_model *onnx, const name_table *table, emu_error *error)
{
    const onnx_value *input = NULL;
    emu_shown first, second;
    for (int i = 0; i < onnx->num_inputs; i++) {
        if (*find(table, onnx->inputs[i].name) != NULL)
            continue;
        if (input != NULL) {
            emu_fail(error, EMU_ERR_UNSUPPORTED,
                     "the graph has several inputs ('%s', '%s'); one of shape [ncol, num_inputs] is possible",
                     emu_show(&first, input->name), emu_show(&second, onnx->inputs[i].name));
            return NULL;
        }
        input = &onnx->inputs[i];
    }
    if (input == NULL) {
        emu_fail(error, EMU_ERR_FORMAT, "the graph has no input");
        return NULL;
    }
    const char *name = emu_show(&first, input->name);
    if (input->type != ONNX_FLOAT && input->type != ONNX_DOUBLE) {
        emu_fail(error, EMU_ERR_UNSUPPORTED, "graph input '%s' has data type %d; float (1) or double (11) is possible",
                 name, (int)input->type);
        return NULL;
    }
    if (input->rank != 2 || input->dims[1] < 1) {
        emu_fail(error, EMU_ERR_UNSUPPORTED,
                 "graph input '%s' must have the shape [ncol, num_inputs] with num_inputs a number; it has %d "
                 "dimensions%s",
                 name, input->rank, input->rank == 2 ? " and num_inputs is not stated" : "");
        return NULL;
    }
    if (input->dims[1] > MAX_WIDTH) {
        emu_fail(error, EMU_ERR_LIMIT, "graph input '%s' has %lld columns; at most %d are possible", name,
                 (long long)input->dims[1], MAX_WIDTH);
        return NULL;
    }
    return input;
}

static bool define_input(emu_draft *draft, name_table *table, const onnx_value *input)
{
    emu_value *value = define(draft, table, input->name);
    if (value == NULL)
        return false;
    const onnx_node no_node = {.name = input->name};
    draft->node = &no_node;
    value->n = input->dims[1];
    value->columns = emu_new_columns(draft, value->n);
    draft->node = NULL;
    value->layer = LAYER_INPUT;
    value->is_f32 = input->type == ONNX_FLOAT;
    if (value->columns == NULL)
        return false;
    for (int64_t i = 0; i < value->n; i++)
        value->columns[i].source = (int32_t)i;
    draft->num_inputs = (int)value->n;
    return true;
}

static const emu_value *graph_output(emu_draft *draft, const onnx_model *onnx, const name_table *table)
{
    emu_shown shown;
    if (onnx->num_outputs != 1) {
        emu_fail(draft->error, EMU_ERR_UNSUPPORTED,
                 "the graph has %d outputs; one of shape [ncol, num_outputs] is possible",
                 onnx->num_outputs);
        return NULL;
    }
    const emu_value *output = *find(table, onnx->outputs[0].name);
    const char *name = emu_show(&shown, onnx->outputs[0].name);
    if (output == NULL) {
        emu_fail(draft->error, EMU_ERR_FORMAT, "no node makes the graph output '%s'", name);
        return NULL;
    }
    if (draft->num_layers == 0) {
        emu_fail(draft->error, EMU_ERR_UNSUPPORTED, "the graph has no layer (Gemm or MatMul)");
        return NULL;
    }
    if (output->columns == NULL || output->layer != draft->num_layers - 1 || output->superseded) {
        emu_fail(draft->error, EMU_ERR_UNSUPPORTED,
                 "graph output '%s' is not the result of the last layer; only a plain chain of layers is possible",
                 name);
        return NULL;
    }
    return output;
}

/* ---- everything ---- */

static bool evaluate(emu_draft *draft, const onnx_model *onnx, name_table *table)
{
    emu_shown shown;
    for (int i = 0; i < onnx->num_nodes; i++) {
        const onnx_node *node = &onnx->nodes[i];
        emu_value *inputs[ONNX_MAX_NODE_INPUTS] = {NULL};
        draft->node = node;
        for (int k = 0; k < node->num_inputs && k < ONNX_MAX_NODE_INPUTS; k++) {
            if (node->inputs[k].size == 0)
                continue; /* left out */
            inputs[k] = *find(table, node->inputs[k]);
            if (inputs[k] == NULL)
                return emu_refuse_node(draft, EMU_ERR_FORMAT, "its input '%s' is not made by any node before it",
                                       emu_show(&shown, node->inputs[k]));
            if (inputs[k]->superseded)
                return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                                       "uses the product '%s' both with and without its bias",
                                       emu_show(&shown, node->inputs[k]));
            inputs[k]->uses++;
        }
        if (node->num_outputs == 0)
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "has no output");
        emu_value *result = define(draft, table, node->output);
        if (result == NULL || !emu_evaluate_node(draft, inputs, result))
            return false;
    }
    draft->node = NULL;
    return true;
}

static int32_t round_up_16(int64_t n)
{
    return (int32_t)((n + 15) / 16 * 16);
}

static bool assemble(emu_draft *draft, const emu_value *output, emu_model *model)
{
    if (!emu_settle_activation(draft, output))
        return false;
    emu_layer *layers = emu_arena_alloc(&model->arena, (size_t)draft->num_layers, sizeof *layers);
    if (layers == NULL)
        return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while preparing the model");
    model->num_inputs = (int32_t)draft->num_inputs;
    model->num_outputs = (int32_t)output->n;
    model->num_layers = draft->num_layers;
    model->layers = layers;
    model->max_width = 16;
    for (int l = 0; l < draft->num_layers; l++) {
        const emu_draft_layer *from = &draft->layers[l];
        if (!emu_build_program(draft, from->input, true, &layers[l].program, model) ||
            !emu_pack_layer(from, &layers[l], model, draft->error))
            return false;
        const int32_t width = round_up_16(from->num_inputs > from->num_outputs ? from->num_inputs : from->num_outputs);
        if (width > model->max_width)
            model->max_width = width;
    }
    return true;
}

static bool plan(const onnx_model *onnx, emu_model *model, emu_draft *draft)
{
    size_t names = (size_t)onnx->num_tensors + (size_t)onnx->num_nodes + 2;
    name_table table = {NULL, 16};
    while (table.size < 2 * names)
        table.size *= 2;
    table.slots = emu_arena_alloc(draft->scratch, table.size, sizeof(emu_value *));
    draft->layers = emu_arena_alloc(draft->scratch, MAX_LAYERS, sizeof *draft->layers);
    if (table.slots == NULL || draft->layers == NULL)
        return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while reading the graph");
    for (int i = 0; i < onnx->num_tensors; i++) {
        emu_value *value = define(draft, &table, onnx->tensors[i].name);
        if (value == NULL)
            return false;
        value->tensor = &onnx->tensors[i];
    }
    const onnx_value *input = graph_input(onnx, &table, draft->error);
    if (input == NULL || !define_input(draft, &table, input) || !evaluate(draft, onnx, &table))
        return false;
    const emu_value *output = graph_output(draft, onnx, &table);
    return output != NULL && assemble(draft, output, model) &&
           emu_build_program(draft, output, false, &model->output, model);
}

bool emu_plan(const onnx_model *onnx, emu_model *model, emu_error *error)
{
    emu_arena scratch = {NULL, 0};
    emu_draft draft = {.error = error, .scratch = &scratch, .kernels = model->kernels};
    const bool good = plan(onnx, model, &draft);
    emu_arena_free(&scratch);
    return good;
}
