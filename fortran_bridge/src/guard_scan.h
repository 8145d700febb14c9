/* Included by guard.c, once for REAL double and once for REAL float.
 *
 * C has no comparison of which both compilers make a quiet one: `<` raises "invalid" for a NaN, and gcc 12 makes of
 * isless() what it makes of `<`. So each value is tested for being a number first (`x == x` is quiet), then replaced by
 * the range's minimum if it is not one, by its bits, where no optimisation sees that a NaN could have got through. */

enum { NAME(LANES) = 32 / sizeof(REAL) };
typedef REAL NAME(vec) __attribute__((vector_size(32)));
typedef BITS NAME(mask) __attribute__((vector_size(32)));

INLINE REAL NAME(number_or)(REAL value, REAL instead)
{
    BITS bits, other;
    memcpy(&bits, &value, sizeof bits);
    memcpy(&other, &instead, sizeof other);
    const BITS number = -(BITS)(value == value);
    bits = (bits & number) | (other & ~number);
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE bool NAME(is_outside)(REAL value, REAL low, REAL high)
{
    const REAL number = NAME(number_or)(value, low);
    return (value != value) | (number < low) | (number > high);
}

INLINE REAL NAME(clamped)(REAL value, REAL low, REAL high)
{
    const REAL number = NAME(number_or)(value, low);
    const REAL moved = number < low ? low : number > high ? high : number;
    return value == value ? moved : value;
}

/* Set the lanes of *found whose value is outside or NaN. Vectors go by address: those of an instruction set that the
 * file is not compiled for have no settled way to be passed by value. */
INLINE void NAME(find)(const REAL *x, const NAME(vec) *low, const NAME(vec) *high, NAME(mask) *found)
{
    NAME(vec) value;
    memcpy(&value, x, sizeof value);
    const NAME(mask) number = value == value;
    const NAME(vec) safe = (NAME(vec))(((NAME(mask))value & number) | ((NAME(mask))*low & ~number));
    *found |= ~number | (safe < *low) | (safe > *high);
}

INLINE bool NAME(any)(const NAME(mask) *mask)
{
    BITS lanes[NAME(LANES)], all = 0;
    memcpy(lanes, mask, sizeof lanes);
    for (int i = 0; i < NAME(LANES); i++)
        all |= lanes[i];
    return all != 0;
}

/* Is any of n consecutive values outside? The same limits for all of them */
INLINE bool NAME(column_body)(const REAL *x, int64_t n, REAL low, REAL high)
{
    const NAME(vec) lows = low - (NAME(vec)){0}, highs = high - (NAME(vec)){0};
    NAME(mask) found = {0};
    bool tail = false;
    int64_t i = 0;
    for (; i + NAME(LANES) <= n; i += NAME(LANES))
        NAME(find)(x + i, &lows, &highs, &found);
    for (; i < n; i++)
        tail |= NAME(is_outside)(x[i], low, high);
    return tail | NAME(any)(&found);
}

/* The same with limits of their own */
INLINE bool NAME(row_body)(const REAL *x, int64_t n, const REAL *low, const REAL *high)
{
    NAME(mask) found = {0};
    bool tail = false;
    int64_t i = 0;
    for (; i + NAME(LANES) <= n; i += NAME(LANES)) {
        NAME(vec) lows, highs;
        memcpy(&lows, low + i, sizeof lows);
        memcpy(&highs, high + i, sizeof highs);
        NAME(find)(x + i, &lows, &highs, &found);
    }
    for (; i < n; i++)
        tail |= NAME(is_outside)(x[i], low[i], high[i]);
    return tail | NAME(any)(&found);
}

/* The values of the features f0 to f1 of the samples s0 to s1, one by one; numbers[s]: inputs of s that are outside */
static __attribute__((noinline)) void NAME(examine)(const emu_model *m, emu_guard *guard, const REAL *x, int64_t xs,
                                                    int64_t xf, int64_t s0, int64_t s1, int64_t f0, int64_t f1,
                                                    int32_t *numbers)
{
    const REAL *low = m->LIMITS, *high = low + m->num_inputs;
    for (int64_t f = f0; f < f1; f++) {
        int64_t below = 0, above = 0, nan = 0;
        for (int64_t s = s0; s < s1; s++) {
            const REAL value = x[s * xs + f * xf], number = NAME(number_or)(value, low[f]);
            const int is_nan = value != value, is_below = number < low[f], is_above = !is_below & (number > high[f]);
            nan += is_nan;
            below += is_below;
            above += is_above & !is_nan;
            numbers[s] += is_nan | is_below | is_above;
        }
        if (guard->below != NULL)
            guard->below[f] += below;
        if (guard->above != NULL)
            guard->above[f] += above;
        if (guard->nan != NULL)
            guard->nan[f] += nan;
    }
}

/* Look at a block and examine the columns or rows in which something is outside; false if there are none, and then the
 * numbers are not set. Strided both ways, all of it is examined. */
INLINE bool NAME(scan_body)(const emu_model *m, emu_guard *guard, int64_t count, const REAL *x, int64_t xs, int64_t xf,
                            int32_t *numbers)
{
    const int64_t inputs = m->num_inputs;
    const REAL *low = m->LIMITS, *high = low + inputs;
    bool found = xs != 1 && xf != 1;
    if (found) {
        memset(numbers, 0, (size_t)count * sizeof *numbers);
        NAME(examine)(m, guard, x, xs, xf, 0, count, 0, inputs, numbers);
        return true;
    }
    const int64_t parts = xf == 1 ? count : inputs;
    for (int64_t i = 0; i < parts; i++) {
        if (xf == 1 ? !NAME(row_body)(x + i * xs, inputs, low, high)
                    : !NAME(column_body)(x + i * xf, count, low[i], high[i]))
            continue;
        if (!found)
            memset(numbers, 0, (size_t)count * sizeof *numbers);
        found = true;
        if (xf == 1)
            NAME(examine)(m, guard, x, xs, xf, i, i + 1, 0, inputs, numbers);
        else
            NAME(examine)(m, guard, x, xs, xf, 0, count, i, i + 1, numbers);
    }
    return found;
}

static bool NAME(scan)(const emu_model *m, emu_guard *guard, int64_t count, const REAL *x, int64_t xs, int64_t xf,
                       int32_t *numbers)
{
    return NAME(scan_body)(m, guard, count, x, xs, xf, numbers);
}

#if EMU_WITH_X86
__attribute__((target("avx2"))) static bool NAME(scan_avx2)(const emu_model *m, emu_guard *guard, int64_t count,
                                                            const REAL *x, int64_t xs, int64_t xf, int32_t *numbers)
{
    return NAME(scan_body)(m, guard, count, x, xs, xf, numbers);
}
#else
#define scan_avx2_f64 scan_f64
#define scan_avx2_f32 scan_f32
#endif

bool NAME(emu_guard_count)(const emu_model *m, emu_guard *guard, int64_t first, int64_t count, const REAL *x, int64_t xs,
                           int64_t xf)
{
    const bool avx2 = has_avx2(m);
    bool any = false;
    for (int64_t done = 0; done < count; done += EMU_GUARD_BLOCK) {
        const int64_t n = count - done < EMU_GUARD_BLOCK ? count - done : EMU_GUARD_BLOCK;
        const REAL *from = x + done * xs;
        int32_t numbers[EMU_GUARD_BLOCK];
        if (avx2 ? NAME(scan_avx2)(m, guard, n, from, xs, xf, numbers) : NAME(scan)(m, guard, n, from, xs, xf, numbers)) {
            int64_t samples = 0;
            for (int64_t s = 0; s < n; s++)
                samples += numbers[s] != 0;
            guard->num_outside += samples;
            any |= samples != 0;
            if (guard->outside != NULL)
                memcpy(guard->outside + first + done, numbers, (size_t)n * sizeof *numbers);
        } else if (guard->outside != NULL) {
            memset(guard->outside + first + done, 0, (size_t)n * sizeof *numbers);
        }
    }
    guard->num_samples += count;
    return any;
}

void NAME(emu_guard_clamp)(const emu_model *m, int64_t count, const REAL *x, int64_t xs, int64_t xf, REAL *to)
{
    const REAL *low = m->LIMITS, *high = low + m->num_inputs;
    for (int64_t f = 0; f < m->num_inputs; f++, to += EMU_GUARD_BLOCK) {
        for (int64_t s = 0; s < count; s++)
            to[s] = x[s * xs + f * xf];
        if (!NAME(column_body)(to, count, low[f], high[f]))
            continue;
        for (int64_t s = 0; s < count; s++)
            to[s] = NAME(clamped)(to[s], low[f], high[f]);
    }
}
