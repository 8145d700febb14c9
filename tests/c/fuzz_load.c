/* Whatever bytes come: a status and a message, or a model whose every function works. The property that libFuzzer
 * (LIBEMULATOR_FUZZ) searches for counterexamples, and that fuzz_replay.c checks for the files kept in fuzz_seeds/.
 *
 * The mutator knows where the messages of an ONNX file nest, so that their lengths stay right: without it nearly every
 * mutation ends in the first lines of the reader. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libemulator.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* ---- the property ---- */

enum { SAMPLES = 20 };

/* Every text of the model is there and ends */
static void read_descriptions(const emu_model *m)
{
    char message[64];
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    size_t length = 0;
    for (int64_t i = -1; i <= I; i++) {
        const char *name = emu_input_name(m, i), *unit = emu_input_unit(m, i);
        MUST((name != NULL) == (i >= 0 && i < I) && (unit != NULL) == (name != NULL));
        if (name != NULL) {
            length += strlen(name) + strlen(unit);
            const int64_t index = emu_input_index(m, name); /* -1 where no name was given */
            MUST(index >= -1 && index < I);
        }
        MUST(!(emu_input_min(m, i) > emu_input_max(m, i)));
    }
    for (int64_t i = -1; i <= O; i++) {
        const char *name = emu_output_name(m, i), *unit = emu_output_unit(m, i);
        MUST((name != NULL) == (i >= 0 && i < O) && (unit != NULL) == (name != NULL));
        if (name != NULL) {
            length += strlen(name) + strlen(unit);
            const int64_t index = emu_output_index(m, name);
            MUST(index >= -1 && index < O);
        }
        MUST(!(emu_output_min(m, i) > emu_output_max(m, i)));
    }
    for (int64_t l = -1; l <= emu_num_layers(m); l++)
        MUST(emu_layer_width(m, l) >= -1);
    MUST(emu_num_parameters(m) >= 0);
    static const char *const names[] = {"temperature", ""}, *const units[] = {"K", "1"};
    emu_require_inputs(m, 2, names, units, message, sizeof message);
    emu_require_outputs(m, 2, names, units, message, sizeof message);
    const char *text = emu_metadata(m, "schema");
    if (text != NULL)
        length += strlen(text);
    MUST(length < SIZE_MAX);
}

/* The same bits for a sample by itself and among others, for both layouts; a NaN stays with its sample */
static void evaluate(const emu_model *m)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    double *x = malloc((size_t)(I * SAMPLES) * sizeof *x), *y = malloc((size_t)(O * SAMPLES) * sizeof *y);
    double *x_turned = malloc((size_t)(I * SAMPLES) * sizeof *x), *y_turned = malloc((size_t)(O * SAMPLES) * sizeof *y);
    double *y_one = malloc((size_t)O * sizeof *y_one);
    MUST(x != NULL && y != NULL && x_turned != NULL && y_turned != NULL && y_one != NULL);
    static const double special[] = {NAN, INFINITY, -INFINITY, 1e308, -1e-308, 0.0};
    for (int64_t s = 0; s < SAMPLES; s++)
        for (int64_t i = 0; i < I; i++) {
            double value = 0.05 * (double)s * (double)(1 + i % 7) - 0.3;
            if (s >= SAMPLES - 6 && i == s % I)
                value = special[SAMPLES - 1 - s];
            x[s * I + i] = x_turned[i * SAMPLES + s] = value;
        }
    MUST(emu_infer_f64(m, SAMPLES, x, I, 1, y, O, 1, NULL, 0) == EMU_OK);
    MUST(emu_infer_f64(m, SAMPLES, x_turned, 1, SAMPLES, y_turned, 1, SAMPLES, NULL, 0) == EMU_OK);
    for (int64_t s = 0; s < SAMPLES; s++) {
        MUST(emu_infer_f64(m, 1, x + s * I, I, 1, y_one, O, 1, NULL, 0) == EMU_OK);
        for (int64_t o = 0; o < O; o++) {
            const double a = y[s * O + o], b = y_turned[o * SAMPLES + s], c = y_one[o];
            MUST(isnan(a) ? isnan(b) && isnan(c) : memcmp(&a, &b, sizeof a) == 0 && memcmp(&a, &c, sizeof a) == 0);
        }
    }
    free(x);
    free(y);
    free(x_turned);
    free(y_turned);
    free(y_one);
}

