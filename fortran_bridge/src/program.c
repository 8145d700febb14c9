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

static emu_activation activation_of(const emu_step *step)
{
    if (step == NULL)
        return ACT_NONE;
    if (step->op == OP_AT_LEAST && step->a == 0.0)
        return ACT_RELU; /* exact in any precision */
    if (!step->is_f32)
        return ACT_NONE; /* a sigmoid in float64 stays in float64 */
    return step->op == OP_SIGMOID ? ACT_SIGMOID : step->op == OP_TANH ? ACT_TANH : ACT_NONE;
}

/* If every column that `reader` takes from its layer starts with the same activation, it becomes the layer's. */
bool emu_settle_activation(emu_draft *draft, const emu_value *reader)
{
    if (reader->layer < 0)
        return true;
    emu_activation common = ACT_NONE;
    bool any = false;
    const emu_step *seen = NULL;
    for (int64_t i = 0; i < reader->n; i++) {
        if (reader->columns[i].source < 0)
            continue;
        if (any && reader->columns[i].last == seen)
            continue; /* shared with the column before: nothing new */
        seen = reader->columns[i].last;
        const emu_activation this_one = activation_of(first_step(&reader->columns[i]));
        if (any && this_one != common)
            return true;
        common = this_one;
        any = true;
    }
    draft->layers[reader->layer].activation = common;
    draft->layers[reader->layer].has_activation = common != ACT_NONE;
    return true;
}

/* The operations of one column in order, without what its layer does already, neighbours joined. */
static void compile(const emu_draft *draft, const emu_value *value, int64_t i, bool feeds_layer, chain *out)
{
    const emu_column *column = &value->columns[i];
    const emu_step *steps[MAX_STEPS];
    out->num_ops = 0;
    if (column->source < 0) {
        out->num_ops = 1;
        out->ops[0] = OP_SET;
        out->a[0] = column->value;
        out->b[0] = 0.0;
        return;
    }
    int count = 0;
    for (const emu_step *step = column->last; step != NULL; step = step->before)
        steps[count++] = step;
    const bool from_layer = value->layer >= 0;
    int last = count - 1; /* steps run from last to 0 */
    if (from_layer && draft->layers[value->layer].has_activation)
        last--;
    for (int s = last; s >= 0; s--) {
        const emu_step *step = steps[s];
        const bool already_f32 = step->op == OP_ROUND_F32 && ((s == last && from_layer) || (s == 0 && feeds_layer));
        if (already_f32)
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

static bool out_of_memory(emu_draft *draft)
{
    return emu_fail(draft->error, EMU_ERR_MEMORY, "out of memory while preparing the model");
}

bool emu_build_program(emu_draft *draft, const emu_value *value, bool feeds_layer, emu_program *program,
                       emu_model *model)
{
    if (draft->program_work == NULL)
        draft->program_work = emu_arena_alloc(draft->scratch, 1, sizeof(workspace));
    uint16_t *group_of = emu_arena_alloc(draft->scratch, (size_t)value->n, sizeof *group_of);
    if (draft->program_work == NULL || group_of == NULL)
        return out_of_memory(draft);
    signature *signatures = ((workspace *)draft->program_work)->signatures;
    chain *work = &((workspace *)draft->program_work)->work;
    memset(signatures, 0, sizeof(signature) * MAX_GROUPS);
    int num_groups = 0;
    const int32_t width = value->layer >= 0 ? draft->layers[value->layer].num_outputs : draft->num_inputs;
    /* x and y need a program even if it does nothing: it converts between the host's arrays and rows */
    bool is_identity = feeds_layer && value->layer >= 0 && value->n == width;
    for (int64_t i = 0; i < value->n; i++) {
        compile(draft, value, i, feeds_layer, work);
        is_identity = is_identity && work->num_ops == 0 && value->columns[i].source == i;
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
    *program = (emu_program){0, NULL};
    if (is_identity)
        return true;

    emu_group *groups = emu_arena_alloc(&model->arena, (size_t)num_groups, sizeof *groups);
    if (groups == NULL)
        return out_of_memory(draft);
    for (int g = 0; g < num_groups; g++) {
        const int num_ops = signatures[g].num_ops;
        const int32_t n = signatures[g].columns, padded = (n + 7) / 8 * 8;
        uint8_t *ops = emu_arena_alloc(&model->arena, (size_t)num_ops, 1);
        int32_t *source = emu_arena_alloc(&model->arena, (size_t)padded, sizeof *source);
        int32_t *target = emu_arena_alloc(&model->arena, (size_t)n, sizeof *target);
        double *constants = emu_arena_alloc(&model->arena, (size_t)num_ops * 2 * (size_t)padded, sizeof *constants);
        if (ops == NULL || source == NULL || target == NULL || constants == NULL)
            return out_of_memory(draft);
        memcpy(ops, signatures[g].ops, (size_t)num_ops);
        groups[g] = (emu_group){num_ops, n, padded, ops, true, source, target, constants};
        int32_t c = 0;
        for (int64_t i = 0; i < value->n; i++) {
            if (group_of[i] != g)
                continue;
            compile(draft, value, i, feeds_layer, work);
            target[c] = (int32_t)i;
            groups[g].adjacent = groups[g].adjacent && target[c] == target[0] + c;
            const int32_t end = c == n - 1 ? padded : c + 1; /* the padding repeats the last column */
            for (int32_t lane = c; lane < end; lane++)
                source[lane] = value->columns[i].source < 0 ? 0 : value->columns[i].source;
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
    program->num_groups = num_groups;
    program->groups = groups;
    return true;
}
