/* Guards: what is outside the training ranges is counted, flagged and clamped, sample by sample, whatever the layout, the
 * precision of the arrays, the instruction set and the way a host cuts its columns into calls. Traps are on throughout. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <fenv.h>
#include <math.h>
#include <pthread.h>

static const char *isas[3];
static int num_isas;

/* ---- by hand: y = (x1 + 2 x2, x2 + 4 x3, x3), 0 <= x1 <= 1, -1 <= x2 <= 2, x3 unknown ---- */

static bytes hand_made(const char *min, const char *max)
{
    static const float W[9] = {1, 0, 0, 2, 1, 0, 0, 4, 1}; /* [in][out] */
    bytes graph = {NULL, 0, 0};
    put_value_info(&graph, 11, "x", 11, 3);
    put_value_info(&graph, 12, "y", 11, 3);
    put_tensor(&graph, "W", 1, 2, (int64_t[]){3, 3}, W, sizeof W);
    put_node(&graph, "Cast", "x", "x32", "to", 1);
    put_node(&graph, "MatMul", "x32 W", "y32", NULL, 0);
    put_node(&graph, "Cast", "y32", "y", "to", 11);
    bytes model = finish_model(&graph);
    put_metadata(&model, "libemulator.input_min", min);
    put_metadata(&model, "libemulator.input_max", max);
    return model;
}

enum { HAND = 7 };

static void test_by_hand(void)
{
    const double nan = (double)NAN;
    const double x[HAND][3] = {{0, -1, 5}, {1, 2, -1e30}, {1.5, 3, 0}, {-1e30, 0.5, 0}, {nan, 9, nan}, {0.5, -1.5, nan},
                               {-0.0, 2, 1e30}};
    const int32_t outside[HAND] = {0, 0, 2, 1, 3, 2, 0};
    const int64_t below[3] = {1, 1, 0}, above[3] = {1, 2, 0}, nans[3] = {1, 0, 2};
    /* clamped: samples 0, 2 and 3, whose numbers are small */
    const double clamped[HAND][3] = {{-2, 19, 5}, {nan}, {5, 2, 0}, {1, 0.5, 0}, {nan}, {nan}, {nan}};
    bytes model = hand_made("0\n-1\nnan", "1\n2\nnan");
    for (int i = 0; i < num_isas; i++) {
        setenv("LIBEMULATOR_ISA", isas[i], 1);
        emu_model *m = load_or_die(&model);
        for (int single = 0; single < 2; single++)
            for (int features_fastest = 0; features_fastest < 2; features_fastest++) {
                const int64_t s_stride = features_fastest ? 3 : 1, f_stride = features_fastest ? 1 : HAND;
                double x64[HAND * 3], y64[HAND * 3] = {0};
                float x32[HAND * 3], y32[HAND * 3] = {0};
                int samples = 0;
                int32_t flags[HAND + 1] = {77, 77, 77, 77, 77, 77, 77, 77}; /* the last is not ours */
                int64_t b[3] = {0}, a[3] = {100, 100, 100}, n[3] = {0};
                emu_guard guard;
                emu_guard_init(&guard);
                CHECK(guard.size == sizeof guard && guard.clamp == 0 && guard.num_samples == 0, "emu_guard_init");
                guard.clamp = 1;
                guard.outside = flags;
                guard.below = b;
                guard.above = a;
                guard.nan = n;
                for (int s = 0; s < HAND; s++)
                    for (int f = 0; f < 3; f++) {
                        const int64_t at = s * s_stride + f * f_stride;
                        x64[at] = x[s][f];
                        x32[at] = (float)x[s][f];
                    }
                const emu_status status =
                    single ? emu_infer_guarded_f32(m, HAND, x32, s_stride, f_stride, y32, s_stride, f_stride, NULL, 0, &guard)
                           : emu_infer_guarded_f64(m, HAND, x64, s_stride, f_stride, y64, s_stride, f_stride, NULL, 0, &guard);
                CHECK(status == EMU_OK, "%s", emu_status_name(status));
                CHECK(memcmp(flags, outside, sizeof outside) == 0 && flags[HAND] == 77, "outside");
                CHECK(memcmp(b, below, sizeof b) == 0, "below: %d %d %d", (int)b[0], (int)b[1], (int)b[2]);
                CHECK(a[0] == 100 + above[0] && a[1] == 100 + above[1] && a[2] == 100 + above[2], "added to: %d %d %d",
                      (int)a[0], (int)a[1], (int)a[2]);
                CHECK(memcmp(n, nans, sizeof n) == 0, "nan: %d %d %d", (int)n[0], (int)n[1], (int)n[2]);
                CHECK(guard.num_samples == HAND && guard.num_outside == 4, "%d samples, %d outside",
                      (int)guard.num_samples, (int)guard.num_outside);
                for (int s = 0; s < HAND; s++)
                    for (int j = 0; j < 3 && !isnan(clamped[s][0]); j++, samples++) {
                        const int64_t at = s * s_stride + j * f_stride;
                        const double y = single ? (double)y32[at] : y64[at];
                        CHECK(y == clamped[s][j], "sample %d, output %d: %g, expected %g", s, j, y, clamped[s][j]);
                    }
                CHECK(samples == 9, "%d values compared", samples);
                CHECK(isnan(single ? (double)y32[4 * s_stride] : y64[4 * s_stride]), "NaN stays NaN");
            }
        emu_free(m);
    }
    free(model.data);
}
enum { HAND_CHECKS = 4 * (1 + 6 + 9 + 2) };

