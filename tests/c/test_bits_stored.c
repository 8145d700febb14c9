/* Results against bits stored in data/stored_bits.txt, which no later version, compiler or processor may change unless the
 * changelog says so. The nets and inputs are made by integer arithmetic, so that no function of a C library takes part.
 * A line is: name, FNV-1a hash of the outputs as float64, the first output. On a difference, the line found is printed. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <stdbool.h>

enum { SAMPLES = 37 };

/* Multiples of 2^-20 in [-1, 1) */
static double fraction(uint64_t *state)
{
    return (double)((int64_t)(random_bits(state) >> 43) - (1 << 20)) / (1 << 20);
}

/* Weights around 1/sqrt(inputs), by a power of two */
static net make_net(uint64_t seed, const int *widths, const char *activation, const char *output_activation)
{
    int depth = 0;
    while (widths[depth + 1] != 0)
        depth++;
    net n = random_net(1, depth, widths, activation, output_activation, 0); /* for its arrays */
    uint64_t state = seed;
    for (int l = 0; l < depth; l++) {
        float scale = 2.0f;
        for (int inputs = widths[l]; inputs > 1; inputs /= 4)
            scale *= 0.5f;
        for (int64_t i = 0; i < (int64_t)widths[l] * widths[l + 1]; i++)
            n.weights[l][i] = (float)fraction(&state) * scale;
        for (int i = 0; i < widths[l + 1]; i++)
            n.biases[l][i] = (float)fraction(&state) * 0.25f;
    }
    for (int i = 0; i < widths[0]; i++) {
        n.mean[i] = 10.0 * fraction(&state);
        n.std[i] = 1.5 + fraction(&state);
        n.low[i] = n.mean[i] - 2.0;
        n.high[i] = n.mean[i] + 2.0;
    }
    return n;
}

static uint64_t hash(const double *y, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &y[i], sizeof bits);
        for (int b = 0; b < 8; b++)
            h = (h ^ ((bits >> (8 * b)) & 0xff)) * 0x100000001b3u;
    }
    return h;
}

/* Whether the file has this line */
static bool is_stored(const char *line)
{
    FILE *file = fopen(EMU_STORED_BITS, "r");
    if (file == NULL)
        return false;
    char stored[200];
    bool found = false;
    while (!found && fgets(stored, sizeof stored, file) != NULL)
        found = strncmp(stored, line, strlen(line)) == 0 && stored[strlen(line)] == '\n';
    fclose(file);
    return found;
}

int main(void)
{
    static const struct {
        const char *activation, *output;
        int widths[7];
    } nets[] = {
        {"Relu", "Sigmoid", {16, 64, 64, 32, 4, 0}},
        {"Relu", "", {3, 1, 2, 5, 17, 1, 0}},
        {"Relu", "", {7, 33, 65, 130, 48, 9, 0}},
        {"Relu", "", {5, 600, 90, 2, 0}},
        {"Tanh", "Sigmoid", {4, 20, 16, 3, 0}},
        {"LeakyRelu", "HardSigmoid", {6, 40, 10, 0}},
        {"Elu", "Softplus", {6, 24, 5, 0}},
        {"HardSwish", "Tanh", {9, 31, 6, 0}},
    };
    enum { NETS = sizeof nets / sizeof nets[0] };
    const char *isas[3];
    const int num_isas = available_isas(isas);
    for (int c = 0; c < NETS; c++) {
        net n = make_net((uint64_t)c + 1, nets[c].widths, nets[c].activation, nets[c].output);
        bytes file = write_model(&n);
        const int64_t I = n.widths[0], O = n.widths[n.depth];
        double *x = malloc((size_t)(SAMPLES * I) * sizeof *x), *y = malloc((size_t)(SAMPLES * O) * sizeof *y);
        uint64_t state = (uint64_t)c + 100;
        for (int64_t i = 0; i < SAMPLES * I; i++)
            x[i] = n.mean[i % I] + 2.0 * fraction(&state);
        for (int i = 0; i < 2 * num_isas; i++) {
            const int precision = i % 2 ? 64 : 32;
            emu_options options;
            emu_options_init(&options);
            options.isa = isas[i / 2];
            options.precision = precision;
            emu_model *m;
            char message[300], line[160];
            if (emu_load_bytes_with(file.data, file.size, &options, &m, message, sizeof message) != EMU_OK) {
                fprintf(stderr, "%s\n", message);
                return 1;
            }
            emu_infer_f64(m, SAMPLES, x, I, 1, y, O, 1, NULL, 0);
            snprintf(line, sizeof line, "net_%d_%d %016llx %a", c, precision,
                     (unsigned long long)hash(y, (size_t)(SAMPLES * O)), y[0]);
            CHECK(is_stored(line), "%s gives, and the file does not hold: %s", options.isa, line);
            emu_free(m);
        }
        free(x);
        free(y);
        free(file.data);
        free_net(&n);
    }
    FINISH(NETS * 2 * num_isas);
}