/* The guard's counts agree with the mask, and change no sample that is inside */
static void guard(const emu_model *m)
{
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
    double *x = malloc((size_t)(I * SAMPLES) * sizeof *x);
    double *y = malloc((size_t)(O * SAMPLES) * sizeof *y), *z = malloc((size_t)(O * SAMPLES) * sizeof *z);
    int32_t outside[SAMPLES];
    MUST(x != NULL && y != NULL && z != NULL);
    for (int64_t i = 0; i < I * SAMPLES; i++)
        x[i] = i % 31 == 30 ? NAN : 0.07 * (double)(i % 29) - 0.4;
    emu_guard g;
    emu_guard_init(&g);
    g.clamp = 1;
    g.outside = outside;
    MUST(emu_infer_f64(m, SAMPLES, x, I, 1, y, O, 1, NULL, 0) == EMU_OK);
    MUST(emu_infer_guarded_f64(m, SAMPLES, x, I, 1, z, O, 1, NULL, 0, &g) == EMU_OK);
    int64_t count = 0;
    for (int64_t s = 0; s < SAMPLES; s++) {
        count += outside[s] != 0;
        for (int64_t o = 0; o < O && outside[s] == 0; o++)
            MUST(isnan(y[s * O + o]) ? isnan(z[s * O + o]) : memcmp(&y[s * O + o], &z[s * O + o], sizeof *y) == 0);
    }
    MUST(g.num_samples == SAMPLES && g.num_outside == count);
    free(x);
    free(y);
    free(z);
}

static emu_status try_bytes(const uint8_t *data, size_t size, int precision)
{
    uint8_t *copy = malloc(size > 0 ? size : 1); /* of exactly that size: a read beyond it is seen */
    MUST(copy != NULL);
    if (size > 0)
        memcpy(copy, data, size);
    emu_options options;
    emu_options_init(&options);
    options.backend = "native";
    options.precision = precision;
    emu_model *m = NULL;
    char message[120];
    memset(message, 'x', sizeof message);
    const emu_status status = emu_load_bytes_with(copy, size, &options, &m, message, sizeof message);
    memset(copy, 0xA5, size); /* a model keeps nothing of the caller's bytes */
    free(copy);
    MUST(memchr(message, '\0', sizeof message) != NULL);
    MUST((status == EMU_OK) == (m != NULL) && (status == EMU_OK) == (message[0] == '\0'));
    MUST(status != EMU_ERR_ARGUMENT && status != EMU_ERR_FILE && status != EMU_ERR_BACKEND);
    if (m != NULL) {
        read_descriptions(m);
        if (emu_workspace_size(m) < (size_t)1 << 26) {
            evaluate(m);
            guard(m);
            emu_self_check(m, NULL, message, sizeof message);
            MUST(memchr(message, '\0', sizeof message) != NULL);
        }
        emu_free(m);
    }
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const emu_status status = try_bytes(data, size, 32), status_f64 = try_bytes(data, size, 64);
    MUST(status != EMU_OK || status_f64 == EMU_OK); /* precision 64 also takes what has mixed types */
    return 0;
}

/* ---- the mutator ---- */

#if defined(EMU_FUZZ_MUTATOR)

typedef enum { OTHER, MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, VALUE, TYPE, TENSOR_TYPE, SHAPE, DIM, OPSET, PAIR } message;

/* onnx.proto: the message in a field of a message */
static message inside(message m, uint64_t field)
{
    switch (m) {
    case MODEL: return field == 7 ? GRAPH : field == 8 ? OPSET : field == 14 ? PAIR : OTHER;
    case GRAPH: return field == 1 ? NODE : field == 5 ? TENSOR : field >= 11 && field <= 13 ? VALUE : OTHER;
    case NODE: return field == 5 ? ATTRIBUTE : OTHER;
    case ATTRIBUTE: return field == 5 ? TENSOR : field == 6 ? GRAPH : OTHER;
    case VALUE: return field == 2 ? TYPE : OTHER;
    case TYPE: return field == 1 ? TENSOR_TYPE : OTHER;
    case TENSOR_TYPE: return field == 2 ? SHAPE : OTHER;
    case SHAPE: return field == 1 ? DIM : OTHER;
    default: return OTHER;
    }
}

static const char *const operators[] = {
    "Abs", "Add", "ArrayFeatureExtractor", "BatchNormalization", "Cast", "Celu", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Div", "Dropout", "Elu", "Erf", "Erfc", "Exp", "Expand", "Flatten", "Gather", "GatherND",
    "Gelu", "Gemm", "Greater", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Less",
    "Log", "MatMul", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "ReduceMean", "ReduceSum",
    "Relu", "Reshape", "Scaler", "Selu", "Shape", "Sigmoid", "Slice", "Softmax", "Softplus", "Softsign", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tanh", "Transpose", "Unsqueeze", "Where"};

static uint32_t random_state;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(random_state >> 4) * n) >> 28);
}

typedef struct {
    const uint8_t *start, *payload, *end; /* of the whole field; a varint's payload is empty */
    uint64_t number, value;               /* field number; varint */
    int wire;
} field;

static int read_varint(const uint8_t **p, const uint8_t *end, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && *p < end; shift += 7) {
        const uint8_t byte = *(*p)++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return 1;
    }
    return 0;
}

