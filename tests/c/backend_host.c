/* A host as climate models are: traps enabled, OpenMP threads of its own, arrays in Fortran's order. It evaluates
 * whatever model and backend its arguments name and knows nothing else of them; tests/python/test_backends.py runs it.
 *
 *   backend_host MODEL BACKEND LIBRARY NUM_THREADS X Y     "-" for BACKEND or LIBRARY: the default
 *
 * X holds float64 samples, Y receives the outputs. Exit status 0: evaluated, and every property below held; 3: the
 * model was refused, the message is on stderr; 1: a property did not hold. */
#define _GNU_SOURCE
#include <fenv.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "libemulator.h"

static int failures;
static FILE *report; /* stderr, whatever fd 2 is at the moment */

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(report, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            failures++;                                                                  \
        }                                                                                \
    } while (0)

/* ---- what must be as it was after every call ---- */

typedef struct {
    int traps, rounding, flags, threads, dynamic, levels;
    unsigned mxcsr;
} settings;

/* Arithmetic of our own may be inexact; while another library has the floor, not even that may show. */
static int ignored_flags = FE_INEXACT;

static settings look(void)
{
    settings s;
    memset(&s, 0, sizeof s);
    s.traps = fegetexcept();
    s.rounding = fegetround();
    s.flags = fetestexcept(FE_ALL_EXCEPT & ~ignored_flags);
    s.threads = omp_get_max_threads();
    s.dynamic = omp_get_dynamic();
    s.levels = omp_get_max_active_levels();
#if defined(__SSE2__)
    s.mxcsr = _mm_getcsr() & ~(unsigned)ignored_flags; /* the same bits there */
#endif
    return s;
}

static void enable(void)
{
    feclearexcept(FE_ALL_EXCEPT);
    feraiseexcept(FE_UNDERFLOW); /* a flag of the host's, which must stay; inexact and the others must not come */
    feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
#if defined(__SSE2__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* flush-to-zero, as hosts compiled with -ffast-math have it */
#endif
    omp_set_num_threads(3);
}

#define UNCHANGED(call)                                                                              \
    do {                                                                                             \
        const settings before_ = look();                                                             \
        call;                                                                                        \
        const settings after_ = look();                                                              \
        if (memcmp(&before_, &after_, sizeof before_) != 0) {                                        \
            fprintf(report,                                                                          \
                    "line %d: settings changed: traps %x %x, rounding %x %x, flags %x %x, threads %d %d, "   \
                    "mxcsr %x %x\n",                                                                          \
                    __LINE__, before_.traps, after_.traps, before_.rounding, after_.rounding,        \
                    before_.flags, after_.flags, before_.threads, after_.threads, before_.mxcsr, after_.mxcsr); \
            failures++;                                                                              \
        }                                                                                            \
    } while (0)

/* ---- threads ---- */

typedef struct {
    const emu_model *model;
    const double *x, *expected;
    int64_t n, m, ncol;
    int wrong;
} task;

static void *evaluate_again(void *argument)
{
    task *t = argument;
    double *y = malloc((size_t)(t->ncol * t->m) * sizeof *y);
    enable();
    for (int repeat = 0; repeat < 20; repeat++) {
        memset(y, 0, (size_t)(t->ncol * t->m) * sizeof *y);
        UNCHANGED(t->wrong += emu_infer_f64(t->model, t->ncol, t->x, t->n, 1, y, t->m, 1, NULL, 0) != EMU_OK);
        t->wrong += memcmp(y, t->expected, (size_t)(t->ncol * t->m) * sizeof *y) != 0;
    }
    free(y);
    return NULL;
}

/* ---- the host ---- */

static void *read_all(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        exit(2);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size + 1);
    if (data == NULL || fread(data, 1, *size, file) != *size)
        exit(2);
    fclose(file);
    return data;
}

