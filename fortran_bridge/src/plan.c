/* From the ONNX graph to the draft: names, inputs and outputs, and each node in turn. */
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
    value->product = -1;
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
    value->is_rows = true;
    value->rank = 2;
    value->type = input->type;
    value->ready = true;
    if (value->columns == NULL)
        return false;
    for (int64_t i = 0; i < value->n; i++)
        value->columns[i] = (emu_column){.slot = SLOT_INPUT, .index = (int32_t)i};
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
    if (output == NULL || !output->ready) {
        emu_fail(draft->error, EMU_ERR_FORMAT, "no node makes the graph output '%s'", name);
        return NULL;
    }
    const bool one_row = output->rank == 2 || (output->rank == 1 && output->n == 1);
    if (!output->is_rows || output->columns == NULL || !one_row || output->transposed) {
        emu_fail(draft->error, EMU_ERR_UNSUPPORTED,
                 "graph output '%s' does not have the shape [ncol, num_outputs], made from the input", name);
        return NULL;
    }
    return output;
}

/* ---- everything ---- */

/* Define what the nodes make, and count who reads it */
static bool define_results(emu_draft *draft, const onnx_model *onnx, name_table *table, int *most_names)
{
    for (int i = 0; i < onnx->num_nodes; i++) {
        const onnx_node *node = &onnx->nodes[i];
        const int names = node->num_inputs > node->num_outputs ? node->num_inputs : node->num_outputs;
        *most_names = names > *most_names ? names : *most_names;
        for (int k = 0; k < node->num_outputs; k++)
            if (node->outputs[k].size > 0 && define(draft, table, node->outputs[k]) == NULL)
                return false;
    }
    for (int i = 0; i < onnx->num_nodes; i++) {
        for (int k = 0; k < onnx->nodes[i].num_inputs; k++) {
            emu_value *value = *find(table, onnx->nodes[i].inputs[k]);
            if (value != NULL)
                value->uses++;
        }
    }
    for (int i = 0; i < onnx->num_outputs; i++) {
        emu_value *value = *find(table, onnx->outputs[i].name);
        if (value != NULL)
            value->uses++;
    }
    return true;
}

static bool evaluate(emu_draft *draft, const onnx_model *onnx, const name_table *table, int most_names)
{
    enum { FIRST = 8 }; /* operators look at so many inputs without asking */
    emu_shown shown;
    const size_t room = (size_t)most_names + FIRST;
    emu_value **names = emu_arena_alloc(draft->scratch, 2 * room, sizeof(emu_value *));
    if (names == NULL)
        return emu_draft_memory(draft);
    emu_value **inputs = names, **results = names + room;
    for (int i = 0; i < onnx->num_nodes; i++) {
        const onnx_node *node = &onnx->nodes[i];
        draft->node = node;
        for (int k = 0; k < FIRST; k++)
            inputs[k] = results[k] = NULL;
        for (int k = 0; k < node->num_inputs; k++) {
            inputs[k] = NULL;
            if (node->inputs[k].size == 0)
                continue; /* left out */
            inputs[k] = *find(table, node->inputs[k]);
            if (inputs[k] == NULL || !inputs[k]->ready)
                return emu_refuse_node(draft, EMU_ERR_FORMAT, "its input '%s' is not made by any node before it",
                                       emu_show(&shown, node->inputs[k]));
        }
        for (int k = 0; k < node->num_outputs; k++)
            results[k] = node->outputs[k].size > 0 ? *find(table, node->outputs[k]) : NULL;
        if (node->num_outputs == 0)
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "has no output");
        if (!emu_evaluate_node(draft, inputs, results))
            return false;
        for (int k = 0; k < node->num_outputs; k++)
            if (results[k] != NULL)
                results[k]->ready = results[k]->columns != NULL || results[k]->tensor != NULL ||
                                    results[k]->comparisons != NULL;
    }
    draft->node = NULL;
    return true;
}

static bool plan(const onnx_model *onnx, emu_model *model, emu_draft *draft)
{
    size_t names = (size_t)onnx->num_tensors + 2;
    int most_names = 0;
    for (int i = 0; i < onnx->num_nodes; i++)
        names += (size_t)onnx->nodes[i].num_outputs;
    name_table table = {NULL, 16};
    while (table.size < 2 * names)
        table.size *= 2;
    table.slots = emu_arena_alloc(draft->scratch, table.size, sizeof(emu_value *));
    if (table.slots == NULL)
        return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while reading the graph");
    for (int i = 0; i < onnx->num_tensors; i++) {
        emu_value *value = define(draft, &table, onnx->tensors[i].name);
        if (value == NULL)
            return false;
        value->tensor = &onnx->tensors[i];
        value->type = value->tensor->type;
        value->rank = value->tensor->rank;
        value->ready = true;
    }
    const onnx_value *input = graph_input(onnx, &table, draft->error);
    if (input == NULL || !define_input(draft, &table, input) || !define_results(draft, onnx, &table, &most_names) ||
        !evaluate(draft, onnx, &table, most_names))
        return false;
    const emu_value *output = graph_output(draft, onnx, &table);
    return output != NULL && emu_assemble(draft, output, model);
}

bool emu_plan(const onnx_model *onnx, emu_model *model, emu_error *error)
{
    emu_arena scratch = {NULL, 0};
    emu_draft draft = {.error = error,
                       .scratch = &scratch,
                       .kernels = model->kernels,
                       .precision = model->precision,
                       .file_size = onnx->size};
    const bool good = plan(onnx, model, &draft);
    emu_arena_free(&scratch);
    return good;
}