/* Ranges end at numbers that float32 does not have, or cannot reach: what is inside in float64 is inside in float32. */
static void test_ranges_in_float32(void)
{
    bytes model = hand_made("0.1\n0.3\n-1e300", "0.7\n0.3\n1e300");
    emu_model *m = load_or_die(&model);
    const float x[3][3] = {{0.1f, 0.3f, 3e38f}, {0.7f, 0.3f, -3e38f}, {nextafterf(0.7f, 1.0f), nextafterf(0.3f, 0.0f), 0}};
    float y[9], z[9];
    int32_t flags[3];
    emu_guard guard;
    emu_guard_init(&guard);
    guard.outside = flags;
    guard.clamp = 1;
    float small[9], expected[9] = {0.1f, 0.3f, 0, 0.7f, 0.3f, 0, 0.7f, 0.3f, 0};
    memcpy(small, x, sizeof x);
    small[2] = small[5] = 0.0f;
    CHECK(emu_infer_guarded_f32(m, 3, small, 3, 1, y, 3, 1, NULL, 0, &guard) == EMU_OK, "guarded");
    CHECK(flags[0] == 0 && flags[1] == 0 && flags[2] == 2, "%d %d %d", flags[0], flags[1], flags[2]);
    emu_infer_f32(m, 3, expected, 3, 1, z, 3, 1, NULL, 0);
    CHECK(memcmp(y, z, sizeof y) == 0, "moved to the ends of the ranges in float32");
    int64_t above = 0;
    for (int i = 0; i < 3; i++) { /* the layers overflow from 3e38: count in the one input, evaluate nothing large */
        small[0] = 0.1f;
        small[1] = 0.3f;
        small[2] = x[i][2] * 0.1f;
        emu_infer_guarded_f32(m, 1, small, 3, 1, y, 3, 1, NULL, 0, &guard);
        above += flags[0];
    }
    CHECK(above == 0, "nothing is above 1e300");
    emu_free(m);
    free(model.data);
}
enum { FLOAT_CHECKS = 4 };

/* ---- random nets and inputs against loops that look at one value at a time ---- */

enum { SAMPLES = 1300, INPUTS = 5, OUTPUTS = 3 }; /* more than one block of the library's pass */

typedef struct {
    double x[SAMPLES][INPUTS], clamped[SAMPLES][INPUTS];
    float x_f32[SAMPLES][INPUTS], clamped_f32[SAMPLES][INPUTS];
    int32_t outside[SAMPLES];
    int64_t below[INPUTS], above[INPUTS], nan[INPUTS], num_outside;
} sample_set;

