/* ONNX Runtime through its C API, without its header: the API is a table of functions whose order never changes, only
 * grows (onnxruntime_c_api.h, "DO NOT MODIFY ABOVE"), so the slots used are declared here and the library is opened at
 * run time, from the path in ENGINE_BENCH_ONNXRUNTIME. At its best: one thread, all graph optimisations, inputs and
 * outputs bound once per batch size, so that a call neither allocates nor looks names up. */
#include "bench.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct api_base {
    const void *const *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

enum { /* slots of OrtApi; all of them exist since version 5 of the API */
    API_VERSION = 11,
    GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, CREATE_SESSION_OPTIONS = 10, SET_GRAPH_OPTIMISATION = 23,
    SET_INTRA_OP_THREADS = 24, SET_INTER_OP_THREADS = 25, CREATE_TENSOR_WITH_DATA = 49, CREATE_CPU_MEMORY_INFO = 69,
    RELEASE_SESSION = 95, RELEASE_VALUE = 96, RUN_WITH_BINDING = 133, CREATE_IO_BINDING = 134, RELEASE_IO_BINDING = 135,
    BIND_INPUT = 136, BIND_OUTPUT = 137
};
enum { LOG_ERROR = 3, OPTIMISE_ALL = 99, ARENA_ALLOCATOR = 1, MEMORY_DEFAULT = 0, TYPE_FLOAT = 1, TYPE_DOUBLE = 11 };

static const void *const *api;
#define CALL(slot, ...) ((void *(*)(__VA_ARGS__))api[slot]) /* they return a status: NULL for success */

struct state {
    const struct bench_network *network;
    int bare; /* float32 layers alone: normalised and converted here */
    void *session, *memory, *binding, *input, *output;
    void *rows_in, *rows_out;
    long bound; /* samples that the binding is for */
};

static const struct api_base *library(void)
{
    const char *path = getenv("ENGINE_BENCH_ONNXRUNTIME");
    void *handle = path != NULL ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (handle == NULL)
        return NULL;
    const struct api_base *(*base)(void);
    *(void **)&base = dlsym(handle, "OrtGetApiBase");
    if (base == NULL)
        return NULL;
    api = base()->get_api(API_VERSION);
    return api != NULL ? base() : NULL;
}

static const char *version(void)
{
    const struct api_base *base = library();
    return base != NULL ? base->get_version() : NULL;
}

static int failed(void *status, char *message)
{
    if (status != NULL)
        snprintf(message, BENCH_TEXT, "%s", ((const char *(*)(void *))api[GET_ERROR_MESSAGE])(status));
    return status != NULL;
}

static void *load(const struct bench_network *network, char *message, int bare)
{
    static void *environment;
    char path[BENCH_TEXT + 32];
    void *options = NULL;
    struct state *s = calloc(1, sizeof *s);
    s->network = network;
    s->bare = bare;
    snprintf(path, sizeof path, "%s/%s.onnx", network->folder, bare ? "bare" : "model");
    if ((environment == NULL &&
         failed(CALL(CREATE_ENV, int, const char *, void **)(LOG_ERROR, "bench", &environment), message)) ||
        failed(CALL(CREATE_SESSION_OPTIONS, void **)(&options), message) ||
        failed(CALL(SET_GRAPH_OPTIMISATION, void *, int)(options, OPTIMISE_ALL), message) ||
        failed(CALL(SET_INTRA_OP_THREADS, void *, int)(options, 1), message) ||
        failed(CALL(SET_INTER_OP_THREADS, void *, int)(options, 1), message) ||
        failed(CALL(CREATE_SESSION, void *, const char *, void *, void **)(environment, path, options, &s->session),
               message) ||
        failed(CALL(CREATE_CPU_MEMORY_INFO, int, int, void **)(ARENA_ALLOCATOR, MEMORY_DEFAULT, &s->memory), message)) {
        free(s);
        return NULL;
    }
    return s;
}

static void *load_graph(const struct bench_network *network, char *message)
{
    return load(network, message, 0);
}

static void *load_bare(const struct bench_network *network, char *message)
{
    return load(network, message, 1);
}

static void unbind(struct state *s)
{
    if (s->binding != NULL) {
        ((void (*)(void *))api[RELEASE_IO_BINDING])(s->binding);
        ((void (*)(void *))api[RELEASE_VALUE])(s->input);
        ((void (*)(void *))api[RELEASE_VALUE])(s->output);
    }
    free(s->rows_in);
    free(s->rows_out);
    s->binding = s->rows_in = s->rows_out = NULL;
}

static int bind(struct state *s, long n)
{
    const int num_inputs = s->network->width[0], num_outputs = s->network->width[s->network->num_layers];
    const int type = s->bare ? TYPE_FLOAT : TYPE_DOUBLE;
    const size_t item = s->bare ? sizeof(float) : sizeof(double);
    const size_t bytes_in = (size_t)n * (size_t)num_inputs * item, bytes_out = (size_t)n * (size_t)num_outputs * item;
    const int64_t shape_in[2] = {n, num_inputs}, shape_out[2] = {n, num_outputs};
    char message[BENCH_TEXT];
    unbind(s);
    s->rows_in = aligned_alloc(64, (bytes_in + 63) / 64 * 64);
    s->rows_out = aligned_alloc(64, (bytes_out + 63) / 64 * 64);
    s->bound = n;
    if (failed(CALL(CREATE_IO_BINDING, void *, void **)(s->session, &s->binding), message) ||
        failed(CALL(CREATE_TENSOR_WITH_DATA, void *, void *, size_t, const int64_t *, size_t, int, void **)(
                   s->memory, s->rows_in, bytes_in, shape_in, 2, type, &s->input), message) ||
        failed(CALL(CREATE_TENSOR_WITH_DATA, void *, void *, size_t, const int64_t *, size_t, int, void **)(
                   s->memory, s->rows_out, bytes_out, shape_out, 2, type, &s->output), message) ||
        failed(CALL(BIND_INPUT, void *, const char *, void *)(s->binding, s->bare ? "z" : "x", s->input), message) ||
        failed(CALL(BIND_OUTPUT, void *, const char *, void *)(s->binding, "y", s->output), message)) {
        fprintf(stderr, "engine_bench: ONNX Runtime: %s\n", message);
        return 0;
    }
    return 1;
}

static int infer(void *opaque, long n, const double *x, double *y)
{
    struct state *s = opaque;
    const struct bench_network *network = s->network;
    const int num_outputs = network->width[network->num_layers];
    if (n != s->bound && !bind(s, n))
        return 1;
    if (s->bare)
        bench_stage_in(network, n, x, s->rows_in);
    else
        bench_transpose_in(network->width[0], n, x, s->rows_in);
    if (CALL(RUN_WITH_BINDING, void *, const void *, const void *)(s->session, NULL, s->binding) != NULL)
        return 1;
    if (s->bare)
        bench_stage_out(num_outputs, n, s->rows_out, y);
    else
        bench_transpose_out(num_outputs, n, s->rows_out, y);
    return 0;
}

static void unload(void *opaque)
{
    struct state *s = opaque;
    unbind(s);
    ((void (*)(void *))api[RELEASE_SESSION])(s->session);
    free(s);
}

const struct bench_plugin *bench_open(void)
{
    static const struct bench_backend backends[] = {{"onnxruntime", "whole graph", load_graph, infer, unload, NULL},
                                                    {"onnxruntime", "layers only", load_bare, infer, unload, NULL}};
    static const struct bench_plugin plugin = {2, backends, version};
    return &plugin;
}
