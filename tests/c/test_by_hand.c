/* A network small enough to compute on paper, and the API around it. */
#include "check.h"
#include "onnx_writer.h"

#include <math.h>

/* z = ((x1 - 1) / 2, ln(x2)); hidden h = relu(W z + b), W = [[1, 2], [-1, 1], [0.5, 0.25]], b = (0, 1, -10);
 * y = (h1 + 2 h2 + h3 + 0.5, -h1). For x = (5, 1): z = (2, 0), h = (2, 0, 0), y = (2.5, -2).
 * For x = (1, e): z = (0, 1), h = (2, 2, 0), y = (6.5, -2). For x = (21, e^4): z = (10, 4), h = (18, 0, 0)... */
static bytes hand_made(void)
{
    static const double mean[2] = {1.0, 0.0}, std[2] = {2.0, 1.0}, one = 1.0;
    static const unsigned char second[2] = {0, 1};
    static const float W0[6] = {1.0f, 2.0f, -1.0f, 1.0f, 0.5f, 0.25f}, b0[3] = {0.0f, 1.0f, -10.0f};
    static const float W1[6] = {1.0f, 2.0f, 1.0f, -1.0f, 0.0f, 0.0f}, b1[2] = {0.5f, 0.0f};
    bytes graph = {NULL, 0, 0};
    put_value_info(&graph, 11, "x", 11, 2);
    put_value_info(&graph, 12, "y", 11, 2);
    put_tensor(&graph, "second", 9, 2, (int64_t[]){1, 2}, second, 2);
    put_tensor(&graph, "one", 11, 0, NULL, &one, 8);
    put_tensor(&graph, "mean", 11, 2, (int64_t[]){1, 2}, mean, 16);
    put_tensor(&graph, "std", 11, 2, (int64_t[]){1, 2}, std, 16);
    put_tensor(&graph, "W0", 1, 2, (int64_t[]){3, 2}, W0, 24);
    put_tensor(&graph, "b0", 1, 1, (int64_t[]){3}, b0, 12);
    put_tensor(&graph, "W1", 1, 2, (int64_t[]){2, 3}, W1, 24);
    put_tensor(&graph, "b1", 1, 1, (int64_t[]){2}, b1, 8);
    put_node(&graph, "Where", "second x one", "safe", NULL, 0);
    put_node(&graph, "Log", "safe", "log", NULL, 0);
    put_node(&graph, "Where", "second log x", "t", NULL, 0);
    put_node(&graph, "Sub", "t mean", "c", NULL, 0);
    put_node(&graph, "Div", "c std", "z", NULL, 0);
    put_node(&graph, "Cast", "z", "z32", "to", 1);
    put_node(&graph, "Gemm", "z32 W0 b0", "s0", "transB", 1);
    put_node(&graph, "Relu", "s0", "h", NULL, 0);
    put_node(&graph, "Gemm", "h W1 b1", "s1", "transB", 1);
    put_node(&graph, "Cast", "s1", "y", "to", 11);
    bytes model = finish_model(&graph);
    put_metadata(&model, "libemulator.input_names", "first\nsecond");
    put_metadata(&model, "libemulator.input_units", "K\nhPa");
    put_metadata(&model, "libemulator.output_names", "a\nb");
    put_metadata(&model, "libemulator.input_min", "1\n0.1");
    put_metadata(&model, "libemulator.input_max", "21\n1e2");
    put_metadata(&model, "color", "blue");
    return model;
}

static void test_values(const emu_model *m)
{
    const double e = 2.718281828459045;
    const double x[3][2] = {{5.0, 1.0}, {1.0, e}, {-3.0, 1.0}};
    const double expected[3][2] = {{2.5, -2.0}, {6.5, -2.0}, {6.5, 0.0}}; /* third: z = (-2, 0), h = (0, 3, 0) */
    for (int64_t n = 1; n <= 3; n++) {
        double y[3][2] = {{0}};
        CHECK(emu_infer_f64(m, n, x[0], 2, 1, y[0], 2, 1, NULL, 0) == EMU_OK, "n = %d", (int)n);
        for (int64_t s = 0; s < n; s++)
            for (int j = 0; j < 2; j++)
                CHECK(fabs(y[s][j] - expected[s][j]) <= 1e-6 * fabs(expected[s][j]), "sample %d: %g, expected %g", (int)s,
                      y[s][j], expected[s][j]); /* float32 rounding of z and of exact small numbers */
    }
    /* 60 copies: every kernel of every tile sees the same sample */
    double many[60][2], results[60][2];
    for (int s = 0; s < 60; s++)
        memcpy(many[s], x[1], sizeof x[1]);
    emu_infer_f64(m, 60, many[0], 2, 1, results[0], 2, 1, NULL, 0);
    for (int s = 0; s < 60; s++)
        CHECK(fabs(results[s][0] - 6.5) <= 1e-5 && fabs(results[s][1] + 2.0) <= 1e-5, "sample %d: %g %g", s, results[s][0],
              results[s][1]);
}