static int read_field(const uint8_t *p, const uint8_t *end, field *f)
{
    uint64_t key, size = 0;
    f->start = p;
    if (!read_varint(&p, end, &key))
        return 0;
    f->number = key >> 3;
    f->wire = (int)(key & 7);
    f->value = 0;
    if (f->wire == 0) {
        if (!read_varint(&p, end, &f->value))
            return 0;
    } else if (f->wire == 2) {
        if (!read_varint(&p, end, &size))
            return 0;
    } else if (f->wire == 1 || f->wire == 5) {
        size = f->wire == 1 ? 8 : 4;
    } else {
        return 0;
    }
    if (size > (uint64_t)(end - p))
        return 0;
    f->payload = p;
    f->end = p + size;
    return 1;
}

typedef struct {
    uint8_t *data;
    size_t size, capacity;
} sink;

static void put(sink *s, const void *data, size_t size)
{
    if (size > s->capacity - s->size)
        size = s->capacity - s->size;
    if (size > 0)
        memcpy(s->data + s->size, data, size);
    s->size += size;
}

static void put_varint(sink *s, uint64_t value)
{
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value > 0);
    put(s, bytes, n);
}

static void put_field(sink *s, uint64_t number, const uint8_t *data, size_t size)
{
    put_varint(s, number << 3 | 2);
    put_varint(s, size);
    put(s, data, size);
}

enum { MAX_FIELDS = 4096 };

static void mutate(message m, const uint8_t *data, size_t size, sink *to);

/* A field's contents, changed */
static void mutate_field(message m, const field *f, sink *to)
{
    if (f->wire == 0) {
        static const int64_t numbers[] = {0, 1, 2, 3, 6, 7, 9, 11, 13, 17, 18, 20, 127, -1, -2, INT64_MAX, INT64_MIN,
                                          INT32_MAX, (int64_t)UINT32_MAX + 1};
        const uint32_t n = below(sizeof numbers / sizeof numbers[0] + 2);
        put_varint(to, f->number << 3);
        put_varint(to, n == 0 ? f->value + 1 : n == 1 ? f->value - 1 : (uint64_t)numbers[n - 2]);
    } else if (f->wire != 2) {
        static const float floats[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e-45f, 3e38f, INFINITY, NAN, 0.5f, 1e-30f};
        put(to, f->start, (size_t)(f->payload - f->start));
        if (f->wire == 5 && below(4) > 0)
            put(to, &floats[below(sizeof floats / sizeof floats[0])], 4);
        else
            for (const uint8_t *p = f->payload; p < f->end; p++)
                put(to, &(uint8_t){(uint8_t)(*p ^ (1u << below(8)))}, 1);
    } else {
        const size_t size = (size_t)(f->end - f->payload), capacity = size + 256;
        const message child = inside(m, f->number);
        uint8_t *changed = malloc(capacity);
        MUST(changed != NULL);
        sink into = {changed, 0, capacity};
        if (child != OTHER) {
            mutate(child, f->payload, size, &into);
        } else if (m == NODE && f->number == 4 && below(8) > 0) {
            const char *name = operators[below(sizeof operators / sizeof operators[0])];
            put(&into, name, strlen(name));
        } else {
            put(&into, f->payload, size);
            into.size = LLVMFuzzerMutate(changed, into.size, capacity);
        }
        put_field(to, f->number, changed, into.size);
        free(changed);
    }
}

/* A message with one of its fields changed, dropped, repeated, or put elsewhere */
static void mutate(message m, const uint8_t *data, size_t size, sink *to)
{
    static field fields[MAX_FIELDS]; /* read again after the recursion, which uses it too */
    const uint8_t *end = data + size;
    uint32_t count = 0;
    for (const uint8_t *p = data; p < end && count < MAX_FIELDS && read_field(p, end, &fields[count]); count++)
        p = fields[count].end;
    if (count == 0) {
        put(to, data, size);
        to->size = LLVMFuzzerMutate(to->data, to->size, to->capacity);
        return;
    }
    const field one = fields[below(count)], other = fields[below(count)];
    const uint32_t action = below(12);
    put(to, data, (size_t)(one.start - data));
    if (action == 0) { /* dropped */
    } else if (action == 1) {
        put(to, one.start, (size_t)(one.end - one.start));
        put(to, one.start, (size_t)(one.end - one.start));
    } else if (action == 2) {
        put(to, other.start, (size_t)(other.end - other.start));
        put(to, one.start, (size_t)(one.end - one.start));
    } else if (action == 3 && one.wire == 2 && other.wire == 2) { /* another field's contents: names, tensors */
        put_field(to, one.number, other.payload, (size_t)(other.end - other.payload));
    } else {
        mutate_field(m, &one, to);
    }
    put(to, one.end, (size_t)(end - one.end));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    random_state = seed;
    if (below(20) == 0) /* damage that no writer makes */
        return LLVMFuzzerMutate(data, size, max_size);
    uint8_t *changed = malloc(max_size);
    MUST(changed != NULL);
    for (uint32_t n = 1 + below(3); n > 0; n--) {
        sink to = {changed, 0, max_size};
        mutate(MODEL, data, size, &to);
        memcpy(data, changed, to.size);
        size = to.size;
    }
    free(changed);
    return size;
}

#endif
