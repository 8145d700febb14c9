/* What a call may touch: only the ncol samples of x and y and the workspace. Arrays end at pages without access; traps
 * for invalid, overflow and division by zero are on. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <fenv.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    unsigned char *pages;
    size_t size;
    void *start; /* of `bytes` bytes that end (or begin) at a page without access */
} guarded;

static guarded guard(size_t bytes, int at_end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    guarded g = {NULL, inner + 2 * page, NULL};
    g.pages = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.pages == MAP_FAILED || mprotect(g.pages, page, PROT_NONE) != 0 ||
        mprotect(g.pages + page + inner, page, PROT_NONE) != 0) {
        perror("mmap");
        exit(1);
    }
    g.start = g.pages + page + (at_end ? inner - bytes : 0);
    return g;
}

static void release(guarded *g)
{
    munmap(g->pages, g->size);
}

/* A guard's arrays have exactly the right size too. Here the first sample is outside (huge, infinite and NaN inputs), and
 * clamped; the last one, which a vector might reach beyond, only has its bits compared. */
static void check_with_guard(const emu_model *m, int64_t ncol, int features_fastest, double *px, double *py,
                             const double *expected, guarded *workspace, int at_end)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m), xs = features_fastest ? I : 1, xf = features_fastest ? 1 : ncol;
    const int64_t ys = features_fastest ? O : 1, yf = features_fastest ? 1 : ncol;
    guarded arrays[4];
    for (int i = 0; i < 4; i++) {
        const size_t bytes = i == 0 ? (size_t)ncol * sizeof(int32_t) : (size_t)I * sizeof(int64_t);
        arrays[i] = guard(bytes, at_end);
        memset(arrays[i].start, i == 0 ? 0x55 : 0, bytes);
    }
    emu_guard g;
    emu_guard_init(&g);
    g.clamp = 1;
    g.outside = arrays[0].start;
    g.below = arrays[1].start;
    g.above = arrays[2].start;
    g.nan = arrays[3].start;
    px[0] = 1e308;
    px[xf] = -(double)INFINITY;
    px[2 * xf] = (double)NAN;
    const emu_status status =
        emu_infer_guarded_f64(m, ncol, px, xs, xf, py, ys, yf, workspace->start, emu_workspace_size(m), &g);
    long wrong = status != EMU_OK || g.num_samples != ncol || g.num_outside != 1 || g.outside[0] != 3 || g.above[0] != 1 ||
                 g.below[1] != 1 || g.nan[2] != 1;
    for (int64_t s = 1; s < ncol; s++) {
        wrong += g.outside[s] != 0;
        for (int64_t j = 0; j < O; j++)
            wrong += memcmp(&py[s * ys + j * yf], &expected[s * O + j], 8) != 0;
    }
    CHECK(wrong == 0, "with a guard, %d samples: %ld wrong", (int)ncol, wrong);
    for (int i = 0; i < 4; i++)
        release(&arrays[i]);
}

/* Each layout with arrays of exactly the right size, at either end of their pages */
static void check_guarded(const net *n, const emu_model *m, int64_t ncol, const double *x, const double *expected)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    for (int at_end = 0; at_end < 2; at_end++)
        for (int features_fastest = 0; features_fastest < 2; features_fastest++) {
            guarded gx = guard((size_t)(ncol * I) * sizeof(double), at_end);
            guarded gy = guard((size_t)(ncol * O) * sizeof(double), at_end);
            guarded gw = guard(emu_workspace_size(m), at_end);
            double *px = gx.start, *py = gy.start;
            /* whatever the workspace holds is no excuse: signalling NaN, as float32 and as float64 */
            for (size_t i = 0; i < emu_workspace_size(m); i++)
                ((unsigned char *)gw.start)[i] = i % 2 ? 0x7f : 0xa0;
            for (int64_t s = 0; s < ncol; s++)
                for (int64_t f = 0; f < I; f++)
                    px[features_fastest ? s * I + f : s + f * ncol] = x[s * I + f];
            const emu_status status =
                emu_infer_f64(m, ncol, px, features_fastest ? I : 1, features_fastest ? 1 : ncol, py,
                              features_fastest ? O : 1, features_fastest ? 1 : ncol, gw.start, emu_workspace_size(m));
            long wrong = status != EMU_OK;
            for (int64_t s = 0; s < ncol; s++)
                for (int64_t j = 0; j < O; j++)
                    wrong += memcmp(&py[features_fastest ? s * O + j : s + j * ncol], &expected[s * O + j], 8) != 0;
            CHECK(wrong == 0, "%d-..., %d samples: %ld wrong", n->widths[0], (int)ncol, wrong);
            check_with_guard(m, ncol, features_fastest, px, py, expected, &gw, at_end);
            release(&gx);
            release(&gy);
            release(&gw);
        }
}

