/* From the elementwise steps of each column to the programs that the kernels run (model.h). */
#include <string.h>

#include "columns.h"

typedef struct {
    int num_ops;
    uint8_t ops[MAX_STEPS];
    double a[MAX_STEPS], b[MAX_STEPS];
} chain;

typedef struct {
    int num_ops;
    uint8_t ops[MAX_STEPS];
    int32_t columns;
} signature;

typedef struct {
    signature signatures[MAX_GROUPS];
    chain work;
} workspace;

static const emu_step *first_step(const emu_column *column)
{
    const emu_step *step = column->last;
    while (step != NULL && step->before != NULL)
        step = step->before;
    return step;
}

/* A layer may apply a step to its own sums: in float32 where the graph does, or wherever its precision is float64. */
static emu_activation activation_of(const emu_draft *draft, const emu_step *step)
{
    if (step == NULL)
        return ACT_NONE;
    if (step->op == OP_AT_LEAST && step->a == 0.0)
        return ACT_RELU; /* exact in any precision */
    if (!step->is_f32 && draft->precision == 32)
        return ACT_NONE; /* a sigmoid in float64 stays in float64 */
    switch (step->op) {
    case OP_SIGMOID: return ACT_SIGMOID;
    case OP_TANH: return ACT_TANH;
    case OP_LEAKY_RELU: return ACT_LEAKY_RELU;
    case OP_ELU: return ACT_ELU;
    case OP_GELU: return ACT_GELU;
    case OP_GELU_TANH: return ACT_GELU_TANH;
    case OP_SILU: return ACT_SILU;
    case OP_SOFTPLUS: return ACT_SOFTPLUS;
    case OP_HARD_SIGMOID: return ACT_HARD_SIGMOID;
    case OP_HARD_SWISH: return ACT_HARD_SWISH;
    default: return ACT_NONE;
    }
}

/* What one reader makes of the layers whose columns it takes */
static void settle(emu_draft *draft, const emu_value *reader)
{
    const emu_step *seen = NULL;
    int32_t seen_slot = SLOT_CONSTANT;
    for (int64_t i = 0; i < reader->n; i++) {
        const emu_column *column = &reader->columns[i];
        if (column->slot < 0 || (column->slot == seen_slot && column->last == seen))
            continue; /* shared with the column before: nothing new */
        seen = column->last;
        seen_slot = column->slot;
        emu_draft_node *node = &draft->nodes[column->slot];
        if (node->kind != NODE_DENSE || (!node->undecided && node->layer.activation == ACT_NONE))
            continue;
        const emu_step *first = first_step(column);
        const emu_activation activation = activation_of(draft, first);
        const double a = first != NULL ? first->a : 0.0, b = first != NULL ? first->b : 0.0;
        const bool same = activation == node->layer.activation && a == node->layer.a && b == node->layer.b;
        if (node->undecided || !same) {
            node->layer.activation = node->undecided ? activation : ACT_NONE;
            node->layer.a = a;
            node->layer.b = b;
            node->undecided = false;
        }
    }
}

/* If every column that is read of a layer starts with the same activation, it becomes the layer's. */
void emu_settle_activations(emu_draft *draft, const emu_value *output)
{
    for (int i = 0; i < draft->num_nodes; i++)
        draft->nodes[i].undecided = true;
    for (int i = 0; i < draft->num_nodes; i++)
        for (int k = 0; draft->nodes[i].live && k < 2; k++)
            if (draft->nodes[i].inputs[k] != NULL)
                settle(draft, draft->nodes[i].inputs[k]);
    settle(draft, output);
    for (int i = 0; i < draft->num_nodes; i++)
        draft->nodes[i].has_activation = draft->nodes[i].layer.activation != ACT_NONE;
}

static bool layer_does_first_step(const emu_draft *draft, const emu_column *column)
{
    return column->slot >= 0 && draft->nodes[column->slot].has_activation;
}

/* The operations of one column in order, without what its layer does already, neighbours joined. */
static void compile(const emu_draft *draft, const emu_column *column, bool feeds_row, chain *out)
{
    const emu_step *steps[MAX_STEPS];
    out->num_ops = 0;
    if (column->slot == SLOT_CONSTANT) {
        out->num_ops = 1;
        out->ops[0] = OP_SET;
        out->a[0] = column->value;
        out->b[0] = 0.0;
        return;
    }
    int count = 0;
    for (const emu_step *step = column->last; step != NULL; step = step->before)
        steps[count++] = step;
    const bool from_row = column->slot >= 0;
    const int last = layer_does_first_step(draft, column) ? count - 2 : count - 1; /* steps run from last to 0 */
    for (int s = last; s >= 0; s--) {
        const emu_step *step = steps[s];
        /* what comes from or goes to the row has its precision anyway; where that is float64, nothing is rounded */
        const bool in_row = (s == last && from_row) || (s == 0 && feeds_row) || draft->precision == 64;
        if (step->op == OP_ROUND_F32 && in_row)
            continue;
        const int n = out->num_ops;
        if (n > 0 && out->ops[n - 1] == OP_ADD && step->op == OP_MUL) { /* t + c = t - (-c), exactly */
            out->ops[n - 1] = OP_SUB_MUL;
            out->a[n - 1] = -out->a[n - 1];
            out->b[n - 1] = step->a;
            continue;
        }
        if (n > 0 && out->ops[n - 1] == OP_MUL && step->op == OP_ADD) {
            out->ops[n - 1] = OP_MUL_ADD;
            out->b[n - 1] = step->a;
            continue;
        }
        out->ops[n] = step->op;
        out->a[n] = step->a;
        out->b[n] = step->b;
        out->num_ops++;
    }
}

