/* Included by guard.c, once for REAL double and once for REAL float: the vector pass. */

enum { NAME(LANES) = 32 / sizeof(REAL) };
typedef REAL NAME(vec) __attribute__((vector_size(32)));
typedef BITS NAME(mask) __attribute__((vector_size(32)));

/* Is any of n consecutive values outside or NaN? range: [2][inputs]. A column (>= 0) has one minimum and maximum for all;
 * of a row (-1), value i has its own. */
WITH_VECTORS static bool NAME(any_outside)(const REAL *x, int64_t n, const REAL *range, int64_t inputs, int64_t column)
{
    const REAL *low = range, *high = range + inputs;
    REAL same[2][NAME(LANES)];
    for (int i = 0; i < NAME(LANES) && column >= 0; i++) {
        same[0][i] = low[column];
        same[1][i] = high[column];
    }
    if (column >= 0) {
        low = same[0];
        high = same[1];
    }
    NAME(mask) found = {0};
    for (int64_t i = 0; i < n; i += NAME(LANES)) {
        const int64_t limit = column >= 0 ? 0 : i, left = n - i;
        NAME(vec) value, lows, highs;
        if (left < NAME(LANES)) { /* the rest: filled up with what is inside, limits that are there anyway */
            REAL rest[3][NAME(LANES)] = {{0}};
            memcpy(rest[0], x + i, (size_t)left * sizeof *x);
            memcpy(rest[1], low + limit, (size_t)left * sizeof *x);
            memcpy(rest[2], high + limit, (size_t)left * sizeof *x);
            memcpy(&value, rest[0], sizeof value);
            memcpy(&lows, rest[1], sizeof lows);
            memcpy(&highs, rest[2], sizeof highs);
        } else {
            memcpy(&value, x + i, sizeof value);
            memcpy(&lows, low + limit, sizeof lows);
            memcpy(&highs, high + limit, sizeof highs);
        }
        const NAME(mask) number = value == value;
        const NAME(vec) safe = (NAME(vec))(((NAME(mask))value & number) | ((NAME(mask))lows & ~number));
        found |= ~number | (safe < lows) | (safe > highs);
    }
    BITS lanes[NAME(LANES)], all = 0;
    memcpy(lanes, &found, sizeof lanes);
    for (int i = 0; i < NAME(LANES); i++)
        all |= lanes[i];
    return all != 0;
}
