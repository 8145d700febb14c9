/* What emu_load_with takes: members, defaults, precedence, and hosts compiled against another header. */
#include "check.h"
#include "onnx_writer.h"

static bytes model;

/* EMU_OK or the status, with the message; *m is NULL on failure */
static emu_status load(const emu_options *options, emu_model **m, char message[512])
{
    return emu_load_bytes_with(model.data, model.size, options, m, message, 512);
}

static void test_isa(void)
{
    const char *isas[3];
    const int num_isas = available_isas(isas);
    char message[512];
    emu_model *m;
    emu_options options;
    emu_options_init(&options);
    CHECK(options.size == sizeof options && options.backend == NULL && options.precision == 32 && options.num_threads == 1,
          "emu_options_init");
    int right = 0;
    for (int i = 0; i < num_isas; i++) {
        setenv("LIBEMULATOR_ISA", isas[num_isas - 1 - i], 1); /* the option wins over the environment */
        options.isa = isas[i];
        right += load(&options, &m, message) == EMU_OK && strcmp(emu_isa(m), isas[i]) == 0;
        emu_free(m);
        options.isa = i % 2 ? "" : NULL;
        right += load(&options, &m, message) == EMU_OK && strcmp(emu_isa(m), isas[num_isas - 1 - i]) == 0;
        emu_free(m);
    }
    CHECK(right == 2 * num_isas, "isa: %d of %d", right, 2 * num_isas);
    setenv("LIBEMULATOR_ISA", "nonsense", 1);
    options.isa = isas[0];
    CHECK(load(&options, &m, message) == EMU_OK, "nobody asks the environment: %s", message);
    emu_free(m);
    CHECK(load(NULL, &m, message) == EMU_ERR_ARGUMENT && strstr(message, "LIBEMULATOR_ISA is 'nonsense'"), "%s", message);
    unsetenv("LIBEMULATOR_ISA");
    options.isa = "sse9";
    CHECK(load(&options, &m, message) == EMU_ERR_ARGUMENT && m == NULL && strstr(message, "isa is 'sse9'") &&
              strstr(message, "portable"), "%s", message);
}

static void test_values(void)
{
    static const struct {
        const char *backend;
        int precision, num_threads;
        emu_status status;
        const char *text;
    } cases[] = {
        {"native", 32, 1, EMU_OK, ""},
        {"", 0, 0, EMU_OK, ""}, /* 0 and "" are the defaults */
        {NULL, 32, 99, EMU_OK, ""}, /* of other backends only */
        {"Native", 32, 1, EMU_ERR_ARGUMENT, "'Native', expected native, onnxruntime or libtorch"},
        {"tensorflow", 32, 1, EMU_ERR_ARGUMENT, "'tensorflow', expected native, onnxruntime or libtorch"},
        {NULL, 16, 1, EMU_ERR_ARGUMENT, "precision is 16, expected 32 or 64"},
        {NULL, -32, 1, EMU_ERR_ARGUMENT, "precision is -32"},
        {NULL, 32, -1, EMU_ERR_ARGUMENT, "num_threads is -1"},
    };
    enum { CASES = sizeof cases / sizeof cases[0] };
    for (int i = 0; i < CASES; i++) {
        char message[512];
        emu_model *m;
        emu_options options;
        emu_options_init(&options);
        options.backend = cases[i].backend;
        options.precision = cases[i].precision;
        options.num_threads = cases[i].num_threads;
        const emu_status status = load(&options, &m, message);
        CHECK(status == cases[i].status && strstr(message, cases[i].text), "case %d: %s %s", i, emu_status_name(status),
              message);
        CHECK((m != NULL) == (status == EMU_OK) && (m == NULL || (strcmp(emu_backend(m), "native") == 0 &&
                                                                   emu_precision(m) == 32)), "case %d", i);
        emu_free(m);
    }
    CHECK(emu_backend(NULL) == NULL && emu_precision(NULL) == 0, "no model");
    CHECK(CASES == 8, "%d cases", (int)CASES);
}