/* One sample in `rarity` has inputs beyond its ranges or NaN. far: also infinities and 1e300, which only a clamp bears */
static sample_set *make_samples(const net *n, int rarity, int far)
{
    static sample_set set;
    memset(&set, 0, sizeof set);
    const int traps = fedisableexcept(FE_ALL_EXCEPT); /* for the comparisons below, which are not quiet */
    uint64_t state = (uint64_t)rarity * 2 + (uint64_t)far;
    random_inputs(n, 4, SAMPLES, set.x[0]);
    for (int s = 0; s < SAMPLES; s++) {
        const int touched = random_bits(&state) % (uint64_t)rarity == 0;
        for (int f = 0; f < INPUTS; f++) {
            const double low = n->low[f], high = n->high[f], width = high - low;
            double *x = &set.x[s][f];
            /* numbers that float32 has, inside by more than its rounding: both precisions then count the same */
            *x = (double)(float)(low + width * (0.01 + 0.98 * (*x - low) / width));
            const unsigned kind = touched ? (unsigned)(random_bits(&state) % 9) : 99;
            const double beyond[9] = {low - width / 8, high + width / 8, (double)NAN, (double)INFINITY,
                                      -(double)INFINITY, 1e300, low - width, *x, *x};
            if (kind < 9 && (far || kind < 3 || kind > 5))
                *x = beyond[kind];
            const int below = !isnan(*x) && *x < low, above = !isnan(*x) && *x > high;
            set.below[f] += below;
            set.above[f] += above;
            set.nan[f] += isnan(*x);
            set.outside[s] += below || above || isnan(*x);
            set.clamped[s][f] = below ? low : above ? high : *x;
            set.x_f32[s][f] = *x > 3e38 ? INFINITY : (float)*x;
            set.clamped_f32[s][f] = below ? (float)low : above ? (float)high : set.x_f32[s][f];
        }
        set.num_outside += set.outside[s] > 0;
    }
    feclearexcept(FE_ALL_EXCEPT);
    feenableexcept(traps);
    return &set;
}

typedef struct {
    int64_t sample, feature; /* strides of x; those of y have the same order */
    int backwards;
} layout;

typedef union {
    double f64[4 * SAMPLES * INPUTS];
    float f32[4 * SAMPLES * INPUTS];
} buffer;

/* Every value of y, with a guard if there is one, in calls of `cut` samples; y is gathered sample-major */
static void evaluate(const emu_model *m, int single, layout l, int64_t cut, const void *x, emu_guard *guard,
                     void *y_gathered)
{
    static buffer xs, ys;
    static unsigned char workspace[1 << 20];
    const int64_t y_sample = l.sample < l.feature ? l.sample : l.sample / INPUTS * OUTPUTS;
    const int64_t first = l.backwards ? (SAMPLES - 1) : 0, sign = l.backwards ? -1 : 1;
    const size_t size = emu_workspace_size(m);
    int32_t *flags = guard != NULL ? guard->outside : NULL;
    CHECK(size <= sizeof workspace, "workspace of %zu bytes", size);
    for (int64_t s = 0; s < SAMPLES; s++)
        for (int64_t f = 0; f < INPUTS; f++) {
            const int64_t at = (first + sign * s) * l.sample + f * l.feature, from = s * INPUTS + f;
            if (single)
                xs.f32[at] = ((const float *)x)[from];
            else
                xs.f64[at] = ((const double *)x)[from];
        }
    for (int64_t done = 0; done < SAMPLES; done += cut) {
        const int64_t n = SAMPLES - done < cut ? SAMPLES - done : cut, at = first + sign * done;
        if (guard != NULL && flags != NULL)
            guard->outside = flags + done;
        const emu_status status =
            single ? emu_infer_guarded_f32(m, n, xs.f32 + at * l.sample, sign * l.sample, l.feature,
                                           ys.f32 + at * y_sample, sign * y_sample, l.feature, workspace, size, guard)
                   : emu_infer_guarded_f64(m, n, xs.f64 + at * l.sample, sign * l.sample, l.feature,
                                           ys.f64 + at * y_sample, sign * y_sample, l.feature, workspace, size, guard);
        if (status != EMU_OK)
            abort();
    }
    if (guard != NULL)
        guard->outside = flags;
    for (int64_t s = 0; s < SAMPLES; s++)
        for (int64_t j = 0; j < OUTPUTS; j++) {
            const int64_t at = (first + sign * s) * y_sample + j * l.feature;
            if (single)
                ((float *)y_gathered)[s * OUTPUTS + j] = ys.f32[at];
            else
                ((double *)y_gathered)[s * OUTPUTS + j] = ys.f64[at];
        }
}

