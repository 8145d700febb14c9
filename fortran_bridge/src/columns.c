#include "columns.h"

#include <stdarg.h>
#include <stdio.h>

bool emu_refuse_node(emu_draft *draft, emu_status status, const char *format, ...)
{
    char reason[400];
    emu_shown name, op;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    emu_text label = draft->node->name;
    if (label.size == 0 && draft->node->num_outputs > 0)
        label = draft->node->outputs[0];
    return emu_fail(draft->error, status, "node '%s' (%s): %s%s", emu_show(&name, label),
                    emu_show(&op, draft->node->op_type), reason,
                    status == EMU_ERR_UNSUPPORTED ? "; or use the ONNX Runtime backend, which evaluates every "
                                                    "operator (backend = \"onnxruntime\" in emu_options)"
                                                  : "");
}

bool emu_track(emu_draft *draft, size_t count)
{
    draft->tracked += count;
    if (draft->tracked > MAX_TRACKED)
        return emu_fail(draft->error, EMU_ERR_LIMIT,
                        "the graph has too many elementwise operations on too many columns (more than %d in all)",
                        MAX_TRACKED);
    return true;
}

bool emu_draft_memory(emu_draft *draft)
{
    return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while reading the graph");
}

emu_column *emu_new_columns(emu_draft *draft, int64_t n)
{
    if (n < 1 || n > MAX_WIDTH) {
        emu_refuse_node(draft, EMU_ERR_LIMIT, "its result has %lld columns; 1 to %d are possible", (long long)n,
                        MAX_WIDTH);
        return NULL;
    }
    if (!emu_track(draft, (size_t)n))
        return NULL;
    emu_column *columns = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *columns);
    if (columns == NULL)
        emu_draft_memory(draft);
    return columns;
}

bool emu_start_result(emu_draft *draft, emu_value *result, int64_t n, const emu_value *like)
{
    result->columns = emu_new_columns(draft, n);
    result->n = n;
    result->is_rows = like->is_rows;
    result->rank = like->rank;
    result->type = like->type;
    return result->columns != NULL;
}

emu_value *emu_new_value(emu_draft *draft, int64_t n, const emu_value *like)
{
    emu_value *value = emu_arena_alloc(draft->scratch, 1, sizeof *value);
    if (value == NULL) {
        emu_draft_memory(draft);
        return NULL;
    }
    value->product = -1;
    return emu_start_result(draft, value, n, like) ? value : NULL;
}

emu_draft_node *emu_new_node(emu_draft *draft, emu_node_kind kind, int64_t num_outputs)
{
    if (draft->num_nodes == draft->room) {
        if (draft->num_nodes == MAX_DRAFT_NODES) {
            emu_refuse_node(draft, EMU_ERR_LIMIT, "the model has more than %d layers and other results",
                            MAX_DRAFT_NODES);
            return NULL;
        }
        const int room = draft->room == 0 ? 32 : 2 * draft->room;
        emu_draft_node *larger = emu_arena_alloc(draft->scratch, (size_t)room, sizeof *larger);
        if (larger == NULL) {
            emu_draft_memory(draft);
            return NULL;
        }
        for (int i = 0; i < draft->num_nodes; i++)
            larger[i] = draft->nodes[i];
        draft->nodes = larger;
        draft->room = room;
    }
    emu_draft_node *node = &draft->nodes[draft->num_nodes++];
    *node = (emu_draft_node){.kind = kind, .num_outputs = (int32_t)num_outputs};
    return node;
}

bool emu_slot_result(emu_draft *draft, emu_value *result, const emu_value *like)
{
    const int32_t slot = draft->num_nodes - 1, n = draft->nodes[slot].num_outputs;
    if (!emu_start_result(draft, result, n, like))
        return false;
    for (int32_t i = 0; i < n; i++)
        result->columns[i] = (emu_column){.slot = slot, .index = i};
    return true;
}

