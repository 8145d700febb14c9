/* emu-bench: nanoseconds per sample of a model on this machine. */
#include "tool.h"

static const char usage[] =
    "usage: emu-bench [--batch N,N,...] [--layout columns|features] [--seconds S] [--json] MODEL.onnx\n"
    "\n"
    "Time libemulator on one thread, from float64 arrays to float64 arrays: the median of many calls, for each number\n"
    "of samples in a call. Inputs are drawn within the training ranges.\n"
    "\n"
    "  --batch    samples in a call (default 1,16,128,1024)\n"
    "  --layout   columns: the sample index is fastest, x(pcols, num_inputs) in Fortran (default);\n"
    "             features: the feature index is fastest, x(num_inputs, pcols)\n"
    "  --seconds  time spent on each batch size (default 0.2)\n"
    "  --json     print JSON instead of a table\n";

enum { MAX_BATCHES = 64 };

static int bad_argument(const char *what, const char *found)
{
    fprintf(stderr, "emu-bench: %s '%s'\n%s", what, found, usage);
    return 2;
}

int main(int argc, char **argv)
{
    long long batches[MAX_BATCHES] = {1, 16, 128, 1024};
    int num_batches = 4, layout = 0, json = 0;
    double seconds = 0.2;
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        char *end;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        } else if (strcmp(argv[i], "--json") == 0) {
            json = 1;
        } else if (strcmp(argv[i], "--batch") == 0) {
            num_batches = 0;
            for (const char *p = value;; p = end + 1) {
                const long long n = strtoll(p, &end, 10);
                if (end == p || n < 1 || n > 100000000 || num_batches == MAX_BATCHES || (*end != ',' && *end != '\0'))
                    return bad_argument("--batch expects up to 64 numbers from 1 to 100000000, found", value);
                batches[num_batches++] = n;
                if (*end == '\0')
                    break;
            }
            i++;
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = strtod(value, &end);
            if (end == value || *end != '\0' || !(seconds > 0.0 && seconds < 3600.0))
                return bad_argument("--seconds expects a number between 0 and 3600, found", value);
            i++;
        } else if (strcmp(argv[i], "--layout") == 0) {
            if (strcmp(value, "columns") != 0 && strcmp(value, "features") != 0)
                return bad_argument("--layout expects 'columns' or 'features', found", value);
            layout = strcmp(value, "features") == 0;
            i++;
        } else if (argv[i][0] == '-' || path != NULL) {
            return bad_argument("unexpected argument", argv[i]);
        } else {
            path = argv[i];
        }
    }
    if (path == NULL) {
        fputs(usage, stderr);
        return 2;
    }
    emu_model *m = load_or_exit("emu-bench", path);
    if (json) {
        printf("{\"schema\": 1, \"model\": ");
        print_json_text(path);
        printf(", \"library\": \"%s\", \"isa\": \"%s\", \"layout\": \"%s\", \"num_parameters\": %lld, \"results\": [",
               emu_version(), emu_isa(m), layout ? "features" : "columns", (long long)emu_num_parameters(m));
    } else {
        printf("%s: %lld parameters, %s, one thread\n%10s %16s\n", path, (long long)emu_num_parameters(m), emu_isa(m),
               "samples", "ns per sample");
    }
    for (int b = 0; b < num_batches; b++) {
        double ns;
        const emu_status status = emu_measure(m, batches[b], layout, seconds, &ns);
        if (status != EMU_OK) {
            fprintf(stderr, "emu-bench: batch %lld: %s\n", batches[b], emu_status_name(status));
            emu_free(m);
            return 1;
        }
        if (json)
            printf("%s{\"batch\": %lld, \"ns_per_sample\": %.4f}", b > 0 ? ", " : "", batches[b], ns);
        else
            printf("%10lld %16.1f\n", batches[b], ns);
        fflush(stdout);
    }
    if (json)
        printf("]}\n");
    emu_free(m);
    return 0;
}