static void test_inquiries(const emu_model *m)
{
    CHECK(emu_num_inputs(m) == 2 && emu_num_outputs(m) == 2, "%d %d", (int)emu_num_inputs(m), (int)emu_num_outputs(m));
    CHECK(emu_num_layers(m) == 2 && emu_layer_width(m, 0) == 3 && emu_layer_width(m, 1) == 2, "layers");
    CHECK(emu_layer_width(m, 2) == -1 && emu_layer_width(m, -1) == -1, "no such layer");
    CHECK(emu_num_parameters(m) == 6 + 3 + 6 + 2, "%d", (int)emu_num_parameters(m));
    CHECK(strcmp(emu_input_name(m, 1), "second") == 0, "%s", emu_input_name(m, 1));
    CHECK(strcmp(emu_input_unit(m, 0), "K") == 0, "%s", emu_input_unit(m, 0));
    CHECK(strcmp(emu_output_name(m, 0), "a") == 0 && strcmp(emu_output_unit(m, 0), "") == 0, "outputs");
    CHECK(emu_input_name(m, 2) == NULL && emu_output_unit(m, -1) == NULL, "out of range");
    CHECK(emu_input_min(m, 1) == 0.1 && emu_input_max(m, 1) == 100.0, "range");
    CHECK(isnan(emu_output_min(m, 0)) && isnan(emu_input_max(m, 2)), "unknown range");
    CHECK(emu_input_index(m, "second") == 1 && emu_input_index(m, "third") == -1, "index");
    CHECK(emu_output_index(m, "b") == 1 && emu_output_index(m, NULL) == -1, "index");
    CHECK(strcmp(emu_metadata(m, "color"), "blue") == 0 && emu_metadata(m, "shape") == NULL, "metadata");
    CHECK(emu_abi_version() == EMU_ABI_VERSION && strchr(emu_version(), '.') != NULL, "version");
    CHECK(strcmp(emu_status_name(EMU_ERR_LIMIT), "EMU_ERR_LIMIT") == 0, "%s", emu_status_name(EMU_ERR_LIMIT));
    CHECK(strcmp(emu_status_name((emu_status)77), "unknown status") == 0, "status 77");
    CHECK(emu_num_inputs(NULL) == 0 && emu_isa(NULL) == NULL && isnan(emu_input_min(NULL, 0)), "no model");
    CHECK(emu_workspace_size(m) > 0 && emu_workspace_size(NULL) == 0, "workspace");
    emu_free(NULL);
}

static void test_requirements(const emu_model *m)
{
    char message[300];
    const char *names[3] = {"first", "second", "third"}, *units[3] = {"K", "hPa", "1"};
    CHECK(emu_require_inputs(m, 2, names, units, message, sizeof message) == EMU_OK && *message == '\0', "%s", message);
    CHECK(emu_require_inputs(m, 2, names, NULL, NULL, 0) == EMU_OK, "names only");
    CHECK(emu_require_inputs(m, 3, names, units, message, sizeof message) == EMU_ERR_MISMATCH &&
              strstr(message, "third") != NULL, "%s", message);
    CHECK(emu_require_inputs(m, 1, names, units, message, sizeof message) == EMU_ERR_MISMATCH &&
              strstr(message, "second") != NULL, "%s", message);
    units[1] = "Pa";
    CHECK(emu_require_inputs(m, 2, names, units, message, sizeof message) == EMU_ERR_MISMATCH &&
              strstr(message, "'second'") && strstr(message, "'Pa'") && strstr(message, "'hPa'"), "%s", message);
    names[0] = "erste";
    CHECK(emu_require_inputs(m, 2, names, units, message, sizeof message) == EMU_ERR_MISMATCH &&
              strstr(message, "'erste'") && strstr(message, "'first'"), "%s", message);
    CHECK(emu_require_outputs(m, 0, NULL, NULL, message, sizeof message) == EMU_ERR_MISMATCH, "%s", message);
    CHECK(emu_require_outputs(NULL, 2, names, NULL, message, sizeof message) == EMU_ERR_ARGUMENT, "%s", message);
}

