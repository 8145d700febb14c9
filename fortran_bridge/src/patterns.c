/* What exporters write out in several operators: activations (x * sigmoid(x), x / 2 * (1 + erf(x / sqrt 2))) become one
 * step of the column, and the dozen nodes of a layer normalisation one node. All is also right without this file, but
 * slower: what it replaces stays in the draft and, read by nobody, is dropped. */
#include <math.h>
#include <stdlib.h>

#include "columns.h"

enum { MAX_PATTERN = 5 };

/* The steps by which `longer` continues `shorter`, oldest first; -1 if it does not, or by more than MAX_PATTERN. */
static int continuation(const emu_column *longer, const emu_column *shorter, const emu_step *steps[MAX_PATTERN])
{
    if (longer->slot == SLOT_CONSTANT || longer->slot != shorter->slot || longer->index != shorter->index)
        return -1;
    const int before = shorter->last == NULL ? 0 : shorter->last->depth;
    const int count = (longer->last == NULL ? 0 : longer->last->depth) - before;
    if (count < 0 || count > MAX_PATTERN)
        return -1;
    emu_column rest = *longer;
    for (int i = count - 1; i >= 0; i--) {
        steps[i] = rest.last;
        rest.last = rest.last->before;
    }
    return rest.last == shorter->last || emu_same_column(&rest, shorter) ? count : -1;
}

/* A sequence of up to MAX_PATTERN operations as one number: no sequence has the number of another. */
static uint64_t code_of(const emu_step *const *steps, int count)
{
    uint64_t code = 0;
    for (int i = 0; i < count; i++)
        code = code << 8 | (uint64_t)(steps[i]->op + 1);
    return code;
}
#define OPS1(a) ((uint64_t)(a) + 1)
#define OPS2(a, b) (OPS1(a) << 8 | OPS1(b))
#define OPS3(a, b, c) (OPS2(a, b) << 8 | OPS1(c))
#define OPS4(a, b, c, d) (OPS3(a, b, c) << 8 | OPS1(d))

/* A constant of the file, rounded to float32 there if the tensor is */
static bool is_about(double value, double wanted, bool is_f32)
{
    return fabs(value - wanted) <= (is_f32 ? 1e-6 : 1e-12) * fabs(wanted);
}

static const double SQRT_HALF = 0x1.6a09e667f3bcdp-1, SQRT_2_OVER_PI = 0x1.988453365dedfp-1;

/* base + these steps = scale * (1 + erf(base / sqrt 2)); 0: something else */
static double erf_factor(const emu_step *const *steps, int count, bool is_f32)
{
    const uint64_t code = code_of(steps, count);
    if (code == OPS3(OP_MUL, OP_ERF, OP_ADD) || code == OPS4(OP_MUL, OP_ERF, OP_ADD, OP_MUL))
        return is_about(steps[0]->a, SQRT_HALF, is_f32) && steps[2]->a == 1.0 ? (count == 4 ? steps[3]->a : 1.0) : 0.0;
    if (code == OPS4(OP_NEG, OP_MUL, OP_ERF, OP_RSUB)) /* erfc(-t) = 1 + erf(t) */
        return is_about(steps[1]->a, SQRT_HALF, is_f32) && steps[3]->a == 1.0 ? 1.0 : 0.0;
    if (code == OPS3(OP_MUL, OP_ERF, OP_RSUB))
        return is_about(steps[0]->a, -SQRT_HALF, is_f32) && steps[2]->a == 1.0 ? 1.0 : 0.0;
    return 0.0;
}

static bool push_two(emu_draft *draft, emu_column *column, const emu_column *base, emu_op op, double a, double b,
                     double factor, bool is_f32, bool *known)
{
    *known = true;
    *column = *base;
    return emu_push(draft, column, op, a, b, is_f32) &&
           (factor == 1.0 || emu_push_scale(draft, column, factor, is_f32));
}

