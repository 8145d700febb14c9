/* "Same bits" by brute force: random nets of 1 to 20 layers, 1 to 2048 wide, in float32 and in float64, and random calls of
 * 1 to 300 samples: from any sample on, in any layout and stride, with arrays of float64 and float32, with the thread's
 * workspace and with the caller's, on every instruction set. Expected is each sample alone on the first instruction set.
 *
 * Built a second time from kernels that break the guarantee (EMU_BREAK_SAME_BITS), it must find differences: CMakeLists.txt
 * counts on that. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <math.h>
#include <stdbool.h>

enum { NETS = 120, CALLS = 16, MOST = 300 };
/* Multiply-adds of one net on one instruction set, so that the portable kernels, which call fma(), need no more than a
 * minute for all */
static const double BUDGET = 1.2e7;

static int below(uint64_t *state, int n)
{
    return (int)(random_bits(state) % (uint64_t)n);
}

static net draw_net(uint64_t seed, uint64_t *state)
{
    static const char *const activations[] = {"Relu",     "Relu", "Relu",        "Tanh",      "Sigmoid", "LeakyRelu",
                                              "Elu", "Softplus", "HardSigmoid", "HardSwish", ""};
    enum { ACTIVATIONS = sizeof activations / sizeof activations[0] };
    int widths[21];
    const int depth = 1 + below(state, 20);
    double weights;
    do {
        weights = 0.0;
        for (int l = 0; l <= depth; l++)
            widths[l] = (int)exp2(11.0 * uniform(state) * (below(state, 3) ? 0.6 : 1.0)) + below(state, 2);
        for (int l = 0; l <= depth; l++)
            widths[l] = widths[l] > 2048 ? 2048 : widths[l];
        for (int l = 0; l < depth; l++)
            weights += (double)widths[l] * widths[l + 1];
    } while (weights > 1.5e6);
    return random_net(seed, depth, widths, activations[below(state, ACTIVATIONS)], activations[below(state, ACTIVATIONS)],
                      below(state, 2));
}

static emu_model *load(const bytes *file, const char *isa, int precision)
{
    emu_options options;
    emu_options_init(&options);
    options.isa = isa;
    options.precision = precision;
    char message[300];
    emu_model *m;
    if (emu_load_bytes_with(file->data, file->size, &options, &m, message, sizeof message) != EMU_OK) {
        fprintf(stderr, "%s\n", message);
        exit(1);
    }
    return m;
}

/* One call of n samples from `first` on; the number of values with other bits than expected */
static long call(const emu_model *m, const double *x, const double *expected, int first, int n, uint64_t *state)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    const int64_t x_gap = 1 + below(state, 2), y_gap = 1 + below(state, 2), pad = below(state, 3);
    const bool x_by_sample = below(state, 2), y_by_sample = below(state, 2), single = below(state, 4) == 0;
    int64_t xs = x_by_sample ? (I + pad) * x_gap : x_gap, xf = x_by_sample ? x_gap : (n + pad) * x_gap;
    int64_t ys = y_by_sample ? (O + pad) * y_gap : y_gap, yf = y_by_sample ? y_gap : (n + pad) * y_gap;
    const size_t x_size = (size_t)((n + pad) * (I + pad) * x_gap), y_size = (size_t)((n + pad) * (O + pad) * y_gap);
    double *to_x = calloc(x_size, sizeof *to_x), *to_y = calloc(y_size, sizeof *to_y);
    float *to_x32 = calloc(x_size, sizeof *to_x32), *to_y32 = calloc(y_size, sizeof *to_y32);
    const size_t size = emu_workspace_size(m);
    void *workspace = below(state, 2) ? malloc(size) : NULL;
    for (int s = 0; s < n; s++)
        for (int64_t f = 0; f < I; f++) {
            to_x[s * xs + f * xf] = x[(first + s) * I + f];
            to_x32[s * xs + f * xf] = (float)x[(first + s) * I + f];
        }
    emu_status status;
    if (single)
        status = emu_infer_f32(m, n, to_x32, xs, xf, to_y32, ys, yf, workspace, workspace != NULL ? size : 0);
    else
        status = emu_infer_f64(m, n, to_x, xs, xf, to_y, ys, yf, workspace, workspace != NULL ? size : 0);
    long wrong = status != EMU_OK;
    for (int s = 0; s < n; s++)
        for (int64_t j = 0; j < O; j++) {
            const double truth = expected[(first + s) * O + j];
            const float rounded = (float)truth;
            wrong += single ? memcmp(&to_y32[s * ys + j * yf], &rounded, sizeof rounded) != 0
                            : memcmp(&to_y[s * ys + j * yf], &truth, sizeof truth) != 0;
        }
    free(to_x);
    free(to_y);
    free(to_x32);
    free(to_y32);
    free(workspace);
    return wrong;
}

int main(void)
{
    const char *isas[3];
    const int num_isas = available_isas(isas);
    for (int c = 0; c < NETS; c++) {
        uint64_t state = (uint64_t)c * 104729 + 5;
        net n = draw_net((uint64_t)c + 1000, &state);
        bytes file = write_model(&n);
        const int precision = c % 4 == 3 ? 64 : 32;
        emu_model *m = load(&file, isas[0], precision);
        const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
        const double budget = BUDGET / (double)emu_num_parameters(m);
        const int samples = budget > MOST ? MOST : budget < 20 ? 20 : (int)budget;
        double *x = malloc((size_t)(samples * I) * sizeof *x), *expected = malloc((size_t)(samples * O) * sizeof *expected);
        random_inputs(&n, (uint64_t)c, samples, x);
        for (int64_t i = 0; i < samples * I; i++)
            x[i] = (double)(float)x[i]; /* the same number in both precisions */
        for (int s = 0; s < samples; s++)
            emu_infer_f64(m, 1, x + s * I, I, 1, expected + s * O, O, 1, NULL, 0);
        emu_free(m);
        for (int i = 0; i < num_isas; i++) {
            m = load(&file, isas[i], precision);
            double spent = 0.0;
            long wrong = 0;
            for (int k = 0; k < CALLS && (k < 2 || spent < 3.0 * samples); k++) {
                const int count = 1 + below(&state, k % 3 == 0 ? (samples < 20 ? samples : 20) : samples);
                wrong += call(m, x, expected, below(&state, samples - count + 1), count, &state);
                spent += count;
            }
            CHECK(wrong == 0, "bits differ: net %d (%d layers, %d parameters, %d bits), %s: %ld values", c, n.depth,
                  (int)emu_num_parameters(m), precision, isas[i], wrong);
            emu_free(m);
        }
        free(x);
        free(expected);
        free(file.data);
        free_net(&n);
    }
    FINISH(NETS * num_isas);
}
