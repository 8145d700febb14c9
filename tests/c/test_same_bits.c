/* The result for a sample depends on the model and its inputs alone: compared bit by bit over batch sizes, positions,
 * layouts, strides, precisions of the array and instruction sets. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <math.h>

enum { MOST = 131 }; /* samples: more than two of the largest blocks and every tail */

/* Results of all samples for one instruction set, one sample at a time */
static void one_by_one(const emu_model *m, const double *x, double *y)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    for (int64_t s = 0; s < MOST; s++)
        emu_infer_f64(m, 1, x + s * I, I, 1, y + s * O, O, 1, NULL, 0);
}

/* Different samples, as bits */
static long differences(const double *a, const double *b, int64_t n)
{
    long count = 0;
    for (int64_t i = 0; i < n; i++)
        count += memcmp(&a[i], &b[i], sizeof a[i]) != 0;
    return count;
}

/* Every batch size up to `largest`, starting at various samples, in four layouts */
static void check_batches(const emu_model *m, const double *x, const double *expected, int largest, const char *what)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m), ld = MOST + 5;
    double *columns = malloc((size_t)(ld * I) * sizeof *columns), *y = malloc((size_t)(ld * O * 2) * sizeof *y);
    double *found = malloc((size_t)(MOST * O) * sizeof *found);
    for (int64_t s = 0; s < MOST; s++)
        for (int64_t f = 0; f < I; f++)
            columns[f * ld + s] = x[s * I + f];
    for (int n = 1; n <= largest; n++) {
        const int64_t first = (7 * n) % (MOST - n + 1);
        long wrong[4] = {0};
        /* sample-major; feature-major with a leading dimension; backwards; every second element of y */
        for (int layout = 0; layout < 4; layout++) {
            const double *from = layout == 0 || layout == 2 ? x + first * I : columns + first;
            int64_t xs = layout == 0 || layout == 2 ? I : 1, xf = layout == 0 || layout == 2 ? 1 : ld;
            int64_t ys = layout == 0 ? O : layout == 1 ? 1 : layout == 2 ? O : 2, yf = layout == 1 ? ld
                                                                                     : layout == 3 ? 2 * ld
                                                                                                   : 1;
            double *to = y;
            if (layout == 2) { /* from the last sample to the first */
                from += (n - 1) * I;
                xs = -xs;
                to += (n - 1) * O;
                ys = -ys;
            }
            emu_infer_f64(m, n, from, xs, xf, to, ys, yf, NULL, 0);
            for (int64_t s = 0; s < n; s++)
                for (int64_t j = 0; j < O; j++)
                    found[(layout == 2 ? n - 1 - s : s) * O + j] = to[s * ys + j * yf];
            wrong[layout] = differences(found, expected + first * O, n * O);
        }
        CHECK(wrong[0] + wrong[1] + wrong[2] + wrong[3] == 0, "%s, %d samples: %ld, %ld, %ld, %ld differ", what, n,
              wrong[0], wrong[1], wrong[2], wrong[3]);
    }
    free(columns);
    free(y);
    free(found);
}

/* float32 arrays: the float64 result of the same numbers, rounded */
static void check_single(const emu_model *m, const double *x, const char *what)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    float *x32 = malloc((size_t)(MOST * I) * sizeof *x32), *y32 = malloc((size_t)(MOST * O) * sizeof *y32);
    double *x64 = malloc((size_t)(MOST * I) * sizeof *x64), *y64 = malloc((size_t)(MOST * O) * sizeof *y64);
    for (int64_t i = 0; i < MOST * I; i++)
        x64[i] = (double)(x32[i] = (float)x[i]);
    one_by_one(m, x64, y64);
    for (int64_t n = 1; n <= MOST; n += 13) {
        emu_infer_f32(m, n, x32, I, 1, y32, 1, n, NULL, 0);
        long wrong = 0;
        for (int64_t s = 0; s < n; s++)
            for (int64_t j = 0; j < O; j++) {
                const float expected = (float)y64[s * O + j];
                wrong += memcmp(&y32[s + j * n], &expected, sizeof expected) != 0;
            }
        CHECK(wrong == 0, "%s, %d samples in float32: %ld values differ", what, (int)n, wrong);
    }
    free(x32);
    free(y32);
    free(x64);
    free(y64);
}

