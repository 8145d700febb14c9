/* Damaged and hostile model files: a status each, never a crash, hang or leak. Meant to run under the address and
 * undefined-behaviour sanitizers (tests/builds); what loads in spite of its damage is evaluated too. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <time.h>
#include <unistd.h>

static long outcomes[16], loaded_anyway;
static double slowest;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A copy of exactly that size, so that a read beyond it is seen */
static emu_status try_bytes(const unsigned char *data, size_t size)
{
    unsigned char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, data, size);
    char message[200];
    memset(message, 'x', sizeof message);
    emu_model *m = NULL;
    const double start = now();
    alarm(120); /* a hang ends the test */
    const emu_status status = emu_load_bytes(copy, size, &m, message, sizeof message);
    free(copy);
    const int terminated = memchr(message, '\0', sizeof message) != NULL;
    CHECK(terminated && (status == EMU_OK) == (m != NULL) && (status == EMU_OK) == (message[0] == '\0') &&
              (int)status >= 0 && status <= EMU_ERR_LIMIT && status != EMU_ERR_FILE && status != EMU_ERR_ARGUMENT,
          "%s: %s", emu_status_name(status), terminated ? message : "not terminated");
    outcomes[status]++;
    if (m != NULL) { /* the damage is in a number or a name: everything must still work */
        const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m);
        double *x = calloc((size_t)(I * 20), sizeof *x), *y = calloc((size_t)(O * 20), sizeof *y);
        if (emu_workspace_size(m) < 1u << 28) {
            emu_infer_f64(m, 1, x, I, 1, y, O, 1, NULL, 0);
            emu_infer_f64(m, 20, x, 1, 20, y, 1, 20, NULL, 0);
            emu_self_check(m, NULL, message, sizeof message);
        }
        for (int64_t i = 0; i < I; i++)
            loaded_anyway += emu_input_index(m, emu_input_name(m, i)) >= 0 && emu_input_unit(m, i) != NULL;
        free(x);
        free(y);
        emu_free(m);
    }
    alarm(0);
    if (now() - start > slowest)
        slowest = now() - start;
    return status;
}

static bytes sample_model(uint64_t seed, int names)
{
    static const int widths[] = {5, 18, 7, 3};
    net n = random_net(seed, 3, widths, "Relu", "Sigmoid", 1);
    n.names = names;
    n.num_checks = names ? 2 : 0;
    bytes model = write_model(&n);
    free_net(&n);
    return model;
}

/* A file cut between two metadata entries is a whole file with fewer of them; one cut within its graph is damaged. */
static long truncations(const bytes *model, size_t graph_end)
{
    long count = 0;
    for (size_t size = 1; size < model->size; size += 1 + model->size / 400, count++)
        CHECK(try_bytes(model->data, size) != EMU_OK || size >= graph_end, "%zu of %zu bytes load", size, model->size);
    return count;
}

/* Flip, overwrite, insert, delete, or repeat bytes at random places */
static void mutations(const bytes *model, uint64_t seed, int count)
{
    unsigned char *copy = malloc(2 * model->size + 64);
    uint64_t state = seed;
    for (int i = 0; i < count; i++) {
        size_t size = model->size;
        memcpy(copy, model->data, size);
        const int edits = 1 + (int)(random_bits(&state) % 4);
        for (int e = 0; e < edits; e++) {
            const size_t at = (size_t)(random_bits(&state) % size);
            const size_t span = 1 + (size_t)(random_bits(&state) % 16);
            switch (random_bits(&state) % 6) {
            case 0: copy[at] ^= (unsigned char)(1u << (random_bits(&state) % 8)); break;
            case 1: copy[at] = (unsigned char)random_bits(&state); break;
            case 2: copy[at] = random_bits(&state) % 2 ? 0xff : 0x7f; break; /* lengths and varints grow */
            case 3: /* delete */
                if (at + span < size) {
                    memmove(copy + at, copy + at + span, size - at - span);
                    size -= span;
                }
                break;
            case 4: /* repeat */
                if (at + span < size && size + span < 2 * model->size) {
                    memmove(copy + at + span, copy + at, size - at);
                    size += span;
                }
                break;
            default: /* a piece from elsewhere */
                if (at + span < size) {
                    const size_t from = (size_t)(random_bits(&state) % (size - span));
                    memmove(copy + at, copy + from, span);
                }
            }
        }
        try_bytes(copy, size);
    }
    free(copy);
}

static void expect(const char *what, bytes *model, emu_status expected)
{
    const emu_status status = try_bytes(model->data, model->size);
    CHECK(status == expected, "%s: %s, expected %s", what, emu_status_name(status), emu_status_name(expected));
    free(model->data);
    *model = (bytes){NULL, 0, 0};
}

/* y = op(... op(x W) ...), with weights that claim dims */
static bytes layered(const char *op, int times, const int64_t dims[2], size_t data_size)
{
    static const float zeros[4096];
    bytes graph = {NULL, 0, 0};
    put_value_info(&graph, 11, "x", 1, dims[0]);
    put_value_info(&graph, 12, "y", 1, dims[1]);
    put_tensor(&graph, "W", 1, 2, dims, zeros, data_size);
    put_node(&graph, "MatMul", "x W", times > 0 ? "t0" : "y", NULL, 0);
    for (int i = 0; i < times; i++) {
        char from[20], to[20];
        snprintf(from, sizeof from, "t%d", i);
        snprintf(to, sizeof to, i + 1 < times ? "t%d" : "y", i + 1);
        put_node(&graph, op, from, to, NULL, 0);
    }
    return finish_model(&graph);
}

