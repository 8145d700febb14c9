/* From the draft to the model: what is needed, in which order, and where in the row each result lies.
 *
 * A node reads neighbouring columns. Where its operand is such already (the whole result of a layer), it reads them in
 * place; otherwise the columns are copied together by a program, which applies their elementwise steps on the way.
 * Columns of x are put into those copies by the input program, before the first node. */
#include "columns.h"

/* Columns brought together in a slot of their own */
typedef struct {
    const emu_value *value;
    int32_t slot;
    bool early; /* has columns of x: constants come with them */
} emu_copy;

/* Something to do, in order: a program that fills copies[copy], or a node of the draft */
typedef struct {
    int32_t copy; /* -1: a node */
    int32_t node;
    int32_t slots[2], offsets[2]; /* what the node reads */
} emu_act;

typedef struct {
    emu_draft *draft;
    emu_slot *slots;
    emu_copy *copies;
    emu_act *acts;
    int32_t num_slots, num_copies, num_acts, num_layers;
} emu_placing;

static bool out_of_memory(emu_draft *draft)
{
    return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while preparing the model");
}

static int32_t new_slot(emu_placing *p, int64_t width, int32_t birth)
{
    p->slots[p->num_slots] = (emu_slot){.width = (int32_t)width, .birth = birth, .death = birth};
    return p->num_slots++;
}

static void mark_live(emu_draft *draft, const emu_value *value)
{
    for (int64_t i = 0; i < value->n; i++)
        if (value->columns[i].slot >= 0)
            draft->nodes[value->columns[i].slot].live = true;
}

static void read_at(emu_placing *p, int32_t slot, int32_t time)
{
    if (p->slots[slot].death < time)
        p->slots[slot].death = time;
}

/* Neighbouring columns of one result, from a multiple of 16 on, with nothing left to do */
static bool is_in_place(const emu_draft *draft, const emu_value *value)
{
    const emu_column *first = &value->columns[0];
    if (first->slot < 0 || first->index % EMU_PANEL != 0)
        return false;
    for (int64_t i = 0; i < value->n; i++) {
        const emu_column *column = &value->columns[i];
        if (column->slot != first->slot || column->index != first->index + i || !emu_is_plain(draft, column))
            return false;
    }
    return true;
}

static bool is_early(const emu_copy *copy, const emu_column *column)
{
    return column->slot == SLOT_INPUT || (column->slot == SLOT_CONSTANT && copy->early);
}

/* Where operand k of the node lies when it is evaluated; a program is put before the node if one is needed. */
static void place_operand(emu_placing *p, emu_value *value, int32_t *slot, int32_t *offset)
{
    emu_draft *draft = p->draft;
    if (is_in_place(draft, value)) {
        *slot = draft->nodes[value->columns[0].slot].slot;
        *offset = value->columns[0].index;
        return;
    }
    *offset = 0;
    if (value->copy == 0) {
        emu_copy *copy = &p->copies[p->num_copies++];
        value->copy = p->num_copies;
        bool late = false;
        copy->value = value;
        for (int64_t i = 0; i < value->n; i++) {
            copy->early = copy->early || value->columns[i].slot == SLOT_INPUT;
            late = late || value->columns[i].slot >= 0;
        }
        copy->early = copy->early || !late;
        const int32_t time = p->num_acts + 1;
        copy->slot = new_slot(p, value->n, copy->early ? 0 : time);
        if (late) {
            p->acts[p->num_acts++] = (emu_act){.copy = p->num_copies - 1, .node = -1};
            for (int64_t i = 0; i < value->n; i++)
                if (value->columns[i].slot >= 0)
                    read_at(p, draft->nodes[value->columns[i].slot].slot, time);
            read_at(p, copy->slot, time);
        }
    }
    *slot = p->copies[value->copy - 1].slot;
}

/* Order of evaluation and lifetimes: the input program is at time 0, act i at i + 1 */
static void schedule(emu_placing *p, const emu_value *output)
{
    emu_draft *draft = p->draft;
    for (int32_t i = 0; i < draft->num_nodes; i++) {
        emu_draft_node *node = &draft->nodes[i];
        if (!node->live)
            continue;
        emu_act act = {.copy = -1, .node = i};
        for (int k = 0; k < 2; k++)
            if (node->inputs[k] != NULL)
                place_operand(p, node->inputs[k], &act.slots[k], &act.offsets[k]);
        p->acts[p->num_acts++] = act;
        for (int k = 0; k < 2; k++)
            if (node->inputs[k] != NULL)
                read_at(p, act.slots[k], p->num_acts);
        node->slot = new_slot(p, node->num_outputs, p->num_acts);
        p->num_layers += node->kind == NODE_DENSE;
    }
    for (int64_t i = 0; i < output->n; i++)
        if (output->columns[i].slot >= 0)
            read_at(p, draft->nodes[output->columns[i].slot].slot, p->num_acts + 1);
}