/* The same numbers, or both NaN (which NaN is not promised) */
static int same(int single, const void *a, const void *b)
{
    for (int i = 0; i < SAMPLES * OUTPUTS; i++) {
        const double p = single ? (double)((const float *)a)[i] : ((const double *)a)[i];
        const double q = single ? (double)((const float *)b)[i] : ((const double *)b)[i];
        if (!(isnan(p) && isnan(q)) && memcmp(&p, &q, sizeof p) != 0)
            return 0;
    }
    return 1;
}

enum { LAYOUTS = 5, CUTS = 6, SETS = 3 };

static void test_random(void)
{
    static const int widths[] = {INPUTS, 18, 7, OUTPUTS};
    static const layout layouts[LAYOUTS] = {
        {INPUTS, 1, 0}, {1, SAMPLES, 0}, {2 * INPUTS, 2, 0}, {2, 2 * SAMPLES, 1}, {1, SAMPLES, 1}};
    static const int64_t cuts[CUTS] = {1, 7, 48, 97, 601, SAMPLES};
    static buffer expected, plain, y;
    static int32_t flags[SAMPLES];
    net n = random_net(12, 3, widths, "Relu", "Sigmoid", 1);
    n.names = 1;
    for (int i = 0; i < num_isas; i++) {
        setenv("LIBEMULATOR_ISA", isas[i], 1);
        emu_model *m = load_net(&n);
        for (int set = 0; set < SETS; set++) {
            const sample_set *given = make_samples(&n, set == 0 ? 40 : set == 1 ? 2 : 30000, set == 1);
            for (int single = 0; single < 2; single++)
                for (int l = 0; l < LAYOUTS; l++)
                    for (int c = 0; c < CUTS; c++)
                        for (int clamp = set == 1; clamp < 2; clamp++) {
                            const void *x = single ? (const void *)given->x_f32 : given->x;
                            const void *moved = single ? (const void *)given->clamped_f32 : given->clamped;
                            int64_t below[INPUTS] = {0}, above[INPUTS] = {0}, nan[INPUTS] = {0};
                            emu_guard guard;
                            emu_guard_init(&guard);
                            guard.clamp = clamp;
                            guard.below = below;
                            guard.above = above;
                            guard.nan = nan;
                            guard.outside = flags;
                            memset(flags, 0x55, sizeof flags);
                            evaluate(m, single, layouts[l], cuts[c], x, &guard, &y);
                            evaluate(m, single, layouts[0], SAMPLES, clamp ? moved : x, NULL, &expected);
                            CHECK(same(single, &y, &expected), "%s, set %d, single %d, layout %d, cut %d, clamp %d", isas[i],
                                  set, single, l, (int)cuts[c], clamp);
                            const int counted = memcmp(below, given->below, sizeof below) == 0 &&
                                                memcmp(above, given->above, sizeof above) == 0 &&
                                                memcmp(nan, given->nan, sizeof nan) == 0 &&
                                                guard.num_samples == SAMPLES && guard.num_outside == given->num_outside;
                            CHECK(counted, "%s, set %d, single %d, layout %d, cut %d: %d outside, expected %d", isas[i], set,
                                  single, l, (int)cuts[c], (int)guard.num_outside, (int)given->num_outside);
                            CHECK(memcmp(flags, given->outside, sizeof flags) == 0, "flags");
                        }
            CHECK(given->num_outside == 0 || (given->below[0] > 0 && given->above[1] > 0 && given->nan[2] > 0), "a test of nothing");
        }
        /* samples in range keep their bits whatever happens to the others */
        const sample_set *given = make_samples(&n, 3, 1);
        evaluate(m, 0, layouts[1], SAMPLES, given->clamped, NULL, &plain);
        emu_guard guard;
        emu_guard_init(&guard);
        guard.clamp = 1;
        evaluate(m, 0, layouts[1], SAMPLES, given->x, &guard, &y);
        int64_t wrong = 0;
        for (int s = 0; s < SAMPLES; s++)
            if (given->outside[s] == 0)
                wrong += memcmp(&y.f64[s * OUTPUTS], &plain.f64[s * OUTPUTS], OUTPUTS * sizeof(double)) != 0;
        CHECK(wrong == 0 && guard.num_outside == given->num_outside, "%d wrong; no pointers are needed", (int)wrong);
        emu_free(m);
    }
    free_net(&n);
}
/* per case: the workspace twice, and three; each set and each instruction set: one; at the end three */
enum { RANDOM_CHECKS = 2 * LAYOUTS * CUTS * (2 + 1 + 2) * 5 + SETS + 3 };