/* float64 layers: closer to the float64 reference than float32 can be */
static void test_precision(const net *n)
{
    enum { SAMPLES = 70 };
    double x[SAMPLES * 6], y[SAMPLES * 3], truth[SAMPLES * 3], worst[2] = {0, 0};
    random_inputs(n, 3, SAMPLES, x);
    for (int s = 0; s < SAMPLES; s++)
        reference(n, x + 6 * s, truth + 3 * s);
    for (int i = 0; i < 2; i++) {
        char message[512];
        emu_model *m;
        emu_options options;
        emu_options_init(&options);
        options.precision = i ? 64 : 32;
        const emu_status status = load(&options, &m, message);
        CHECK(status == EMU_OK && emu_precision(m) == options.precision, "%s", message);
        emu_infer_f64(m, SAMPLES, x, 6, 1, y, 3, 1, NULL, 0);
        for (int k = 0; k < SAMPLES * 3; k++) {
            const double d = y[k] > truth[k] ? y[k] - truth[k] : truth[k] - y[k];
            worst[i] = d > worst[i] ? d : worst[i];
        }
        emu_free(m);
    }
    CHECK(worst[0] > 1e-9 && worst[0] < 1e-4, "float32: %g", worst[0]);
    CHECK(worst[1] < 1e-12, "float64: %g", worst[1]); /* sums of 40 terms of size 1, each rounded to 2^-53 */
}

/* Hosts that know fewer members: what lies behind them must not be read */
static void test_sizes(void)
{
    static const size_t known[] = {offsetof(emu_options, isa), offsetof(emu_options, library),
                                   offsetof(emu_options, precision), sizeof(emu_options)};
    static const size_t unknown[] = {0, 1, 8, 17, sizeof(emu_options) - 4, sizeof(emu_options) + 8, 4096, (size_t)-1};
    char message[512];
    emu_model *m;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        emu_options *old = malloc(known[i]); /* the sanitizer watches what is read */
        memset(old, 0, known[i]);
        old->size = known[i];
        old->backend = "native";
        CHECK(load(old, &m, message) == EMU_OK && emu_precision(m) == 32, "size %zu: %s", known[i], message);
        emu_free(m);
        free(old);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        emu_options options;
        emu_options_init(&options);
        options.size = unknown[i];
        CHECK(load(&options, &m, message) == EMU_ERR_ARGUMENT && m == NULL && strstr(message, "emu_options.size"), "size %zu: %s",
              unknown[i], message);
    }
    CHECK(sizeof known / sizeof known[0] + sizeof unknown / sizeof unknown[0] == 12, "sizes");
}

/* A zip archive is a TorchScript file: never given to the ONNX reader */
static void test_torchscript(void)
{
    static const char zip[] = "PK\3\4 and so on, which is not one really";
    char message[512];
    emu_model *m;
    emu_options options;
    emu_options_init(&options);
    options.backend = "native";
    emu_status status = emu_load_bytes_with(zip, sizeof zip, &options, &m, message, sizeof message);
    CHECK(status == EMU_ERR_UNSUPPORTED && strstr(message, "libtorch") && m == NULL, "%s", message);
    options.backend = NULL;
    options.library = "/nowhere/libtorch.so";
    status = emu_load_bytes_with(zip, sizeof zip, &options, &m, message, sizeof message);
    CHECK(status == EMU_ERR_UNSUPPORTED && strstr(message, "ibtorch") && m == NULL, "%s: %s", emu_status_name(status), message);
    options.backend = "onnxruntime";
    options.library = "/nowhere/libonnxruntime.so";
    status = load(&options, &m, message);
    CHECK(status == EMU_ERR_UNSUPPORTED && strstr(message, "nowhere") && m == NULL, "%s: %s", emu_status_name(status), message);
}

static void test_from_a_file(void)
{
    char file[] = "/tmp/libemulator_test_XXXXXX", message[512];
    FILE *stream = fdopen(mkstemp(file), "wb");
    fwrite(model.data, 1, model.size, stream);
    fclose(stream);
    emu_model *m;
    emu_options options;
    emu_options_init(&options);
    options.isa = "portable";
    CHECK(emu_load_with(file, &options, &m, message, sizeof message) == EMU_OK && strcmp(emu_isa(m), "portable") == 0, "%s",
          message);
    emu_free(m);
    options.backend = "none";
    CHECK(emu_load_with(file, &options, &m, message, sizeof message) == EMU_ERR_ARGUMENT && strstr(message, file), "%s",
          message);
    remove(file);
}

int main(void)
{
    static const int widths[] = {6, 40, 20, 3};
    net n = random_net(5, 3, widths, "Tanh", "Sigmoid", 1);
    model = write_model(&n);
    test_isa();
    test_values();
    test_precision(&n);
    test_sizes();
    test_torchscript();
    test_from_a_file();
    free(model.data);
    free_net(&n);
    FINISH(5 + 18 + 4 + 13 + 3 + 2);
}