static bool get_workspace(emu_draft *draft)
{
    if (draft->program_work == NULL)
        draft->program_work = emu_arena_alloc(draft->scratch, 1, sizeof(workspace));
    return draft->program_work != NULL;
}

bool emu_is_plain(const emu_draft *draft, const emu_column *column)
{
    if (column->slot < 0)
        return false;
    for (const emu_step *step = column->last; step != NULL; step = step->before)
        if (step->op != OP_ROUND_F32)
            return step->before == NULL && layer_does_first_step(draft, column);
    return true;
}

static bool out_of_memory(emu_draft *draft)
{
    return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while preparing the model");
}

bool emu_build_program(emu_draft *draft, const emu_item *items, int64_t n, bool feeds_row, emu_program *program,
                       emu_model *model)
{
    uint16_t *group_of = emu_arena_alloc(draft->scratch, (size_t)n, sizeof *group_of);
    if (!get_workspace(draft) || group_of == NULL)
        return out_of_memory(draft);
    signature *signatures = ((workspace *)draft->program_work)->signatures;
    chain *work = &((workspace *)draft->program_work)->work;
    memset(signatures, 0, sizeof(signature) * MAX_GROUPS);
    int num_groups = 0;
    for (int64_t i = 0; i < n; i++) {
        compile(draft, items[i].column, feeds_row, work);
        int g = 0;
        while (g < num_groups && (signatures[g].num_ops != work->num_ops ||
                                  memcmp(signatures[g].ops, work->ops, (size_t)work->num_ops) != 0))
            g++;
        if (g == num_groups) {
            if (num_groups == MAX_GROUPS)
                return emu_fail(draft->error, EMU_ERR_LIMIT,
                                "the columns undergo more than %d different sequences of operations", MAX_GROUPS);
            signatures[g].num_ops = work->num_ops;
            memcpy(signatures[g].ops, work->ops, (size_t)work->num_ops);
            num_groups++;
        }
        signatures[g].columns++;
        group_of[i] = (uint16_t)g;
    }
    emu_group *groups = emu_arena_alloc(&model->arena, (size_t)num_groups, sizeof *groups);
    if (groups == NULL)
        return out_of_memory(draft);
    for (int g = 0; g < num_groups; g++) {
        const int num_ops = signatures[g].num_ops;
        const int32_t columns = signatures[g].columns, padded = (columns + 7) / 8 * 8;
        uint8_t *ops = emu_arena_alloc(&model->arena, (size_t)num_ops, 1);
        int32_t *source = emu_arena_alloc(&model->arena, (size_t)padded, sizeof *source);
        int32_t *target = emu_arena_alloc(&model->arena, (size_t)columns, sizeof *target);
        double *constants = emu_arena_alloc(&model->arena, (size_t)num_ops * 2 * (size_t)padded, sizeof *constants);
        if (ops == NULL || source == NULL || target == NULL || constants == NULL)
            return out_of_memory(draft);
        memcpy(ops, signatures[g].ops, (size_t)num_ops);
        groups[g] = (emu_group){num_ops, columns, padded, ops, true, true, source, target, constants};
        int32_t c = 0;
        for (int64_t i = 0; i < n; i++) {
            if (group_of[i] != g)
                continue;
            compile(draft, items[i].column, feeds_row, work);
            target[c] = items[i].target;
            groups[g].adjacent = groups[g].adjacent && target[c] == target[0] + c;
            const int32_t end = c == columns - 1 ? padded : c + 1; /* the padding repeats the last column */
            for (int32_t lane = c; lane < end; lane++)
                source[lane] = items[i].source;
            groups[g].source_adjacent = groups[g].source_adjacent && source[c] == source[0] + c;
            for (int op = 0; op < num_ops; op++) {
                double *a = constants + (size_t)op * 2 * (size_t)padded, *b = a + padded;
                for (int32_t lane = c; lane < end; lane++) {
                    a[lane] = work->a[op];
                    b[lane] = work->b[op];
                }
            }
            c++;
        }
    }
    *program = (emu_program){num_groups, groups};
    return true;
}