/* Columns of x that are outputs pass through the row, too */
static bool keep_inputs(emu_placing *p, const emu_value *output, emu_value **passed)
{
    int64_t n = 0;
    for (int64_t i = 0; i < output->n; i++)
        n += output->columns[i].slot == SLOT_INPUT;
    *passed = NULL;
    if (n == 0)
        return true;
    emu_value *value = emu_arena_alloc(p->draft->scratch, 1, sizeof *value);
    emu_column *columns = emu_arena_alloc(p->draft->scratch, (size_t)n, sizeof *columns);
    if (value == NULL || columns == NULL)
        return out_of_memory(p->draft);
    value->columns = columns;
    for (int64_t i = 0; i < output->n; i++)
        if (output->columns[i].slot == SLOT_INPUT)
            columns[value->n++] = output->columns[i];
    int32_t slot, offset;
    place_operand(p, value, &slot, &offset);
    read_at(p, slot, p->num_acts + 1);
    *passed = value;
    return true;
}

/* ---- programs, once the places are known ---- */

static int32_t column_in_row(const emu_placing *p, const emu_column *column)
{
    return p->slots[p->draft->nodes[column->slot].slot].offset + column->index;
}

static emu_item item_of(const emu_placing *p, const emu_column *column, int32_t target)
{
    const int32_t source = column->slot >= 0          ? column_in_row(p, column)
                           : column->slot == SLOT_INPUT ? column->index
                                                        : 0;
    return (emu_item){.column = column, .source = source, .target = target};
}

/* The early columns of all copies, or the others of one */
static int64_t copy_items(const emu_placing *p, const emu_copy *copy, bool early, emu_item *items)
{
    int64_t n = 0;
    for (int64_t i = 0; i < copy->value->n; i++) {
        const emu_column *column = &copy->value->columns[i];
        if (is_early(copy, column) != early)
            continue;
        if (items != NULL)
            items[n] = item_of(p, column, p->slots[copy->slot].offset + (int32_t)i);
        n++;
    }
    return n;
}

static bool build_input_program(const emu_placing *p, emu_model *model)
{
    int64_t n = 0;
    for (int32_t c = 0; c < p->num_copies; c++)
        n += copy_items(p, &p->copies[c], true, NULL);
    emu_item *items = emu_arena_alloc(p->draft->scratch, (size_t)n, sizeof *items);
    if (items == NULL)
        return out_of_memory(p->draft);
    n = 0;
    for (int32_t c = 0; c < p->num_copies; c++)
        n += copy_items(p, &p->copies[c], true, items + n);
    return emu_build_program(p->draft, items, n, true, &model->input, model);
}

static bool build_output_program(const emu_placing *p, const emu_value *output, const emu_value *passed,
                                 emu_model *model)
{
    static const emu_column plain = {.slot = SLOT_INPUT}; /* what had to be done to it is done */
    emu_item *items = emu_arena_alloc(p->draft->scratch, (size_t)output->n, sizeof *items);
    if (items == NULL)
        return out_of_memory(p->draft);
    int32_t next = passed != NULL ? p->slots[p->copies[passed->copy - 1].slot].offset : 0;
    for (int32_t i = 0; i < output->n; i++) {
        const emu_column *column = &output->columns[i];
        items[i] = column->slot == SLOT_INPUT ? (emu_item){.column = &plain, .source = next++, .target = i}
                                              : item_of(p, column, i);
    }
    return emu_build_program(p->draft, items, output->n, false, &model->output, model);
}

static bool build_copy(const emu_placing *p, const emu_copy *copy, emu_node *node, emu_model *model)
{
    const int64_t n = copy_items(p, copy, false, NULL);
    emu_item *items = emu_arena_alloc(p->draft->scratch, (size_t)n, sizeof *items);
    if (items == NULL)
        return out_of_memory(p->draft);
    copy_items(p, copy, false, items);
    node->kind = NODE_PROGRAM;
    return emu_build_program(p->draft, items, n, true, &node->program, model);
}

