#include "columns.h"

#include <stdarg.h>
#include <stdio.h>

bool emu_refuse_node(emu_draft *draft, emu_status status, const char *format, ...)
{
    char reason[300];
    emu_shown name, op;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    const emu_text label = draft->node->name.size > 0 ? draft->node->name : draft->node->output;
    return emu_fail(draft->error, status, "node '%s' (%s): %s", emu_show(&name, label),
                    emu_show(&op, draft->node->op_type), reason);
}

static bool track(emu_draft *draft, size_t count)
{
    draft->tracked += count;
    if (draft->tracked > MAX_TRACKED)
        return emu_fail(draft->error, EMU_ERR_LIMIT,
                        "the graph has too many elementwise operations on too many columns (more than %d in all)",
                        MAX_TRACKED);
    return true;
}

static bool out_of_memory(emu_draft *draft)
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
    if (!track(draft, (size_t)n))
        return NULL;
    emu_column *columns = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *columns);
    if (columns == NULL)
        out_of_memory(draft);
    return columns;
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
    for (int d = 0; d + 1 < tensor->rank; d++) {
        if (tensor->dims[d] != 1)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                                   "constant '%s' has %d dimensions; one row (scalar, [n] or [1, n]) is possible here",
                                   emu_show(&shown, value->name), tensor->rank);
    }
    if (tensor->data == NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                               "constant '%s' has data type %d; float, double, int32, int64 and bool are possible",
                               emu_show(&shown, value->name), (int)tensor->type);
    value->n = (int64_t)tensor->count;
    emu_column *columns = emu_new_columns(draft, value->n);
    if (columns == NULL)
        return false;
    for (int64_t i = 0; i < value->n; i++)
        columns[i] = (emu_column){.source = -1, .value = emu_onnx_value_at(tensor, (size_t)i)};
    value->columns = columns;
    value->is_f32 = tensor->type == ONNX_FLOAT;
    value->layer = LAYER_NONE;
    return true;
}

static bool same_bits(double a, double b)
{
    return a == b || (a != a && b != b); /* NaN is the same constant as NaN; -0 and 0 act alike */
}

bool emu_push(emu_draft *draft, emu_column *column, emu_op op, double a, double b, bool is_f32)
{
    if (op == OP_SET) {
        *column = (emu_column){.source = -1, .value = a};
        return true;
    }
    if (column->source < 0) { /* a constant: done now, by the same code that runs later */
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
    if (!track(draft, 1))
        return false;
    emu_step *step = emu_arena_alloc(draft->scratch, 1, sizeof *step);
    if (step == NULL)
        return out_of_memory(draft);
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
    if (a->source != b->source)
        return false;
    if (a->source < 0)
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