/* A sum of zeros is +0 on every instruction set: 65 outputs, each -0 + (-1) 0 or -0 + 0, through a ReLU */
static void check_zeros(const char *const *isas, int num_isas)
{
    static const int widths[] = {1, 65};
    net n = random_net(1, 1, widths, "Relu", "Relu", 0);
    for (int j = 0; j < 65; j++) {
        n.weights[0][j] = j % 2 ? -1.0f : 1.0f;
        n.biases[0][j] = -0.0f;
    }
    double x[20], y[20][65];
    for (int i = 0; i < num_isas; i++) {
        setenv("LIBEMULATOR_ISA", isas[i], 1);
        emu_model *m = load_net(&n);
        long wrong = 0;
        for (int s = 0; s < 20; s++)
            x[s] = n.mean[0];
        emu_infer_f64(m, 20, x, 1, 1, y[0], 65, 1, NULL, 0);
        for (int s = 0; s < 20; s++)
            for (int j = 0; j < 65; j++)
                wrong += y[s][j] != 0.0 || signbit(y[s][j]) != 0;
        CHECK(wrong == 0, "%s: %ld zeros have the wrong sign", isas[i], wrong);
        emu_free(m);
    }
    free_net(&n);
}

int main(void)
{
    /* widths on both sides of every rule: vectors of 8 and 16, panels, the two splits at 16 and 64 outputs */
    static const int shapes[][8] = {
        {1, 1, 0},           {2, 5, 3, 0},            {16, 64, 64, 32, 4, 0}, {3, 16, 17, 15, 0},    {31, 65, 64, 63, 0},
        {7, 130, 2, 129, 1, 0}, {5, 33, 31, 48, 49, 0}, {20, 257, 16, 200, 0},  {66, 100, 80, 20, 0}, {2, 3, 400, 3, 0}};
    static const char *const activations[] = {"Relu", "Tanh", "Sigmoid", ""};
    enum { SHAPES = sizeof shapes / sizeof shapes[0] };
    const char *isas[3];
    const int num_isas = available_isas(isas);
    for (int c = 0; c < SHAPES; c++) {
        int depth = 0;
        while (depth + 1 < 8 && shapes[c][depth + 1] != 0)
            depth++;
        net n = random_net((uint64_t)c + 1, depth, shapes[c], activations[c % 4], activations[(c + 2) % 4], c % 2);
        const size_t I = (size_t)n.widths[0], O = (size_t)n.widths[depth];
        double *x = malloc(MOST * I * sizeof *x), *y = malloc(MOST * O * sizeof *y);
        double *expected = malloc(MOST * O * sizeof *expected);
        random_inputs(&n, 5, MOST, x);
        for (int i = 0; i < num_isas; i++) {
            setenv("LIBEMULATOR_ISA", isas[i], 1);
            emu_model *m = load_net(&n);
            char what[60];
            snprintf(what, sizeof what, "net %d, %s", c, isas[i]);
            CHECK(strcmp(emu_isa(m), isas[i]) == 0, "%s: %s", what, emu_isa(m));
            one_by_one(m, x, i == 0 ? expected : y);
            if (i > 0)
                CHECK(differences(y, expected, (int64_t)(MOST * O)) == 0, "%s against %s: %ld differ", what, isas[0],
                      differences(y, expected, (int64_t)(MOST * O)));
            const int portable = strcmp(isas[i], "portable") == 0; /* a hundred times slower, and fewer tiles */
            check_batches(m, x, expected, portable ? 20 : MOST, what);
            check_single(m, x, what);
            emu_free(m);
        }
        free(x);
        free(expected);
        free(y);
        free_net(&n);
    }
    check_zeros(isas, num_isas);
    unsetenv("LIBEMULATOR_ISA");
    FINISH(num_isas +
           SHAPES * (num_isas + (num_isas - 1) + (num_isas - 1) * MOST + 20 + num_isas * ((MOST + 12) / 13)));
}
