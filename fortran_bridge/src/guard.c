/* The guards. Most inputs of most calls lie within the ranges: a vector pass finds the columns (or rows) in which any of
 * them does not, and only there are they looked at one by one. */
#include "guard.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

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

/* The vector pass needs AVX2, or does with SSE2 and takes twice the time. */
static bool has_avx2(const emu_model *m)
{
#if EMU_WITH_X86
    return m->kernels != NULL && m->kernels->name[0] == 'a'; /* avx2, avx512 */
#else
    (void)m;
    return false;
#endif
}

#define REAL double
#define BITS int64_t
#define LIMITS limits_f64
#define NAME(name) name##_f64
#include "guard_scan.h"
#undef REAL
#undef BITS
#undef LIMITS
#undef NAME

#define REAL float
#define BITS int32_t
#define LIMITS limits_f32
#define NAME(name) name##_f32
#include "guard_scan.h"

double emu_guard_clamp_value(double value, double low, double high)
{
    return clamped_f64(value, low, high);
}