/* Columns beyond ncol keep their bits; those of x are signalling NaN, which may not even be read */
static void check_untouched(const emu_model *m, int64_t ncol, const double *x, const double *expected)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m), pcols = ncol + 9;
    const uint64_t signalling = 0x7ff0000000000001u, mark = 0x7ff4dead0000beefu;
    double *px = malloc((size_t)(pcols * I) * sizeof *px), *py = malloc((size_t)(pcols * O) * sizeof *py);
    for (int64_t i = 0; i < pcols * I; i++)
        memcpy(&px[i], &signalling, 8);
    for (int64_t i = 0; i < pcols * O; i++)
        memcpy(&py[i], &mark, 8);
    for (int64_t s = 0; s < ncol; s++)
        for (int64_t f = 0; f < I; f++)
            memcpy(&px[s + f * pcols], &x[s * I + f], 8);
    emu_infer_f64(m, ncol, px, 1, pcols, py, 1, pcols, NULL, 0);
    long wrong = 0;
    for (int64_t j = 0; j < O; j++)
        for (int64_t s = 0; s < pcols; s++)
            wrong += memcmp(&py[s + j * pcols], s < ncol ? (const void *)&expected[s * O + j] : &mark, 8) != 0;
    CHECK(wrong == 0, "%d of %d columns: %ld values wrong", (int)ncol, (int)pcols, wrong);
    free(px);
    free(py);
}

/* A quiet NaN in one sample leaves the others' bits alone, and traps stay silent */
static void check_nan(const emu_model *m, int64_t ncol, const double *x, const double *expected)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    double *px = malloc((size_t)(ncol * I) * sizeof *px), *py = malloc((size_t)(ncol * O) * sizeof *py);
    const int64_t bad = ncol / 2;
    long wrong = 0;
    for (int64_t f = 0; f < I; f++) {
        memcpy(px, x, (size_t)(ncol * I) * sizeof *px);
        px[bad * I + f] = (double)NAN;
        emu_infer_f64(m, ncol, px, I, 1, py, O, 1, NULL, 0);
        for (int64_t s = 0; s < ncol; s++)
            for (int64_t j = 0; j < O; j++)
                wrong += s == bad ? !isnan(py[s * O + j]) : memcmp(&py[s * O + j], &expected[s * O + j], 8) != 0;
    }
    CHECK(wrong == 0, "%d samples, one NaN: %ld values wrong", (int)ncol, wrong);
    free(px);
    free(py);
}

/* y = 1/x: lanes that hold no sample must not divide by zero */
static void check_padding(const char *const *isas, int num_isas)
{
    bytes graph = {NULL, 0, 0};
    put_value_info(&graph, 11, "x", 11, 1);
    put_value_info(&graph, 12, "y", 11, 1);
    put_tensor(&graph, "W", 1, 2, (int64_t[]){1, 1}, (float[]){1.0f}, 4);
    put_node(&graph, "Reciprocal", "x", "r", NULL, 0);
    put_node(&graph, "Cast", "r", "r32", "to", 1);
    put_node(&graph, "MatMul", "r32 W", "s", NULL, 0);
    put_node(&graph, "Cast", "s", "s64", "to", 11);
    put_node(&graph, "Reciprocal", "s64", "y", NULL, 0);
    bytes model = finish_model(&graph);
    double x[150], y[150];
    for (int i = 0; i < 150; i++)
        x[i] = 4.0;
    for (int k = 0; k < num_isas; k++) {
        setenv("LIBEMULATOR_ISA", isas[k], 1);
        emu_model *m = load_or_die(&model);
        long wrong = 0;
        for (int n = 1; n <= 150; n++) {
            emu_infer_f64(m, n, x, 1, 1, y, 1, 1, NULL, 0);
            for (int i = 0; i < n; i++)
                wrong += y[i] != 4.0;
        }
        CHECK(wrong == 0, "%s: %ld wrong", isas[k], wrong);
        emu_free(m);
    }
    free(model.data);
}

int main(void)
{
    static const int shapes[][6] = {{16, 64, 64, 32, 4, 0}, {3, 100, 5, 0}, {9, 17, 33, 70, 11, 0}, {5, 3, 2, 0}};
    enum { SHAPES = sizeof shapes / sizeof shapes[0] };
    static const int64_t batches[] = {1, 2, 3, 5, 6, 7, 15, 16, 17, 31, 33, 48, 49, 95, 97, 150};
    enum { BATCHES = sizeof batches / sizeof batches[0], MOST = 150 };
    const char *isas[3];
    const int num_isas = available_isas(isas);
    feenableexcept(FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO);
    for (int c = 0; c < SHAPES; c++) {
        int depth = 0;
        while (shapes[c][depth + 1] != 0)
            depth++;
        static const char *const activations[SHAPES] = {"Relu", "Tanh", "Sigmoid", "Relu"};
        net n = random_net((uint64_t)c + 40, depth, shapes[c], activations[c], "Sigmoid", 1);
        n.names = 1; /* and ranges */
        const size_t I = (size_t)n.widths[0], O = (size_t)n.widths[depth];
        double *x = malloc(MOST * I * sizeof *x), *expected = malloc(MOST * O * sizeof *expected);
        random_inputs(&n, 8, MOST, x);
        for (int i = 0; i < num_isas; i++) {
            setenv("LIBEMULATOR_ISA", isas[i], 1);
            emu_model *m = load_net(&n);
            emu_infer_f64(m, MOST, x, (int64_t)I, 1, expected, (int64_t)O, 1, NULL, 0);
            for (int b = 0; b < BATCHES; b++) {
                check_guarded(&n, m, batches[b], x, expected);
                check_untouched(m, batches[b], x, expected);
                check_nan(m, batches[b], x, expected);
            }
            emu_free(m);
        }
        free(x);
        free(expected);
        free_net(&n);
    }
    check_padding(isas, num_isas);
    CHECK(fegetexcept() == (FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO), "the traps were changed");
    FINISH(SHAPES * num_isas * BATCHES * (8 + 1 + 1) + num_isas + 1);
}
