/* emu-info: what is in a model file. */
#define _GNU_SOURCE
#include "tool.h"

#include <math.h>
#include <time.h>

static const char usage[] =
    "usage: emu-info [--check] MODEL.onnx\n"
    "\n"
    "Print what a model file holds: inputs and outputs with units and training ranges, layers, parameters, origin, and\n"
    "the instruction set that libemulator uses for it here.\n"
    "\n"
    "  --check    also evaluate the check samples stored in the file; exit status 1 if they differ\n"
    "  --version  print the library's version\n";

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef const char *text_of(const emu_model *, int64_t);
typedef double number_of(const emu_model *, int64_t);

static void print_side(const emu_model *m, const char *title, int64_t n, text_of *name, text_of *unit, number_of *low,
                       number_of *high)
{
    printf("%s (%lld)\n", title, (long long)n);
    for (int64_t i = 0; i < n; i++) {
        printf("  %3lld  %-24s %-12s", (long long)i + 1, name(m, i), unit(m, i));
        if (!isnan(low(m, i)) && !isnan(high(m, i)))
            printf("  %.6g to %.6g", low(m, i), high(m, i));
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    const char *path = NULL;
    int check = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        } else if (strcmp(argv[i], "--version") == 0) {
            printf("libemulator %s\n", emu_version());
            return 0;
        } else if (strcmp(argv[i], "--check") == 0) {
            check = 1;
        } else if (argv[i][0] == '-' || path != NULL) {
            fprintf(stderr, "emu-info: unexpected argument '%s'\n%s", argv[i], usage);
            return 2;
        } else {
            path = argv[i];
        }
    }
    if (path == NULL) {
        fputs(usage, stderr);
        return 2;
    }
    const double start = seconds_now();
    emu_model *m = load_or_exit("emu-info", path);
    const double load_ms = (seconds_now() - start) * 1e3;

    printf("%s\n", path);
    printf("parameters    %lld\n", (long long)emu_num_parameters(m));
    printf("layers        %lld", (long long)emu_num_inputs(m));
    for (int64_t l = 0; l < emu_num_layers(m); l++)
        printf("-%lld", (long long)emu_layer_width(m, l));
    printf("\ninstructions  %s\n", emu_isa(m));
    printf("workspace     %zu bytes per thread\n", emu_workspace_size(m));
    printf("loaded in     %.3f ms\n", load_ms);
    print_side(m, "inputs", emu_num_inputs(m), emu_input_name, emu_input_unit, emu_input_min, emu_input_max);
    print_side(m, "outputs", emu_num_outputs(m), emu_output_name, emu_output_unit, emu_output_min, emu_output_max);
    const char *origin = emu_metadata(m, "libemulator.provenance");
    printf("origin        %s\n", origin != NULL ? origin : "not stated");
    int result = 0;
    if (check) {
        char message[1024];
        double difference;
        const emu_status status = emu_self_check(m, &difference, message, sizeof message);
        if (status == EMU_OK)
            printf("self-check    passed, largest difference %.3g of the output's range\n", difference);
        else
            printf("self-check    FAILED: %s\n", message);
        result = status != EMU_OK;
    }
    emu_free(m);
    return result;
}