/* Constants of shape [], [n] or [1, n] (and [1, ..., 1, n]) become n constant columns. */
bool emu_as_columns(emu_draft *draft, emu_value *value)
{
    if (value->columns != NULL)
        return true;
    const onnx_tensor *tensor = value->tensor;
    emu_shown shown;
    if (tensor == NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "'%s' is a comparison; only Where can use it",
                               emu_show(&shown, value->name));
    bool one_row = !value->transposed;
    for (int d = 0; d + 1 < tensor->rank; d++)
        one_row = one_row && tensor->dims[d] == 1;
    if (!one_row)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "constant '%s' has %d dimensions; one row (scalar, [n] or [1, n]) is possible here",
                               emu_show(&shown, value->name), tensor->rank);
    if (tensor->data == NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "constant '%s' has data type %d; float, double, int32, int64 and bool are possible",
                               emu_show(&shown, value->name), (int)tensor->type);
    value->n = (int64_t)tensor->count;
    emu_column *columns = emu_new_columns(draft, value->n);
    if (columns == NULL)
        return false;
    for (int64_t i = 0; i < value->n; i++)
        columns[i] = (emu_column){.slot = SLOT_CONSTANT, .value = emu_onnx_value_at(tensor, (size_t)i)};
    value->columns = columns;
    return true;
}

/* Constant whole numbers (a shape, an index), of any shape. NaN stands for the number of samples. */
bool emu_as_integers(emu_draft *draft, emu_value *value, const double **list, int64_t *count)
{
    emu_shown shown;
    const onnx_tensor *tensor = value->tensor;
    const bool known = tensor != NULL ? tensor->data != NULL : value->columns != NULL && !value->is_rows;
    if (!known || (value->type != ONNX_INT32 && value->type != ONNX_INT64))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "'%s' must be constant whole numbers",
                               emu_show(&shown, value->name));
    const int64_t n = tensor != NULL ? (int64_t)tensor->count : value->n;
    if (n > MAX_WIDTH)
        return emu_refuse_node(draft, EMU_ERR_LIMIT, "'%s' has more than %d numbers", emu_show(&shown, value->name),
                               MAX_WIDTH);
    if (!emu_track(draft, (size_t)n))
        return false;
    double *numbers = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *numbers);
    if (numbers == NULL)
        return emu_draft_memory(draft);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = tensor != NULL ? emu_onnx_value_at(tensor, (size_t)i) : value->columns[i].value;
    *list = numbers;
    *count = n;
    return true;
}

static bool same_bits(double a, double b)
{
    return a == b || (a != a && b != b); /* NaN is the same constant as NaN; -0 and 0 act alike */
}

bool emu_push(emu_draft *draft, emu_column *column, emu_op op, double a, double b, bool is_f32)
{
    if (op == OP_SET) {
        *column = (emu_column){.slot = SLOT_CONSTANT, .value = a};
        return true;
    }
    if (column->slot == SLOT_CONSTANT) { /* a constant: done now, by the same code that runs later */
        column->value = draft->kernels->apply(op, a, b, column->value);
        return true;
    }
    const emu_step *recent = draft->recent;
    if (recent != NULL && recent->before == column->last && recent->op == (uint8_t)op && recent->is_f32 == is_f32 &&
        same_bits(recent->a, a) && same_bits(recent->b, b)) {
        column->last = recent;
        return true;
    }
    if (column->last != NULL && column->last->depth == MAX_STEPS)
        return emu_refuse_node(draft, EMU_ERR_LIMIT, "more than %d elementwise operations follow one another",
                               MAX_STEPS);
    if (!emu_track(draft, 1))
        return false;
    emu_step *step = emu_arena_alloc(draft->scratch, 1, sizeof *step);
    if (step == NULL)
        return emu_draft_memory(draft);
    *step = (emu_step){.before = column->last,
                       .a = a,
                       .b = b,
                       .depth = column->last == NULL ? 1 : column->last->depth + 1,
                       .op = (uint8_t)op,
                       .is_f32 = is_f32};
    column->last = draft->recent = step;
    return true;
}

bool emu_same_column(const emu_column *a, const emu_column *b)
{
    if (a->slot != b->slot || a->index != b->index)
        return false;
    if (a->slot == SLOT_CONSTANT)
        return same_bits(a->value, b->value);
    const emu_step *p = a->last, *q = b->last;
    while (p != q) { /* chains that join are the same from there on */
        if (p == NULL || q == NULL || p->op != q->op || !same_bits(p->a, q->a) || !same_bits(p->b, q->b))
            return false;
        p = p->before;
        q = q->before;
    }
    return true;
}