static bool same(double a, double b, double tolerance)
{
    return (isnan(a) && isnan(b)) || fabs(a - b) <= tolerance;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    report = fdopen(dup(2), "w");
    setvbuf(report, NULL, _IONBF, 0);
    FILE *output = tmpfile(); /* where stdout and stderr go while the library has the floor */
    fflush(stdout);
    dup2(fileno(output), 1);
    dup2(fileno(output), 2);
    enable();

    emu_options options;
    emu_options_init(&options);
    options.backend = strcmp(argv[2], "-") != 0 ? argv[2] : NULL;
    options.library = strcmp(argv[3], "-") != 0 ? argv[3] : NULL;
    options.num_threads = atoi(argv[4]);
    emu_model *model;
    emu_status status;
    char message[1024];
    UNCHANGED(status = emu_load_with(argv[1], &options, &model, message, sizeof message));
    if (status != EMU_OK) {
        CHECK(lseek(fileno(output), 0, SEEK_END) == 0);
        fprintf(report, "%s: %s\n", emu_status_name(status), message);
        return failures > 0 ? 1 : 3;
    }

    if (strcmp(emu_backend(model), "native") != 0)
        ignored_flags = 0;
    size_t size;
    double *x = read_all(argv[5], &size);
    const int64_t n = emu_num_inputs(model), m = emu_num_outputs(model), ncol = (int64_t)(size / sizeof *x) / n;
    double *y = calloc((size_t)(ncol * m), sizeof *y);
    UNCHANGED(status = emu_infer_f64(model, ncol, x, n, 1, y, m, 1, NULL, 0));
    CHECK(status == EMU_OK);

    /* the same call again and again: a run-time compiler must not change its mind */
    double *again = calloc((size_t)(ncol * m), sizeof *again);
    for (int i = 0; i < 10; i++) {
        UNCHANGED(status = emu_infer_f64(model, ncol, x, n, 1, again, m, 1, NULL, 0));
        CHECK(status == EMU_OK && memcmp(y, again, (size_t)(ncol * m) * sizeof *y) == 0);
    }

    /* Fortran's order, x(pcols, n), with columns that are not to be touched */
    const int64_t pcols = ncol + 5;
    double *xf = malloc((size_t)(pcols * n) * sizeof *xf), *yf = malloc((size_t)(pcols * m) * sizeof *yf);
    for (int64_t i = 0; i < pcols * n; i++)
        xf[i] = -1e300;
    for (int64_t i = 0; i < pcols * m; i++)
        yf[i] = 7.0;
    for (int64_t s = 0; s < ncol; s++) {
        for (int64_t f = 0; f < n; f++)
            xf[s + f * pcols] = x[s * n + f];
    }
    UNCHANGED(status = emu_infer_f64(model, ncol, xf, 1, pcols, yf, 1, pcols, NULL, 0));
    CHECK(status == EMU_OK);
    for (int64_t j = 0; j < m; j++) {
        for (int64_t s = 0; s < pcols; s++)
            CHECK(s < ncol ? memcmp(&yf[s + j * pcols], &y[s * m + j], sizeof *y) == 0 : yf[s + j * pcols] == 7.0);
    }

    /* float32 arrays: inputs are rounded, so results only agree to what that costs; smooth models of order one */
    float *x32 = malloc((size_t)(ncol * n) * sizeof *x32), *y32 = malloc((size_t)(ncol * m) * sizeof *y32);
    for (int64_t i = 0; i < ncol * n; i++)
        x32[i] = (float)x[i];
    UNCHANGED(status = emu_infer_f32(model, ncol, x32, n, 1, y32, m, 1, NULL, 0));
    CHECK(status == EMU_OK);
    for (int64_t i = 0; i < ncol * m; i++)
        CHECK(same((double)y32[i], y[i], 1e-4 * (1.0 + fabs(y[i]))));

    /* threads at a time, each with settings of its own */
    pthread_t threads[4];
    task tasks[4];
    for (int i = 0; i < 4; i++) {
        tasks[i] = (task){model, x, y, n, m, ncol, 0};
        pthread_create(&threads[i], NULL, evaluate_again, &tasks[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK(tasks[i].wrong == 0);
    }
#pragma omp parallel num_threads(2)
    {
        double *mine = malloc((size_t)(ncol * m) * sizeof *mine);
        enable();
        emu_status own;
        UNCHANGED(own = emu_infer_f64(model, ncol, x, n, 1, mine, m, 1, NULL, 0));
        const bool equal = own == EMU_OK && memcmp(y, mine, (size_t)(ncol * m) * sizeof *y) == 0;
#pragma omp critical
        CHECK(equal);
        free(mine);
    }

    if (emu_metadata(model, "libemulator.check_inputs") != NULL) {
        double difference;
        status = emu_self_check(model, &difference, message, sizeof message); /* compares, so may be inexact */
        CHECK(status == EMU_OK);
        CHECK(difference <= 1e-5);
    }
    UNCHANGED(emu_free(model));

    /* a second life in the same process */
    ignored_flags = FE_INEXACT;
    UNCHANGED(status = emu_load_with(argv[1], &options, &model, message, sizeof message));
    CHECK(status == EMU_OK);
    UNCHANGED(status = emu_infer_f64(model, ncol, x, n, 1, again, m, 1, NULL, 0));
    CHECK(status == EMU_OK && memcmp(y, again, (size_t)(ncol * m) * sizeof *y) == 0);
    UNCHANGED(emu_free(model));

    fflush(stdout);
    fflush(stderr);
    CHECK(lseek(fileno(output), 0, SEEK_END) == 0); /* nothing was printed */
    FILE *file = fopen(argv[6], "wb");
    CHECK(file != NULL && fwrite(y, sizeof *y, (size_t)(ncol * m), file) == (size_t)(ncol * m) && fclose(file) == 0);
    void *memory[] = {x, y, again, xf, yf, x32, y32};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        free(memory[i]);
    return failures > 0 ? 1 : 0;
}