/* ---- counters of threads add up ---- */

enum { THREADS = 4 };

typedef struct {
    const emu_model *m;
    const sample_set *given;
    int64_t first, n, below[INPUTS];
    int32_t *flags;
    emu_guard guard;
} job;

static void *work(void *pointer)
{
    job *j = pointer;
    double y[OUTPUTS * 100];
    emu_guard_init(&j->guard);
    j->guard.below = j->below;
    for (int64_t done = 0; done < j->n; done += 100) {
        const int64_t at = j->first + done;
        j->guard.outside = j->flags + at;
        emu_infer_guarded_f64(j->m, j->n - done < 100 ? j->n - done : 100, j->given->x[at], INPUTS, 1, y, OUTPUTS, 1, NULL,
                              0, &j->guard);
    }
    return NULL;
}

static void test_threads(void)
{
    static const int widths[] = {INPUTS, 18, 7, OUTPUTS};
    net n = random_net(12, 3, widths, "Relu", "Sigmoid", 1);
    n.names = 1;
    emu_model *m = load_net(&n);
    const sample_set *given = make_samples(&n, 5, 0);
    static int32_t flags[SAMPLES];
    pthread_t threads[THREADS];
    static job jobs[THREADS];
    int64_t below[INPUTS] = {0}, samples = 0, outside = 0;
    for (int t = 0; t < THREADS; t++) {
        jobs[t] = (job){.m = m, .given = given, .first = SAMPLES * t / THREADS, .flags = flags};
        jobs[t].n = SAMPLES * (t + 1) / THREADS - jobs[t].first;
        pthread_create(&threads[t], NULL, work, &jobs[t]);
    }
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        for (int f = 0; f < INPUTS; f++)
            below[f] += jobs[t].below[f];
        samples += jobs[t].guard.num_samples;
        outside += jobs[t].guard.num_outside;
    }
    CHECK(samples == SAMPLES && outside == given->num_outside && outside > 0, "%d of %d", (int)outside, (int)samples);
    CHECK(memcmp(below, given->below, sizeof below) == 0, "below");
    CHECK(memcmp(flags, given->outside, sizeof flags) == 0, "flags");
    emu_free(m);
    free_net(&n);
}
enum { THREAD_CHECKS = 3 };

/* ---- a call that fails leaves the guard as it was ---- */