/* column := base * (base + steps) */
static bool multiply(emu_draft *draft, const emu_column *base, const emu_step *const *steps, int count, bool is_f32,
                     emu_column *column, bool *known)
{
    const uint64_t code = code_of(steps, count);
#define ONE(op, a, b, factor) push_two(draft, column, base, op, a, b, factor, is_f32, known)
    if (count == 0)
        return ONE(OP_SQUARE, 0.0, 0.0, 1.0);
    if (code == OPS1(OP_SQUARE))
        return ONE(OP_CUBE, 0.0, 0.0, 1.0);
    if (code == OPS1(OP_SIGMOID))
        return ONE(OP_SILU, 0.0, 0.0, 1.0);
    if (code == OPS2(OP_MUL, OP_SIGMOID) && isnormal(steps[0]->a) && isnormal(1.0 / steps[0]->a)) { /* Swish with a slope */
        emu_column scaled = *base;
        return emu_push_scale(draft, &scaled, steps[0]->a, is_f32) &&
               push_two(draft, column, &scaled, OP_SILU, 0.0, 0.0, 1.0 / steps[0]->a, is_f32, known);
    }
    if (code == OPS1(OP_HARD_SIGMOID))
        return ONE(OP_HARD_SWISH, steps[0]->a, steps[0]->b, 1.0);
    if (is_f32 && code == OPS3(OP_ADD, OP_AT_LEAST, OP_AT_MOST) && steps[1]->a == 0.0 && steps[2]->a > 0.0 &&
        isnormal(1.0 / steps[2]->a)) {
        const double top = steps[2]->a;
        return ONE(OP_HARD_SWISH, 1.0 / top, steps[0]->a / top, top);
    }
    const double factor = erf_factor(steps, count, is_f32);
    if (factor != 0.0)
        return ONE(OP_GELU, 0.0, 0.0, 2.0 * factor);
    return true;
#undef ONE
}

/* q = (1 + tanh(sqrt(2/pi) (p + 0.044715 p^3))), perhaps halved, where the sum is a node of its own */
static bool multiply_gelu_tanh(emu_draft *draft, const emu_column *p, const emu_column *q, bool is_f32,
                               emu_column *column, bool *known)
{
    const emu_step *steps[MAX_PATTERN], *cube[MAX_PATTERN];
    const emu_draft_node *node = q->slot >= 0 ? &draft->nodes[q->slot] : NULL;
    if (node == NULL || node->kind != NODE_COMBINE || node->combine != COMBINE_ADD)
        return true;
    const emu_column sum = {.slot = q->slot, .index = q->index};
    const int count = continuation(q, &sum, steps);
    const uint64_t code = code_of(steps, count);
    if (!(code == OPS3(OP_MUL, OP_TANH, OP_ADD) || code == OPS4(OP_MUL, OP_TANH, OP_ADD, OP_MUL)) ||
        !is_about(steps[0]->a, SQRT_2_OVER_PI, is_f32) || steps[2]->a != 1.0)
        return true;
    for (int swap = 0; swap < 2; swap++) {
        const emu_column *x = &node->inputs[swap]->columns[q->index], *term = &node->inputs[!swap]->columns[q->index];
        emu_column half = *p;
        double factor = 2.0 * (count == 4 ? steps[3]->a : 1.0);
        if (p->last != NULL && p->last->op == OP_MUL && !emu_same_column(p, x)) {
            factor *= p->last->a;
            half.last = p->last->before;
        }
        if (continuation(term, x, cube) == 2 && cube[0]->op == OP_CUBE && cube[1]->op == OP_MUL &&
            is_about(cube[1]->a, 0.044715, is_f32) && emu_same_column(&half, x) && isnormal(factor))
            return push_two(draft, column, x, OP_GELU_TANH, 0.0, 0.0, factor, is_f32, known);
    }
    return true;
}

static bool without_scale(const emu_column *column, emu_column *base, double *factor)
{
    if (column->last == NULL || column->last->op != OP_MUL)
        return false;
    *base = *column;
    *factor = column->last->a;
    base->last = column->last->before;
    return true;
}

bool emu_join_columns(emu_draft *draft, emu_binary_kind kind, const emu_column *a, const emu_column *b, bool is_f32,
                      emu_column *column, bool *known)
{
    const emu_step *steps[MAX_PATTERN];
    *known = false;
    for (int swap = 0; swap < (kind == MUL || kind == ADD || kind == MAX ? 2 : 1) && !*known; swap++) {
        const emu_column *p = swap ? b : a, *q = swap ? a : b;
        emu_column base = *p;
        double factor;
        int count = continuation(q, p, steps);
        if (kind == MUL) {
            if (count >= 0 && !multiply(draft, p, steps, count, is_f32, column, known))
                return false;
            if (!*known && !multiply_gelu_tanh(draft, p, q, is_f32, column, known))
                return false;
            if (*known || !without_scale(p, &base, &factor)) /* x / 2 * (1 + erf(x / sqrt 2)) */
                continue;
            count = continuation(q, &base, steps);
            factor *= count > 0 ? 2.0 * erf_factor(steps, count, is_f32) : 0.0;
            if (isnormal(factor) && !push_two(draft, column, &base, OP_GELU, 0.0, 0.0, factor, is_f32, known))
                return false;
        } else if (kind == ADD && count == 0) {
            *known = true;
            *column = *p;
            return emu_push_scale(draft, column, 2.0, is_f32);
        } else if ((kind == ADD || kind == SUB) && p->last != NULL && p->last->op == OP_AT_LEAST && p->last->a == 0.0) {
            base.last = p->last->before; /* relu(x) + c relu(-x) */
            count = continuation(q, &base, steps);
            if (code_of(steps, count) == OPS3(OP_NEG, OP_AT_LEAST, OP_MUL) && steps[1]->a == 0.0 &&
                !push_two(draft, column, &base, OP_LEAKY_RELU, kind == ADD ? -steps[2]->a : steps[2]->a, 0.0, 1.0,
                          is_f32, known))
                return false;
        } else if (kind == MAX && code_of(steps, count) == OPS1(OP_MUL) && steps[0]->a >= 0.0 && steps[0]->a < 1.0) {
            if (!push_two(draft, column, p, OP_LEAKY_RELU, steps[0]->a, 0.0, 1.0, is_f32, known))
                return false;
        }
    }
    return true;
}