static void designed(void)
{
    bytes m = {NULL, 0, 0}, inner;
    m = layered("Relu", 0, (int64_t[]){2, 3}, 24);
    expect("a sound model", &m, EMU_OK);
    m = layered("Relu", 0, (int64_t[]){2, 3}, 20);
    expect("fewer bytes than the shape asks for", &m, EMU_ERR_FORMAT);
    m = layered("Relu", 0, (int64_t[]){2, INT64_MAX}, 24);
    expect("a product of dimensions beyond 64 bits", &m, EMU_ERR_FORMAT);
    m = layered("Relu", 0, (int64_t[]){(int64_t)1 << 33, (int64_t)1 << 31}, 0);
    expect("a product of dimensions that wraps to 0", &m, EMU_ERR_FORMAT);
    m = layered("Relu", 0, (int64_t[]){2, -3}, 24);
    expect("a negative dimension", &m, EMU_ERR_FORMAT);
    m = layered("Relu", 0, (int64_t[]){2, 0}, 0);
    expect("a layer without outputs", &m, EMU_ERR_LIMIT);
    m = layered("Exp", 1000, (int64_t[]){1, 3}, 12);
    expect("a chain of 1000 operations", &m, EMU_ERR_LIMIT);
    m = layered("Softmax", 1, (int64_t[]){2, 3}, 24);
    expect("an operator of another kind", &m, EMU_ERR_UNSUPPORTED);

    /* a few bytes that ask for 4096 columns 15,000 times over */
    static const float zeros[4096];
    bytes graph = {NULL, 0, 0};
    put_value_info(&graph, 11, "x", 1, 1);
    put_value_info(&graph, 12, "y", 1, 4096);
    put_tensor(&graph, "W", 1, 2, (int64_t[]){1, 4096}, zeros, sizeof zeros);
    put_node(&graph, "MatMul", "x W", "y", NULL, 0);
    for (int i = 0; i < 15000; i++) {
        char name[20];
        snprintf(name, sizeof name, "t%d", i);
        put_node(&graph, "Abs", "y", name, NULL, 0);
    }
    m = finish_model(&graph);
    expect("side branches that multiply the columns", &m, EMU_ERR_LIMIT);

    for (int i = 0; i < 30000; i++)
        put_node(&graph, "Abs", "x", "t", NULL, 0);
    m = finish_model(&graph);
    expect("30,000 nodes", &m, EMU_ERR_LIMIT);

    /* messages within messages, 20,000 deep: a reader that recursed would run out of stack */
    for (int i = 0; i < 20000; i++) {
        inner = m;
        m = (bytes){NULL, 0, 0};
        put_message(&m, i % 2 ? 7 : 1, &inner); /* ModelProto.graph, GraphProto.node */
    }
    expect("nesting", &m, EMU_ERR_FORMAT);
    m = (bytes){NULL, 0, 0};
    for (int i = 0; i < 3000; i++)
        put_varint(&m, UINT64_MAX);
    expect("endless varints", &m, EMU_ERR_FORMAT);
    put_varint(&m, 7 << 3 | 2);
    put_varint(&m, UINT64_MAX - 3);
    expect("a length beyond the end", &m, EMU_ERR_FORMAT);
    put_varint(&m, 7 << 3 | 3);
    expect("a group", &m, EMU_ERR_FORMAT);
}

int main(void)
{
    enum { MUTATIONS = 700 };
    long cut = 0;
    size_t graph_end = 0;
    for (int names = 0; names < 2; names++) {
        bytes model = sample_model(3, names);
        CHECK(try_bytes(model.data, model.size) == EMU_OK, "the model without damage does not load");
        graph_end = names ? graph_end : model.size; /* metadata come after it */
        cut += truncations(&model, graph_end);
        mutations(&model, 17 + (uint64_t)names, MUTATIONS);
        free(model.data);
    }
    bytes branched = write_branched_model();
    CHECK(try_bytes(branched.data, branched.size) == EMU_OK, "the branched model without damage does not load");
    mutations(&branched, 23, MUTATIONS);
    free(branched.data);
    designed();
    printf("%ld files: %ld loaded, %ld format, %ld unsupported, %ld limit, %ld memory; slowest %.3f s\n",
           3 + cut + 3 * MUTATIONS + 14, outcomes[EMU_OK], outcomes[EMU_ERR_FORMAT], outcomes[EMU_ERR_UNSUPPORTED],
           outcomes[EMU_ERR_LIMIT], outcomes[EMU_ERR_MEMORY], slowest);
    CHECK(3 + cut + 3 * MUTATIONS + 14 >= 1000, "too few files");
    CHECK(outcomes[EMU_OK] >= 50 && outcomes[EMU_ERR_FORMAT] >= 300 && outcomes[EMU_ERR_UNSUPPORTED] >= 20,
          "too uniform");
    CHECK(slowest < 10.0, "one file took %g s", slowest);
    FINISH(2 * 3 + 2 * cut + 3 * MUTATIONS + 2 * 14 + 3);
}