static void test_errors(void)
{
    bytes model = hand_made("0\n-1\nnan", "1\n2\nnan");
    emu_model *m = load_or_die(&model);
    const double x[3] = {9, 9, 9};
    double y[3] = {-1, -1, -1};
    int64_t below[3] = {5, 6, 7};
    int32_t flag = 8;
    emu_guard good, guard;
    emu_guard_init(&good);
    good.below = good.above = good.nan = below;
    good.outside = &flag;
    good.num_samples = 3;
    for (int kind = 0; kind < 9; kind++) {
        guard = good;
        if (kind == 0) guard.size = 0;
        if (kind == 1) guard.size = sizeof guard - 8;
        if (kind == 2) guard.size = (size_t)-1;
        if (kind == 3) guard.clamp = 2;
        if (kind == 4) guard.clamp = -1;
        const emu_guard before = guard;
        const emu_status status =
            emu_infer_guarded_f64(kind == 8 ? NULL : m, kind == 5 ? -1 : 1, kind == 6 ? NULL : x, 3, 1, y, 3, 1,
                                  kind == 7 ? y : NULL, 0, &guard);
        CHECK(status == EMU_ERR_ARGUMENT, "kind %d: %s", kind, emu_status_name(status));
        CHECK(memcmp(&guard, &before, sizeof guard) == 0 && below[0] == 5 && below[1] == 6 && below[2] == 7 && flag == 8 &&
                  y[0] == -1, "kind %d: touched", kind);
    }
    guard = good;
    CHECK(emu_infer_guarded_f64(m, 0, NULL, 0, 0, NULL, 0, 0, NULL, 0, &guard) == EMU_OK && guard.num_samples == 3,
          "no samples, nothing counted");
    CHECK(emu_infer_guarded_f64(m, 1, x, 3, 1, y, 3, 1, NULL, 0, NULL) == EMU_OK && y[0] == 27, "no guard");
    emu_free(m);
    free(model.data);
}
enum { ERROR_CHECKS = 2 * 9 + 2 };

/* Loading does arithmetic of its own (here an overflow), which is none of the host's */
static void test_load_with_traps(void)
{
    bytes model = hand_made("-1e999\n-1\nnan", "1e999\n2\n1e-320");
    emu_model *m;
    feclearexcept(FE_ALL_EXCEPT);
    CHECK(emu_load_bytes(model.data, model.size, &m, NULL, 0) == EMU_OK && emu_input_max(m, 0) > 1e308, "1e999");
    CHECK(fetestexcept(FE_ALL_EXCEPT) == 0, "the flags are the host's too");
    emu_free(m);
    free(model.data);
}
enum { LOAD_CHECKS = 2 };

/* A range that nothing lies in is a mistake of the file; one of a single value is not. */
static void test_range_upside_down(void)
{
    emu_model *m;
    char message[200];
    bytes model = hand_made("0\n2.5\nnan", "1\n2\nnan");
    CHECK(emu_load_bytes(model.data, model.size, &m, message, sizeof message) == EMU_ERR_FORMAT && m == NULL,
          "minimum above maximum");
    CHECK(strstr(message, "input_min' is 2.5 for 'x_2'") != NULL && strstr(message, "input_max', 2") != NULL, "%s", message);
    free(model.data);
    model = hand_made("0\n2\nnan", "1\n2\nnan");
    CHECK(emu_load_bytes(model.data, model.size, &m, message, sizeof message) == EMU_OK, "%s", message);
    emu_free(m);
    free(model.data);
}
enum { RANGE_CHECKS = 3 };

int main(void)
{
    num_isas = available_isas(isas);
    feenableexcept(FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO);
    test_by_hand();
    test_random();
    unsetenv("LIBEMULATOR_ISA");
    test_ranges_in_float32();
    test_threads();
    test_errors();
    test_load_with_traps();
    test_range_upside_down();
    CHECK(fegetexcept() == (FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO), "the traps were changed");
    FINISH(num_isas * (HAND_CHECKS + RANDOM_CHECKS) + FLOAT_CHECKS + THREAD_CHECKS + ERROR_CHECKS + LOAD_CHECKS + RANGE_CHECKS +
           1);
}
