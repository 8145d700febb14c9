/* The guards. Most inputs of most calls lie within the ranges: a vector pass finds the columns (or rows) in which any of
 * them does not, and only there are they looked at one by one, in float64, which holds every float32.
 *
 * C has no comparison of which both compilers make a quiet one: `<` raises "invalid" for a NaN, and gcc 12 makes of
 * isless() what it makes of `<`. So each value is tested for being a number first (`x == x` is quiet), then replaced by
 * the range's minimum if it is not one, by its bits, where no optimisation sees that a NaN could have got through. */
#include "guard.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The nearest float32, without the overflow exception that a conversion of 1e300 raises */
static float nearest_float(double value)
{
    if (value > (double)FLT_MAX)
        return INFINITY;
    return value < -(double)FLT_MAX ? -INFINITY : (float)value;
}

bool emu_set_limits(emu_model *m)
{
    const size_t n = (size_t)m->num_inputs;
    double *wide = emu_arena_alloc(&m->arena, 2 * n, sizeof *wide);
    float *narrow = emu_arena_alloc(&m->arena, 2 * n, sizeof *narrow);
    if (wide == NULL || narrow == NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        wide[i] = isnan(m->input_min[i]) ? -(double)INFINITY : m->input_min[i];
        wide[n + i] = isnan(m->input_max[i]) ? (double)INFINITY : m->input_max[i];
    }
    for (size_t i = 0; i < 2 * n; i++)
        narrow[i] = nearest_float(wide[i]);
    m->limits_f64 = wide;
    m->limits_f32 = narrow;
    return true;
}

bool emu_guard_is_good(const emu_guard *guard)
{
    return guard->size == sizeof *guard && (guard->clamp == 0 || guard->clamp == 1);
}

/* ---- one value; whatever the optimisation, no call for each ---- */

#define INLINE static inline __attribute__((always_inline))