/* column := column * factor */
bool emu_push_scale(emu_draft *draft, emu_column *column, double factor, bool is_f32)
{
    const emu_step *last = column->slot == SLOT_CONSTANT ? NULL : column->last;
    const emu_step *steps[3] = {NULL};
    int count = 0;
    for (const emu_step *step = last; step != NULL && count < 3; step = step->before)
        steps[2 - count++] = step;
    if (last != NULL && last->op == OP_MUL && last->is_f32 == is_f32) {
        int e, f;
        const bool exact = fabs(frexp(factor, &e)) == 0.5 && fabs(frexp(last->a, &f)) == 0.5 && abs(e + f) < 1000;
        const bool undone =
            is_f32 && count > 1 && steps[1]->op == OP_HARD_SWISH && is_about(factor * last->a, 1.0, true);
        if (exact || undone) { /* x * clip(x + 3, 0, 6) / 6: see multiply */
            const double both = exact ? factor * last->a : 1.0;
            column->last = last->before;
            return both == 1.0 || emu_push(draft, column, OP_MUL, both, 0.0, is_f32);
        }
    }
    /* clip(x + 3, 0, 6) / 6 */
    if (is_f32 && count == 3 && code_of(steps, 3) == OPS3(OP_ADD, OP_AT_LEAST, OP_AT_MOST) && steps[1]->a == 0.0 &&
        is_about(factor * steps[2]->a, 1.0, true)) {
        column->last = steps[0]->before;
        return emu_push(draft, column, OP_HARD_SIGMOID, factor, factor * steps[0]->a, is_f32);
    }
    return emu_push(draft, column, OP_MUL, factor, 0.0, is_f32);
}

/* Where(t > 20, t, softplus(t)), as PyTorch writes it (with t = beta x, and both divided by beta): from 14 on, where
 * softplus(t) = t + e^-t is t to float32 precision, the choice makes no difference. */
bool emu_choose_softplus(const emu_comparison *comparison, const emu_column *yes, const emu_column *no)
{
    const emu_step *steps[MAX_PATTERN], *scale[MAX_PATTERN];
    if (!(comparison->threshold >= 14.0))
        return false;
    const uint64_t code = code_of(steps, continuation(no, &comparison->column, steps));
    if (code == OPS1(OP_SOFTPLUS))
        return emu_same_column(yes, &comparison->column);
    return code == OPS2(OP_SOFTPLUS, OP_MUL) && continuation(&comparison->column, yes, scale) == 1 &&
           scale[0]->op == OP_MUL && is_about(scale[0]->a * steps[1]->a, 1.0, true);
}

/* ---- layer normalisation, written out ---- */

static bool is_scalar(const emu_value *value)
{
    return value->columns != NULL && !value->is_rows && value->n == 1;
}

static bool is_row(const emu_value *value, int64_t n)
{
    return value->columns != NULL && !value->is_rows && value->rank <= 2 && (value->n == n || value->n == 1);
}

static void take_role(emu_value *result, emu_role role, const emu_value *from)
{
    result->role = role;
    result->of = from->of;
    result->epsilon = from->epsilon;
    result->gamma = from->gamma;
    result->beta = from->beta;
    result->negative = from->negative;
}