static bool build(const emu_placing *p, emu_model *model)
{
    emu_draft *draft = p->draft;
    emu_node *nodes = emu_arena_alloc(&model->arena, (size_t)p->num_acts, sizeof *nodes);
    emu_layer *layers = emu_arena_alloc(&model->arena, (size_t)p->num_layers, sizeof *layers);
    if (nodes == NULL || layers == NULL)
        return out_of_memory(draft);
    size_t weights = 0; /* each is in the file, in four bytes or more, unless layers share them */
    size_t room = 0;    /* for them and the biases, padded */
    for (int32_t i = 0; i < draft->num_nodes; i++) {
        const emu_draft_layer *layer = &draft->nodes[i].layer;
        if (!draft->nodes[i].live || draft->nodes[i].kind != NODE_DENSE)
            continue;
        weights += (size_t)layer->num_inputs * (size_t)layer->num_outputs;
        room += ((size_t)layer->num_inputs + 16) * (((size_t)layer->num_outputs + 15) / 16 * 16);
    }
    if (weights > draft->file_size / 4 + MAX_REPEATED)
        return emu_fail(draft->error, EMU_ERR_LIMIT,
                        "layers share weights so often that they would take %zu numbers, from a file of %zu bytes",
                        weights, draft->file_size);
    emu_arena_reserve(&model->arena, room * (size_t)draft->precision / 8);
    model->nodes = nodes;
    model->num_nodes = p->num_acts;
    model->layers = layers;
    for (int32_t i = 0; i < p->num_acts; i++) {
        const emu_act *act = &p->acts[i];
        if (act->copy >= 0) {
            if (!build_copy(p, &p->copies[act->copy], &nodes[i], model))
                return false;
            continue;
        }
        const emu_draft_node *from = &draft->nodes[act->node];
        nodes[i] = (emu_node){.kind = from->kind,
                              .combine = from->combine,
                              .from = p->slots[act->slots[0]].offset + act->offsets[0],
                              .to = p->slots[from->slot].offset,
                              .num_columns = from->num_outputs,
                              .epsilon = from->epsilon};
        if (from->kind == NODE_COMBINE)
            nodes[i].from2 = p->slots[act->slots[1]].offset + act->offsets[1];
        if (from->kind != NODE_DENSE)
            continue;
        nodes[i].layer = &layers[model->num_layers];
        if (!emu_pack_layer(&from->layer, &layers[model->num_layers], model, draft->error))
            return false;
        model->num_layers++;
    }
    return true;
}

bool emu_assemble(emu_draft *draft, const emu_value *output, emu_model *model)
{
    mark_live(draft, output);
    for (int i = draft->num_nodes - 1; i >= 0; i--)
        for (int k = 0; draft->nodes[i].live && k < 2; k++)
            if (draft->nodes[i].inputs[k] != NULL)
                mark_live(draft, draft->nodes[i].inputs[k]);
    emu_settle_activations(draft, output);
    size_t live = 0;
    for (int i = 0; i < draft->num_nodes; i++)
        live += draft->nodes[i].live;
    emu_placing p = {.draft = draft};
    p.slots = emu_arena_alloc(draft->scratch, 3 * live + 1, sizeof *p.slots);
    p.copies = emu_arena_alloc(draft->scratch, 2 * live + 1, sizeof *p.copies);
    p.acts = emu_arena_alloc(draft->scratch, 3 * live, sizeof *p.acts);
    int32_t *order = emu_arena_alloc(draft->scratch, 3 * live + 1, sizeof *order);
    if (p.slots == NULL || p.copies == NULL || p.acts == NULL || order == NULL)
        return out_of_memory(draft);
    schedule(&p, output);
    emu_value *passed;
    if (p.num_layers == 0)
        return emu_fail(draft->error, EMU_ERR_UNSUPPORTED, "the graph has no layer (Gemm or MatMul)");
    if (p.num_layers > MAX_LAYERS)
        return emu_fail(draft->error, EMU_ERR_LIMIT, "the model has %d layers; at most %d are possible",
                        (int)p.num_layers, MAX_LAYERS);
    if (!keep_inputs(&p, output, &passed))
        return false;
    const int64_t columns = emu_place_slots(p.slots, p.num_slots, order);
    if (columns > MAX_ROW)
        return emu_fail(draft->error, EMU_ERR_LIMIT,
                        "the model needs more than %d intermediate columns at the same time", MAX_ROW);
    model->num_columns = (int32_t)columns;
    model->num_inputs = (int32_t)draft->num_inputs;
    model->num_outputs = (int32_t)output->n;
    return build_input_program(&p, model) && build(&p, model) && build_output_program(&p, output, passed, model);
}