INLINE double value_at(const void *x, size_t size, int64_t i)
{
    return size == sizeof(double) ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

INLINE double number_or(double value, double instead)
{
    int64_t bits, other;
    memcpy(&bits, &value, sizeof bits);
    memcpy(&other, &instead, sizeof other);
    const int64_t number = -(int64_t)(value == value);
    bits = (bits & number) | (other & ~number);
    memcpy(&value, &bits, sizeof value);
    return value;
}

typedef struct {
    double low, high;
} limits;

static limits limits_of(const emu_model *m, int64_t f, size_t size)
{
    const void *all = size == sizeof(double) ? (const void *)m->limits_f64 : m->limits_f32;
    return (limits){value_at(all, size, f), value_at(all, size, m->num_inputs + f)};
}

INLINE double clamped(double value, limits range)
{
    const double number = number_or(value, range.low);
    const double moved = number < range.low ? range.low : number > range.high ? range.high : number;
    return value == value ? moved : value;
}

/* ---- the vector pass ---- */

/* x86 processors without AVX2 go without it; others have vectors of 128 bits at least, and the compiler knows them. */
#if EMU_WITH_X86
#define WITH_VECTORS __attribute__((target("avx2")))
static bool has_vectors(const emu_model *m)
{
    return m->kernels != NULL && m->kernels->name[0] == 'a'; /* avx2, avx512 */
}
#else
#define WITH_VECTORS
static bool has_vectors(const emu_model *m)
{
    (void)m;
    return true;
}
#endif

#define REAL double
#define BITS int64_t
#define NAME(name) name##_f64
#include "guard_scan.h"
#undef REAL
#undef BITS
#undef NAME

#define REAL float
#define BITS int32_t
#define NAME(name) name##_f32
#include "guard_scan.h"

/* ---- counting ---- */

typedef struct {
    const emu_model *m;
    emu_guard *guard;
    size_t size;
    const void *x;
    int64_t xs, xf, inputs;
} scan;

/* The values of the features f0 to f1 of the samples s0 to s1, one by one; numbers[s]: inputs of s that are outside */
static void examine(const scan *c, int64_t s0, int64_t s1, int64_t f0, int64_t f1, int32_t *numbers)
{
    for (int64_t f = f0; f < f1; f++) {
        const limits range = limits_of(c->m, f, c->size);
        int64_t below = 0, above = 0, nan = 0;
        for (int64_t s = s0; s < s1; s++) {
            const double value = value_at(c->x, c->size, s * c->xs + f * c->xf), number = number_or(value, range.low);
            const int is_nan = value != value, is_below = number < range.low;
            const int is_above = !is_below & (number > range.high) & !is_nan;
            nan += is_nan;
            below += is_below;
            above += is_above;
            numbers[s] += is_nan | is_below | is_above;
        }
        if (c->guard->below != NULL)
            c->guard->below[f] += below;
        if (c->guard->above != NULL)
            c->guard->above[f] += above;
        if (c->guard->nan != NULL)
            c->guard->nan[f] += nan;
    }
}

/* Is anything outside in column f, or in row s? */
static bool any_outside(const scan *c, int64_t i, int64_t count, bool in_rows)
{
    const int64_t at = i * (in_rows ? c->xs : c->xf), n = in_rows ? c->inputs : count;
    return c->size == sizeof(double)
               ? any_outside_f64((const double *)c->x + at, n, c->m->limits_f64, c->inputs, in_rows ? -1 : i)
               : any_outside_f32((const float *)c->x + at, n, c->m->limits_f32, c->inputs, in_rows ? -1 : i);
}

/* Look at a block and examine the columns or rows in which something is outside; false if there are none. Strided both
 * ways, all of it is examined. */
static bool look(const scan *c, int64_t count, int32_t *numbers)
{
    const bool in_rows = c->xf == 1, all = (c->xs != 1 && c->xf != 1) || !has_vectors(c->m);
    bool found = false;
    for (int64_t i = 0; i < (all ? 1 : in_rows ? count : c->inputs); i++) {
        if (!all && !any_outside(c, i, count, in_rows))
            continue;
        found = true;
        if (all)
            examine(c, 0, count, 0, c->inputs, numbers);
        else if (in_rows)
            examine(c, i, i + 1, 0, c->inputs, numbers);
        else
            examine(c, 0, count, i, i + 1, numbers);
    }
    return found;
}

bool emu_guard_count(const emu_model *m, emu_guard *guard, int64_t first, int64_t count, size_t size, const void *x,
                     int64_t xs, int64_t xf)
{
    bool any = false;
    scan c = {m, guard, size, x, xs, xf, m->num_inputs};
    for (int64_t done = 0; done < count; done += EMU_GUARD_BLOCK) {
        const int64_t n = count - done < EMU_GUARD_BLOCK ? count - done : EMU_GUARD_BLOCK;
        int32_t numbers[EMU_GUARD_BLOCK];
        memset(numbers, 0, (size_t)n * sizeof *numbers);
        c.x = (const unsigned char *)x + done * xs * (int64_t)size;
        if (look(&c, n, numbers)) {
            int64_t samples = 0;
            for (int64_t s = 0; s < n; s++)
                samples += numbers[s] != 0;
            guard->num_outside += samples;
            any |= samples != 0;
        }
        if (guard->outside != NULL)
            memcpy(guard->outside + first + done, numbers, (size_t)n * sizeof *numbers);
    }
    guard->num_samples += count;
    return any;
}

/* ---- clamping ---- */

void emu_guard_clamp(const emu_model *m, int64_t count, size_t size, const void *x, int64_t xs, int64_t xf, void *to)
{
    for (int64_t f = 0; f < m->num_inputs; f++) {
        const limits range = limits_of(m, f, size);
        for (int64_t s = 0; s < count; s++) {
            const double value = clamped(value_at(x, size, s * xs + f * xf), range);
            const int64_t at = f * EMU_GUARD_BLOCK + s;
            if (size == sizeof(double))
                ((double *)to)[at] = value;
            else
                ((float *)to)[at] = (float)value;
        }
    }
}

double emu_guard_clamp_value(const emu_model *m, int64_t f, size_t size, double value)
{
    return clamped(value, limits_of(m, f, size));
}