static void test_arguments(const bytes *model, const emu_model *m)
{
    double x[4] = {1, 1, 1, 1}, y[4] = {-9, -9, -9, -9};
    unsigned char *workspace = malloc(emu_workspace_size(m) + 1);
    CHECK(emu_infer_f64(NULL, 1, x, 2, 1, y, 2, 1, NULL, 0) == EMU_ERR_ARGUMENT, "no model");
    CHECK(emu_infer_f64(m, -1, x, 2, 1, y, 2, 1, NULL, 0) == EMU_ERR_ARGUMENT, "negative ncol");
    CHECK(emu_infer_f64(m, 1, NULL, 2, 1, y, 2, 1, NULL, 0) == EMU_ERR_ARGUMENT, "no x");
    CHECK(emu_infer_f64(m, 1, x, 2, 1, NULL, 2, 1, NULL, 0) == EMU_ERR_ARGUMENT, "no y");
    CHECK(emu_infer_f64(m, 2, x, 2, 1, y, 0, 1, NULL, 0) == EMU_ERR_ARGUMENT, "samples of y on top of each other");
    CHECK(emu_infer_f64(m, 1, x, 2, 1, y, 2, 0, NULL, 0) == EMU_ERR_ARGUMENT, "outputs on top of each other");
    CHECK(emu_infer_f64(m, 1, x, 2, 1, y, 2, 1, workspace, emu_workspace_size(m) - 1) == EMU_ERR_ARGUMENT, "small");
    CHECK(y[0] == -9 && y[1] == -9 && y[2] == -9 && y[3] == -9, "y was touched");
    CHECK(emu_infer_f64(m, 0, NULL, 0, 0, NULL, 0, 0, NULL, 0) == EMU_OK, "nothing to do");
    CHECK(emu_infer_f64(m, 2, x, 0, 0, y, 2, 1, workspace + 1, emu_workspace_size(m)) == EMU_OK && y[0] == y[2], "odd");
    free(workspace);

    emu_model *other = (emu_model *)1;
    char message[12];
    CHECK(emu_load(NULL, &other, message, sizeof message) == EMU_ERR_ARGUMENT && other == NULL, "no path");
    CHECK(emu_load("/nowhere/model.onnx", &other, message, sizeof message) == EMU_ERR_FILE, "no file");
    CHECK(strlen(message) == sizeof message - 1, "cut and terminated: '%s'", message);
    CHECK(emu_load("/nowhere/model.onnx", &other, NULL, 0) == EMU_ERR_FILE, "no message wanted");
    CHECK(emu_load_bytes(model->data, 0, &other, NULL, 0) == EMU_ERR_FORMAT, "no bytes");
    CHECK(emu_load_bytes(model->data, model->size, NULL, NULL, 0) == EMU_ERR_ARGUMENT, "nowhere to put it");
    double difference = 0;
    CHECK(emu_self_check(m, &difference, NULL, 0) == EMU_ERR_CHECK && isnan(difference), "no check samples");
    CHECK(emu_measure(m, 0, 0, 0.01, &difference) == EMU_ERR_ARGUMENT, "no samples to time");
    CHECK(emu_measure(m, 3, 1, 0.001, &difference) == EMU_OK && difference > 0, "%g", difference);
}

static void test_file(const bytes *model)
{
    char path[] = "/tmp/libemulator_test_XXXXXX", message[300];
    const int file = mkstemp(path);
    FILE *stream = fdopen(file, "wb");
    fwrite(model->data, 1, model->size, stream);
    fclose(stream);
    emu_model *m;
    CHECK(emu_load(path, &m, message, sizeof message) == EMU_OK && *message == '\0', "%s", message);
    CHECK(emu_num_parameters(m) == 17, "%d", (int)emu_num_parameters(m));
    emu_free(m);
    remove(path);
}

int main(void)
{
    bytes model = hand_made();
    emu_model *m = load_or_die(&model);
    test_values(m);
    test_inquiries(m);
    test_requirements(m);
    test_arguments(&model, m);
    test_file(&model);
    emu_free(m);
    free(model.data);
    FINISH(3 + 12 + 60 + 18 + 8 + 19 + 2);
}
