#define _GNU_SOURCE
#include "onnx_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- protobuf ---- */

static void append(bytes *to, const void *data, size_t size)
{
    if (size == 0)
        return;
    if (to->size + size > to->capacity) {
        to->capacity = 2 * (to->size + size);
        to->data = realloc(to->data, to->capacity);
        if (to->data == NULL)
            abort();
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

void put_varint(bytes *to, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        append(to, &byte, 1);
        value >>= 7;
    } while (value != 0);
}

void put_number(bytes *to, int field, uint64_t value)
{
    put_varint(to, (uint64_t)field << 3);
    put_varint(to, value);
}

void put_bytes(bytes *to, int field, const void *data, size_t size)
{
    put_varint(to, (uint64_t)field << 3 | 2);
    put_varint(to, size);
    append(to, data, size);
}

void put_text(bytes *to, int field, const char *text)
{
    put_bytes(to, field, text, strlen(text));
}

void put_message(bytes *to, int field, bytes *message)
{
    put_bytes(to, field, message->data, message->size);
    free(message->data);
    *message = (bytes){NULL, 0, 0};
}

/* ---- ONNX ---- */

void put_tensor(bytes *graph, const char *name, int type, int rank, const int64_t *dims, const void *data, size_t size)
{
    bytes tensor = {NULL, 0, 0};
    for (int d = 0; d < rank; d++)
        put_number(&tensor, 1, (uint64_t)dims[d]);
    put_number(&tensor, 2, (uint64_t)type);
    put_text(&tensor, 8, name);
    put_bytes(&tensor, 9, data, size);
    put_message(graph, 5, &tensor);
}

void put_node(bytes *graph, const char *op, const char *inputs, const char *output, const char *attribute,
              int64_t value)
{
    bytes node = {NULL, 0, 0};
    while (*inputs != '\0') { /* separated by blanks */
        const size_t n = strcspn(inputs, " ");
        put_bytes(&node, 1, inputs, n);
        inputs += n + (inputs[n] == ' ');
    }
    put_text(&node, 3, output); /* a node is called like its result */
    while (*output != '\0') {
        const size_t n = strcspn(output, " ");
        put_bytes(&node, 2, output, n);
        output += n + (output[n] == ' ');
    }
    put_text(&node, 4, op);
    if (attribute != NULL) {
        bytes a = {NULL, 0, 0};
        put_text(&a, 1, attribute);
        put_number(&a, 3, (uint64_t)value);
        put_number(&a, 20, 2); /* INT */
        put_message(&node, 5, &a);
    }
    put_message(graph, 1, &node);
}

void put_value_info(bytes *graph, int field, const char *name, int type, int64_t width)
{
    bytes info = {NULL, 0, 0}, typed = {NULL, 0, 0}, tensor = {NULL, 0, 0}, shape = {NULL, 0, 0}, dim = {NULL, 0, 0};
    put_text(&dim, 2, "ncol");
    put_message(&shape, 1, &dim);
    put_number(&dim, 1, (uint64_t)width);
    put_message(&shape, 1, &dim);
    put_number(&tensor, 1, (uint64_t)type);
    put_message(&tensor, 2, &shape);
    put_message(&typed, 1, &tensor);
    put_text(&info, 1, name);
    put_message(&info, 2, &typed);
    put_message(graph, field, &info);
}

void put_metadata(bytes *model, const char *key, const char *text)
{
    bytes entry = {NULL, 0, 0};
    put_text(&entry, 1, key);
    put_text(&entry, 2, text);
    put_message(model, 14, &entry);
}

bytes finish_model(bytes *graph)
{
    bytes model = {NULL, 0, 0}, opset = {NULL, 0, 0};
    put_number(&model, 1, 8); /* ir_version */
    put_number(&opset, 2, 17);
    put_message(&model, 8, &opset);
    put_message(&model, 7, graph);
    return model;
}

/* ---- random numbers ---- */

uint64_t random_bits(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double uniform(uint64_t *state)
{
    return (double)(random_bits(state) >> 11) * 0x1p-53;
}

static double normal(uint64_t *state)
{
    const double u = uniform(state) + 0x1p-60;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * uniform(state));
}

/* ---- emulators ---- */

static double transformed(transform kind, double x)
{
    switch (kind) {
    case LOG: return log(x);
    case SQRT: return sqrt(x);
    case LOGIT: return -log(1.0 / x - 1.0);
    default: return x;
    }
}

net random_net(uint64_t seed, int depth, const int *widths, const char *activation, const char *output_activation,
               int transforms)
{
    net n;
    memset(&n, 0, sizeof n);
    uint64_t state = seed * 7919 + 1;
    n.depth = depth;
    memcpy(n.widths, widths, sizeof(int) * (size_t)(depth + 1));
    snprintf(n.activation, sizeof n.activation, "%s", activation);
    snprintf(n.output_activation, sizeof n.output_activation, "%s", output_activation);
    const size_t I = (size_t)widths[0], O = (size_t)widths[depth];
    for (int l = 0; l < depth; l++) {
        const size_t in = (size_t)widths[l], out = (size_t)widths[l + 1];
        n.weights[l] = malloc(in * out * sizeof(float));
        n.biases[l] = malloc(out * sizeof(float));
        for (size_t i = 0; i < in * out; i++)
            n.weights[l][i] = (float)(normal(&state) * sqrt(2.0 / (double)in));
        for (size_t i = 0; i < out; i++)
            n.biases[l][i] = (float)(0.1 * normal(&state));
    }
    n.inputs = calloc(I, sizeof *n.inputs);
    n.outputs = calloc(O, sizeof *n.outputs);
    n.mean = calloc(4 * I, sizeof(double));
    n.std = n.mean + I;
    n.low = n.mean + 2 * I;
    n.high = n.mean + 3 * I;
    for (size_t i = 0; i < I; i++) {
        n.inputs[i] = transforms ? (transform)(random_bits(&state) % 4) : NO_TRANSFORM;
        n.low[i] = n.inputs[i] == NO_TRANSFORM ? 300.0 * normal(&state)
                   : n.inputs[i] == LOGIT      ? 1e-4
                                               : 0.01 + uniform(&state);
        n.high[i] = n.inputs[i] == LOGIT ? 1.0 - 1e-4 : n.low[i] + 10.0 * (uniform(&state) + 0.1);
        const double a = transformed(n.inputs[i], n.low[i]), b = transformed(n.inputs[i], n.high[i]);
        n.mean[i] = 0.5 * (a + b);
        n.std[i] = 0.29 * (b - a);
    }
    for (size_t j = 0; j < O; j++)
        n.outputs[j] = transforms ? (transform)(random_bits(&state) % 4) : NO_TRANSFORM;
    return n;
}

void free_net(net *n)
{
    for (int l = 0; l < n->depth; l++) {
        free(n->weights[l]);
        free(n->biases[l]);
    }
    free(n->inputs);
    free(n->outputs);
    free(n->mean);
    memset(n, 0, sizeof *n);
}

void random_inputs(const net *n, uint64_t seed, int num, double *x)
{
    uint64_t state = seed ^ 0x5bd1e995;
    for (int s = 0; s < num; s++)
        for (int i = 0; i < n->widths[0]; i++)
            *x++ = n->low[i] + uniform(&state) * (n->high[i] - n->low[i]);
}

static double activated(const char *kind, double t)
{
    if (strcmp(kind, "Relu") == 0)
        return t < 0.0 ? 0.0 : t;
    if (strcmp(kind, "Sigmoid") == 0)
        return 1.0 / (1.0 + exp(-t));
    return strcmp(kind, "Tanh") == 0 ? tanh(t) : t;
}

void reference(const net *n, const double *x, double *y)
{
    size_t widest = 1;
    for (int l = 0; l <= n->depth; l++)
        widest = (size_t)n->widths[l] > widest ? (size_t)n->widths[l] : widest;
    double *a = malloc(2 * widest * sizeof(double)), *b = a + widest;
    for (int i = 0; i < n->widths[0]; i++) {
        double t = x[i];
        if (n->inputs[i] != NO_TRANSFORM && t < n->low[i])
            t = n->low[i];
        if (n->inputs[i] == LOGIT && t > n->high[i])
            t = n->high[i];
        a[i] = (transformed(n->inputs[i], t) - n->mean[i]) / n->std[i];
    }
    double *from = a, *to = b;
    for (int l = 0; l < n->depth; l++) {
        for (int j = 0; j < n->widths[l + 1]; j++) {
            double sum = (double)n->biases[l][j];
            for (int k = 0; k < n->widths[l]; k++)
                sum += (double)n->weights[l][(size_t)j * (size_t)n->widths[l] + (size_t)k] * from[k];
            to[j] = activated(l + 1 < n->depth ? n->activation : n->output_activation, sum);
        }
        double *swap = from;
        from = to;
        to = swap;
    }
    for (int j = 0; j < n->widths[n->depth]; j++) {
        const double t = from[j];
        y[j] = n->outputs[j] == LOG     ? exp(t)
               : n->outputs[j] == SQRT  ? (t < 0.0 ? 0.0 : t) * (t < 0.0 ? 0.0 : t)
               : n->outputs[j] == LOGIT ? 1.0 / (1.0 + exp(-t))
                                        : t;
    }
    free(a);
}

/* Where(mask, op(Where(mask, source, one)), previous) for the columns of one kind; returns the number of the result */
static void mask_tensor(bytes *graph, const char *name, const transform *kinds, int n, transform kind)
{
    unsigned char *mask = malloc((size_t)n);
    for (int i = 0; i < n; i++)
        mask[i] = kinds[i] == kind;
    put_tensor(graph, name, 9, 2, (int64_t[]){1, n}, mask, (size_t)n);
    free(mask);
}

static int uses(const transform *kinds, int n, transform kind)
{
    for (int i = 0; i < n; i++)
        if (kinds[i] == kind)
            return 1;
    return 0;
}

static void put_input_transforms(bytes *graph, const net *n)
{
    const int I = n->widths[0];
    const int64_t row[2] = {1, I};
    double *floor = malloc(2 * (size_t)I * sizeof(double)), *top = floor + I;
    for (int i = 0; i < I; i++) {
        floor[i] = n->inputs[i] == NO_TRANSFORM ? -(double)INFINITY : n->low[i];
        top[i] = n->inputs[i] == LOGIT ? n->high[i] : (double)INFINITY;
    }
    put_tensor(graph, "floor", 11, 2, row, floor, 8 * (size_t)I);
    put_tensor(graph, "top", 11, 2, row, top, 8 * (size_t)I);
    put_tensor(graph, "one", 11, 0, NULL, (double[]){1.0}, 8);
    free(floor);
    put_node(graph, "Less", "x floor", "below", NULL, 0);
    put_node(graph, "Where", "below floor x", "floored", NULL, 0);
    put_node(graph, "Greater", "floored top", "above", NULL, 0);
    put_node(graph, "Where", "above top floored", "limited", NULL, 0);
    mask_tensor(graph, "is_log", n->inputs, I, LOG);
    put_node(graph, "Where", "is_log limited one", "safe_log", NULL, 0);
    put_node(graph, "Log", "safe_log", "log", NULL, 0);
    put_node(graph, "Where", "is_log log limited", "t1", NULL, 0);
    mask_tensor(graph, "is_sqrt", n->inputs, I, SQRT);
    put_node(graph, "Where", "is_sqrt limited one", "safe_sqrt", NULL, 0);
    put_node(graph, "Sqrt", "safe_sqrt", "sqrt", NULL, 0);
    put_node(graph, "Where", "is_sqrt sqrt t1", "t2", NULL, 0);
    mask_tensor(graph, "is_logit", n->inputs, I, LOGIT);
    put_node(graph, "Where", "is_logit limited one", "safe_logit", NULL, 0);
    put_node(graph, "Reciprocal", "safe_logit", "inverse", NULL, 0);
    put_node(graph, "Sub", "inverse one", "odds", NULL, 0);
    put_node(graph, "Log", "odds", "log_odds", NULL, 0);
    put_node(graph, "Neg", "log_odds", "logit", NULL, 0);
    put_node(graph, "Where", "is_logit logit t2", "t3", NULL, 0);
}

static void put_output_transforms(bytes *graph, const net *n)
{
    const int O = n->widths[n->depth];
    mask_tensor(graph, "out_log", n->outputs, O, LOG);
    mask_tensor(graph, "out_sqrt", n->outputs, O, SQRT);
    mask_tensor(graph, "out_logit", n->outputs, O, LOGIT);
    put_node(graph, "Where", "out_log raw one", "safe_exp", NULL, 0);
    put_node(graph, "Exp", "safe_exp", "exp", NULL, 0);
    put_node(graph, "Where", "out_log exp raw", "y1", NULL, 0);
    put_node(graph, "Where", "out_sqrt raw one", "safe_square", NULL, 0);
    put_node(graph, "Relu", "safe_square", "positive", NULL, 0);
    put_node(graph, "Mul", "positive positive", "square", NULL, 0);
    put_node(graph, "Where", "out_sqrt square y1", "y2", NULL, 0);
    put_node(graph, "Where", "out_logit raw one", "safe_sigmoid", NULL, 0);
    put_node(graph, "Sigmoid", "safe_sigmoid", "inverse_logit", NULL, 0);
    put_node(graph, "Where", "out_logit inverse_logit y2", "y", NULL, 0);
}

static void add_lines(char **text, size_t *size, const double *values, int rows, int columns)
{
    FILE *out = open_memstream(text, size);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            fprintf(out, "%s%.17g", c > 0 ? " " : r > 0 ? "\n" : "", values[r * columns + c]);
    fclose(out);
}

static void put_lines(bytes *model, const char *key, const double *values, int rows, int columns)
{
    char *text;
    size_t size;
    add_lines(&text, &size, values, rows, columns);
    put_metadata(model, key, text);
    free(text);
}

static void put_all_metadata(bytes *model, const net *n)
{
    const int I = n->widths[0], O = n->widths[n->depth];
    double *x = malloc((size_t)(n->num_checks + 2) * (size_t)(I + O) * sizeof(double)), *y = x + n->num_checks * I;
    char *text;
    size_t size;
    put_metadata(model, "libemulator.schema", "1");
    for (int side = 0; side < 2; side++) {
        FILE *out = open_memstream(&text, &size);
        for (int i = 0; i < (side ? O : I); i++)
            fprintf(out, "%s%s_%d", i > 0 ? "\n" : "", side ? "out" : "in", i);
        fclose(out);
        put_metadata(model, side ? "libemulator.output_names" : "libemulator.input_names", text);
        free(text);
    }
    put_lines(model, "libemulator.input_min", n->low, I, 1);
    put_lines(model, "libemulator.input_max", n->high, I, 1);
    random_inputs(n, 99, n->num_checks, x);
    for (int s = 0; s < n->num_checks; s++)
        reference(n, x + s * I, y + s * O);
    put_lines(model, "libemulator.check_inputs", x, n->num_checks, I);
    put_lines(model, "libemulator.check_outputs", y, n->num_checks, O);
    put_metadata(model, "libemulator.check_tolerance", "0.001");
    free(x);
}

bytes write_model(const net *n)
{
    bytes graph = {NULL, 0, 0};
    const int I = n->widths[0];
    const int64_t row[2] = {1, I};
    put_text(&graph, 2, "emulator");
    put_value_info(&graph, 11, "x", 11, I);
    put_value_info(&graph, 12, "y", 11, n->widths[n->depth]);
    const int transforms = uses(n->inputs, I, LOG) || uses(n->inputs, I, SQRT) || uses(n->inputs, I, LOGIT);
    if (transforms)
        put_input_transforms(&graph, n);
    put_tensor(&graph, "mean", 11, 2, row, n->mean, 8 * (size_t)I);
    put_tensor(&graph, "std", 11, 2, row, n->std, 8 * (size_t)I);
    put_node(&graph, "Sub", transforms ? "t3 mean" : "x mean", "centred", NULL, 0);
    put_node(&graph, "Div", "centred std", "scaled", NULL, 0);
    put_node(&graph, "Cast", "scaled", "a0", "to", 1);
    for (int l = 0; l < n->depth; l++) {
        char w[32], b[32], inputs[100], sum[32], result[32];
        const int64_t dims[2] = {n->widths[l + 1], n->widths[l]};
        const char *activation = l + 1 < n->depth ? n->activation : n->output_activation;
        snprintf(w, sizeof w, "W%d", l);
        snprintf(b, sizeof b, "b%d", l);
        snprintf(inputs, sizeof inputs, "a%d W%d b%d", l, l, l);
        snprintf(sum, sizeof sum, "s%d", l);
        snprintf(result, sizeof result, "a%d", l + 1);
        put_tensor(&graph, w, 1, 2, dims, n->weights[l], 4 * (size_t)dims[0] * (size_t)dims[1]);
        put_tensor(&graph, b, 1, 1, dims, n->biases[l], 4 * (size_t)dims[0]);
        put_node(&graph, "Gemm", inputs, sum, "transB", 1);
        put_node(&graph, *activation ? activation : "Identity", sum, result, NULL, 0);
    }
    char last[32];
    snprintf(last, sizeof last, "a%d", n->depth);
    const int O = n->widths[n->depth];
    const int inverse = uses(n->outputs, O, LOG) || uses(n->outputs, O, SQRT) || uses(n->outputs, O, LOGIT);
    put_node(&graph, "Cast", last, inverse ? "raw" : "y", "to", 11);
    if (inverse) {
        if (!transforms)
            put_tensor(&graph, "one", 11, 0, NULL, (double[]){1.0}, 8);
        put_output_transforms(&graph, n);
    }
    bytes model = finish_model(&graph);
    if (n->names)
        put_all_metadata(&model, n);
    return model;
}

bytes write_branched_model(void)
{
    enum { I = 6, H = 20, O = 3 };
    bytes graph = {NULL, 0, 0};
    uint64_t state = 99;
    const struct {
        const char *name;
        int64_t dims[2]; /* [0] == 0: a row */
        double size;
    } constants[] = {{"A", {I, H}, 0.8},     {"a0", {0, H}, 0.3}, {"B", {H, H}, 0.4},     {"gamma", {0, H}, 1.0},
                     {"beta", {0, H}, 0.5}, {"C", {13, O}, 0.5},  {"slope", {0, I}, 1.0}, {"D", {I, O}, 0.5}};
    put_text(&graph, 2, "branched");
    put_value_info(&graph, 11, "x", 1, I);
    put_value_info(&graph, 12, "y", 1, O + I);
    for (size_t c = 0; c < sizeof constants / sizeof constants[0]; c++) {
        const int64_t *dims = constants[c].dims, rows = dims[0] > 0 ? dims[0] : 1;
        float values[H * H];
        for (int64_t i = 0; i < rows * dims[1]; i++)
            values[i] = (float)(constants[c].size * (2.0 * uniform(&state) - 1.0));
        put_tensor(&graph, constants[c].name, 1, dims[0] > 0 ? 2 : 1, dims[0] > 0 ? dims : dims + 1, values,
                   (size_t)(rows * dims[1]) * sizeof(float));
    }
    put_node(&graph, "MatMul", "x A", "a", NULL, 0);
    put_node(&graph, "Add", "a a0", "a1", NULL, 0);
    put_node(&graph, "Relu", "a1", "r", NULL, 0);
    put_node(&graph, "MatMul", "r B", "b", NULL, 0);
    put_node(&graph, "Sigmoid", "b", "s", NULL, 0);
    put_node(&graph, "Mul", "b s", "silu", NULL, 0);
    put_node(&graph, "Add", "silu r", "h", NULL, 0); /* around a layer */
    put_node(&graph, "LayerNormalization", "h gamma beta", "n", "axis", 1);
    put_node(&graph, "Concat", "x n", "c", "axis", 1);
    put_node(&graph, "Split", "c", "p q", "axis", 1); /* 13 columns each, from x and from n */
    put_node(&graph, "Softsign", "q", "g", NULL, 0);
    put_node(&graph, "Mul", "p g", "m", NULL, 0);
    put_node(&graph, "MatMul", "m C", "y1", NULL, 0);
    put_node(&graph, "PRelu", "x slope", "l", NULL, 0);
    put_node(&graph, "MatMul", "l D", "y2", NULL, 0);
    put_node(&graph, "Sub", "y1 y2", "y3", NULL, 0);
    put_node(&graph, "Concat", "y3 x", "y", "axis", 1);
    return finish_model(&graph);
}

/* ---- loading ---- */

emu_model *load_or_die(const bytes *model)
{
    char message[1024];
    emu_model *m;
    if (emu_load_bytes(model->data, model->size, &m, message, sizeof message) != EMU_OK) {
        fprintf(stderr, "cannot load a test model: %s\n", message);
        exit(1);
    }
    return m;
}

emu_model *load_net(const net *n)
{
    bytes model = write_model(n);
    emu_model *m = load_or_die(&model);
    free(model.data);
    return m;
}

int available_isas(const char *names[3])
{
    static const char *const all[4] = {"avx512", "avx2", "neon", "portable"}; /* no machine has more than three */
    const int widths[2] = {1, 1};
    net n = random_net(1, 1, widths, "", "", 0);
    bytes model = write_model(&n);
    int count = 0;
    for (int i = 0; i < 4; i++) {
        emu_model *m;
        setenv("LIBEMULATOR_ISA", all[i], 1);
        if (emu_load_bytes(model.data, model.size, &m, NULL, 0) == EMU_OK)
            names[count++] = all[i];
        emu_free(m);
    }
    unsetenv("LIBEMULATOR_ISA");
    free(model.data);
    free_net(&n);
    return count;
}
