/* A network that is no chain of layers (a skip connection, a layer normalisation, branches, a gate, quotients): the
 * same bits at every batch size and instruction set, nothing read beyond the workspace, and no floating-point exception
 * from what lies unused in it. Traps for invalid, overflow and division by zero are on. The numbers themselves are compared
 * with ONNX Runtime in tests/python/test_importers.py; here only against the graph written in float64. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <fenv.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

enum { I = 6, H = 20, O = 9, SAMPLES = 113 };

/* As write_branched_model: the same random numbers in the same order */
static void branched(const double *x, double *y)
{
    uint64_t state = 99;
    double A[I][H], a0[H], B[H][H], gamma[H], beta[H], C[13][3], slope[I], D[I][3];
    const struct {
        double *to;
        int count;
        double size;
    } constants[] = {{A[0], I * H, 0.8}, {a0, H, 0.3},       {B[0], H * H, 0.4}, {gamma, H, 1.0},
                     {beta, H, 0.5},     {C[0], 13 * 3, 0.5}, {slope, I, 1.0},    {D[0], I * 3, 0.5}};
    for (size_t c = 0; c < sizeof constants / sizeof constants[0]; c++)
        for (int i = 0; i < constants[c].count; i++)
            constants[c].to[i] = (double)(float)(constants[c].size * (2.0 * uniform(&state) - 1.0));
    double r[H], h[H], joined[I + H], mean = 0.0, variance = 0.0;
    for (int j = 0; j < H; j++) {
        r[j] = a0[j];
        for (int k = 0; k < I; k++)
            r[j] += x[k] * A[k][j];
        r[j] = r[j] > 0.0 ? r[j] : 0.0;
    }
    for (int j = 0; j < H; j++) {
        double b = 0.0;
        for (int k = 0; k < H; k++)
            b += r[k] * B[k][j];
        h[j] = b / (1.0 + exp(-b)) + r[j];
        mean += h[j] / H;
    }
    for (int j = 0; j < H; j++)
        variance += (h[j] - mean) * (h[j] - mean) / H;
    for (int j = 0; j < I; j++)
        joined[j] = x[j];
    for (int j = 0; j < H; j++)
        joined[I + j] = (h[j] - mean) / sqrt(variance + 1e-5) * gamma[j] + beta[j];
    for (int o = 0; o < 3; o++) {
        y[o] = 0.0;
        for (int k = 0; k < 13; k++)
            y[o] += joined[k] * joined[13 + k] / (1.0 + fabs(joined[13 + k])) * C[k][o];
        for (int k = 0; k < I; k++)
            y[o] -= (x[k] < 0.0 ? slope[k] * x[k] : x[k]) * D[k][o];
    }
    for (int k = 0; k < I; k++)
        y[3 + k] = x[k];
}

int main(void)
{
    static double x[SAMPLES * I], y[SAMPLES * O], first[SAMPLES * O], alone[O], truth[O];
    const char *isas[3];
    const int num_isas = available_isas(isas);
    uint64_t state = 7;
    for (int i = 0; i < SAMPLES * I; i++)
        x[i] = (double)(float)(6.0 * uniform(&state) - 3.0);
    feenableexcept(FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO);
    bytes model = write_branched_model();
    long made = 0;
    for (int k = 0; k < num_isas; k++) {
        setenv("LIBEMULATOR_ISA", isas[k], 1);
        emu_model *m = load_or_die(&model);
        const size_t size = emu_workspace_size(m), page = (size_t)sysconf(_SC_PAGESIZE);
        const size_t room = (size + page - 1) / page * page;
        unsigned char *pages = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED || mprotect(pages + room, page, PROT_NONE) != 0)
            return 1;
        unsigned char *workspace = pages + room - size; /* ends where nothing may be read */
        CHECK(emu_num_inputs(m) == I && emu_num_outputs(m) == O && emu_num_layers(m) == 4, "%s: sizes", isas[k]);
        long wrong = 0, different = 0, not_nan = 0, status = EMU_OK;
        for (int n = 1; n <= SAMPLES; n++) {
            for (size_t i = 0; i < size; i++)
                workspace[i] = i % 2 ? 0x7f : 0xa0; /* signalling NaN, as float32 and as float64 */
            status |= emu_infer_f64(m, n, x, I, 1, y, O, 1, workspace, size);
            for (int s = 0; s < n; s++) {
                if (n == SAMPLES && k == 0)
                    memcpy(&first[s * O], &y[s * O], sizeof alone);
                emu_infer_f64(m, 1, x + s * I, I, 1, alone, O, 1, NULL, 0);
                different += memcmp(alone, &y[s * O], sizeof alone) != 0;
                branched(x + s * I, truth);
                for (int o = 0; o < O; o++)
                    wrong += !(fabs(y[s * O + o] - truth[o]) <= 4e-6); /* tens of float32 roundings */
            }
        }
        CHECK(status == EMU_OK && wrong == 0, "%s: %ld values differ from float64", isas[k], wrong);
        CHECK(different == 0, "%s: %ld samples depend on the batch", isas[k], different);
        CHECK(memcmp(first, y, sizeof first) == 0, "%s and %s give different bits", isas[0], isas[k]);
        const double kept = x[50 * I + 2];
        x[50 * I + 2] = (double)NAN;
        emu_infer_f64(m, SAMPLES, x, I, 1, y, O, 1, workspace, size);
        x[50 * I + 2] = kept;
        for (int s = 0; s < SAMPLES; s++)
            for (int o = 0; o < O; o++)
                not_nan += s == 50 ? isnan(y[s * O + o]) != (o < 3 || o == 3 + 2)
                                   : memcmp(&y[s * O + o], &first[s * O + o], 8) != 0;
        CHECK(not_nan == 0, "%s: a NaN in one sample: %ld values wrong", isas[k], not_nan);
        made += 5;
        munmap(pages, room + page);
        emu_free(m);
    }
    CHECK(fetestexcept(FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO) == 0, "a floating-point exception was raised");
    free(model.data);
    FINISH(made + 1);
}