/* result := (of - mean) / std, times gamma, plus beta */
static bool normalise(emu_draft *draft, const emu_value *role, emu_value *gamma, emu_value *beta, emu_value *result)
{
    emu_value *plain = gamma != NULL || beta != NULL ? emu_new_value(draft, 1, role->of) : result;
    if (plain == NULL || !emu_normalize(draft, role->of, role->epsilon, plain))
        return false;
    if (gamma != NULL) {
        emu_value *scaled = beta != NULL ? emu_new_value(draft, 1, role->of) : result;
        if (scaled == NULL || !emu_binary(draft, plain, gamma, MUL, scaled))
            return false;
        plain = scaled;
    }
    return beta == NULL || emu_binary(draft, plain, beta, ADD, result);
}

/* Recognise the part that `result` plays; replace it where the normalisation is complete. */
bool emu_note_role(emu_draft *draft, emu_value *const *inputs, emu_value *result)
{
    const emu_text op = draft->node->op_type;
    emu_value *a = inputs[0], *b = inputs[1];
    if (a == NULL || draft->node->num_outputs != 1 || result->columns == NULL || !result->is_rows)
        return true;
#define IS(name) emu_text_is(op, name)
    const bool is_mul = IS("Mul"), is_add = IS("Add"), is_sub = IS("Sub");
    if (IS("ReduceMean")) {
        if (a->role == ROLE_SQUARED) {
            take_role(result, ROLE_VARIANCE, a);
        } else if (a->n > 1) {
            result->role = ROLE_MEAN;
            result->of = a;
        }
    } else if (IS("Neg") && a->role == ROLE_MEAN) {
        take_role(result, ROLE_MEAN, a);
        result->negative = !a->negative;
    } else if (IS("Sqrt") && a->role == ROLE_VARIANCE_EPS) {
        take_role(result, ROLE_STD, a);
    } else if (IS("Reciprocal") && a->role == ROLE_STD) {
        take_role(result, ROLE_INVERSE_STD, a);
    } else if (b == NULL) {
        return true;
    } else if (is_sub && b->role == ROLE_MEAN && !b->negative && b->of == a) {
        take_role(result, ROLE_CENTRED, b);
    } else if (IS("Pow") && is_scalar(b)) {
        if (a->role == ROLE_CENTRED && b->columns[0].value == 2.0)
            take_role(result, ROLE_SQUARED, a);
        if (a->role == ROLE_VARIANCE_EPS && b->columns[0].value == 0.5)
            take_role(result, ROLE_STD, a);
    } else if (IS("Div")) {
        if (b->role == ROLE_STD && a->role == ROLE_CENTRED && a->of == b->of)
            return normalise(draft, b, NULL, NULL, result);
        if (b->role == ROLE_STD && is_scalar(a) && a->columns[0].value == 1.0)
            take_role(result, ROLE_INVERSE_STD, b);
    }
    for (int swap = 0; swap < 2 && b != NULL && (is_mul || is_add); swap++) {
        emu_value *p = swap ? b : a, *q = swap ? a : b;
        if (is_mul) {
            if (p->role == ROLE_CENTRED && p == q) {
                take_role(result, ROLE_SQUARED, p);
            } else if (p->role == ROLE_INVERSE_STD && p->gamma == NULL && is_row(q, p->of->n)) {
                take_role(result, ROLE_INVERSE_STD, p);
                result->gamma = q;
            } else if (p->role == ROLE_INVERSE_STD && q->role == ROLE_CENTRED && q->of == p->of) {
                return normalise(draft, p, p->gamma, NULL, result);
            } else if (p->role == ROLE_INVERSE_STD && q == p->of) {
                take_role(result, ROLE_SCALED, p);
            } else if (p->role == ROLE_INVERSE_STD && q->role == ROLE_MEAN && q->of == p->of) {
                take_role(result, ROLE_SHIFT, p);
                result->negative = q->negative;
            }
        } else if (p->role == ROLE_VARIANCE && is_scalar(q) && q->columns[0].value > 0.0) {
            take_role(result, ROLE_VARIANCE_EPS, p);
            result->epsilon = q->columns[0].value;
        } else if (p->role == ROLE_SHIFT && p->beta == NULL && is_row(q, p->of->n)) {
            take_role(result, ROLE_SHIFT, p);
            result->beta = q;
        } else if (p->role == ROLE_SHIFT && p->negative && q->role == ROLE_SCALED && q->of == p->of &&
                   q->epsilon == p->epsilon && q->gamma == p->gamma) {
            return normalise(draft, p, p->gamma, p->beta, result);
        }
    }
    if (is_sub && b->role == ROLE_SHIFT && !b->negative && b->beta == NULL && is_row(a, b->of->n)) {
        take_role(result, ROLE_SHIFT, b); /* beta - mean * gamma / std */
        result->beta = a;
        result->negative = true;
    }
#undef IS
    return true;
}
