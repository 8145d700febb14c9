/* ONNX Runtime, through its C API, for graphs that the native engine does not evaluate. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend_onnxruntime_api.h"
#include "metadata.h"
#include "onnx.h"

typedef struct {
    emu_runner runner; /* first: emu_backend_infer sees only this */
    const ort_api *api;
    ort_env *env; /* one per process inside ONNX Runtime, which counts its users */
    ort_session *session;
    ort_memory_info *memory;
    ort_allocator *allocator;
    char *input_name, *output_name;
    int input_type, output_type;
} state;

static const emu_library_search library = {
    .what = "ONNX Runtime",
    .variable = "LIBEMULATOR_ONNXRUNTIME",
#if defined(__APPLE__)
    .names = (const char *const[]){"libonnxruntime.dylib", NULL},
#else
    .names = (const char *const[]){"libonnxruntime.so.1", "libonnxruntime.so", NULL},
#endif
    .remedy = "install ONNX Runtime 1.19 or later (pip's onnxruntime holds it in its folder capi)",
};

/* What is being done, for messages */
typedef struct {
    const ort_api *api;
    const char *doing;
    emu_error *error;
} step;

/* What ONNX Runtime said, as our error. Frees `status`; true if it is NULL, that is, success. */
static bool good(const step *at, ort_status *status)
{
    if (status == NULL)
        return true;
    const ort_api *api = at->api;
    const int code = api->get_error_code(status);
    char text[600];
    emu_one_line(text, sizeof text, api->get_error_message(status));
    emu_fail(at->error,
             code == ORT_INVALID_PROTOBUF || code == ORT_INVALID_GRAPH ? EMU_ERR_FORMAT : EMU_ERR_UNSUPPORTED,
             "ONNX Runtime failed while %s: %s", at->doing, text);
    api->release_status(status);
    return false;
}

static void log_nothing(void *parameter, int severity, const char *category, const char *id, const char *location,
                        const char *message)
{
    (void)parameter, (void)severity, (void)category, (void)id, (void)location, (void)message;
}

static const ort_api *find_api(const char *path, emu_error *error)
{
    void *handle = emu_open_library(&library, path, error);
    if (handle == NULL)
        return NULL;
    const ort_api_base *(*get_base)(void) =
        (const ort_api_base *(*)(void))emu_library_function(handle, "OrtGetApiBase");
    const ort_api_base *base = get_base != NULL ? get_base() : NULL;
    if (base == NULL) {
        emu_fail(error, EMU_ERR_UNSUPPORTED,
                 "the library named for ONNX Runtime is another one: it has no OrtGetApiBase");
        return NULL;
    }
    /* asked before GetApi, which prints to stderr if it does not have the version */
    const char *version = base->get_version();
    char *minor = NULL;
    const long major = version != NULL ? strtol(version, &minor, 10) : 0;
    const bool supported =
        major > 1 || (major == 1 && *minor == '.' && strtol(minor + 1, NULL, 10) >= ORT_API_VERSION_USED);
    const ort_api *api = supported ? base->get_api(ORT_API_VERSION_USED) : NULL;
    if (api == NULL)
        emu_fail(error, EMU_ERR_UNSUPPORTED,
                 "found ONNX Runtime %s, which lacks version %d of its C API; use 1.%d or later",
                 version != NULL ? version : "of unknown version", (int)ORT_API_VERSION_USED,
                 (int)ORT_API_VERSION_USED);
    return api;
}

static bool create_session(state *s, emu_text bytes, int num_threads, emu_error *error)
{
    const ort_api *api = s->api;
    ort_session_options *options = NULL;
    step at = {api, "starting", error};
    bool done = good(&at, api->create_env_with_logger(log_nothing, NULL, ORT_LOG_FATAL, "libemulator", &s->env)) &&
                good(&at, api->disable_telemetry(s->env)) &&
                good(&at, api->create_cpu_memory_info(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &s->memory)) &&
                good(&at, api->default_allocator(&s->allocator)) && good(&at, api->create_session_options(&options)) &&
                good(&at, api->set_log_severity(options, ORT_LOG_FATAL)) &&
                good(&at, api->set_execution_mode(options, ORT_SEQUENTIAL)) &&
                good(&at, api->set_intra_op_threads(options, num_threads)) &&
                good(&at, api->set_inter_op_threads(options, 1)) &&
                /* waiting threads sleep: the cores are the host's */
                good(&at, api->add_config_entry(options, "session.intra_op.allow_spinning", "0"));
    at.doing = "reading the model";
    done = done && good(&at, api->create_session_from_array(s->env, bytes.data, bytes.size, options, &s->session));
    if (options != NULL)
        api->release_session_options(options);
    return done;
}

/* Type and shape of the one input or output; a dimension is -1 where the graph does not state it. */
static bool read_side(const step *at, const char *side, size_t count, ort_type_info *info, int *type, int64_t dims[2])
{
    const ort_api *api = at->api;
    emu_error *const error = at->error;
    const ort_tensor_info *tensor = NULL;
    size_t rank = 0;
    int kind = 0;
    dims[0] = dims[1] = -1;
    if (count != 1)
        return emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "the graph has %zu %ss, libemulator takes one: a tensor [ncol, num_%ss]; join them in the "
                        "graph",
                        count, side, side);
    if (!good(at, api->kind_of_type(info, &kind)))
        return false;
    if (kind != ORT_TENSOR)
        return emu_fail(error, EMU_ERR_UNSUPPORTED, "the graph's %s is no tensor (a map, say); export it as a tensor",
                        side);
    if (!good(at, api->tensor_info(info, &tensor)) ||
        !good(at, api->element_type(tensor, type)) ||
        !good(at, api->rank(tensor, &rank)))
        return false;
    if (*type != ORT_FLOAT && *type != ORT_DOUBLE)
        return emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "the graph's %s has element type %d, expected float (1) or double (11)", side, *type);
    if (rank == 0 && strcmp(side, "output") == 0) /* no shape stated: the trial run will show it */
        return true;
    if (rank != 2)
        return emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "the graph's %s has %zu dimensions, expected two: [ncol, num_%ss]; reshape it in the graph",
                        side, rank, side);
    return good(at, api->dimensions(tensor, dims, 2));
}

static ort_value *tensor(const state *s, void *data, int type, const int64_t shape[2], ort_status **status)
{
    ort_value *value = NULL;
    const size_t size = type == ORT_DOUBLE ? sizeof(double) : sizeof(float);
    *status = s->api->create_tensor(s->memory, data, (size_t)(shape[0] * shape[1]) * size, shape, 2, type, &value);
    return value;
}

/* One run; *y NULL: ONNX Runtime makes the output. */
static ort_status *evaluate(const state *s, int64_t rows, int64_t n, const void *x_data, ort_value **y)
{
    ort_status *status = NULL;
    /* the data are only read: the C API has no tensor of const */
    void *data;
    memcpy(&data, &x_data, sizeof data);
    ort_value *x = tensor(s, data, s->input_type, (const int64_t[2]){rows, n}, &status);
    if (status != NULL)
        return status;
    status = s->api->run(s->session, NULL, (const char *const[]){s->input_name}, (const ort_value *const[]){x}, 1,
                         (const char *const[]){s->output_name}, 1, y);
    s->api->release_value(x);
    return status;
}

static emu_status run(const emu_model *model, int64_t rows, const void *x, void *y_data)
{
    const state *s = model->backend_state;
    ort_status *status = NULL;
    ort_value *y = tensor(s, y_data, s->output_type, (const int64_t[2]){rows, model->num_outputs}, &status);
    if (status == NULL)
        status = evaluate(s, rows, model->num_inputs, x, &y);
    s->api->release_value(y);
    if (status == NULL)
        return EMU_OK;
    s->api->release_status(status);
    return EMU_ERR_BACKEND;
}

/* The graph may state less than it does: a run with zeros shows whether rows of inputs give rows of outputs. */
static bool try_out(const state *s, int64_t rows, int64_t n, int64_t *m, emu_error *error)
{
    const ort_api *api = s->api;
    void *x = calloc((size_t)(rows * n), sizeof(double));
    ort_value *y = NULL;
    ort_tensor_info *info = NULL;
    size_t rank = 0;
    int64_t dims[2] = {-1, -1};
    if (x == NULL)
        return emu_fail(error, EMU_ERR_MEMORY, "out of memory for a trial run");
    const step at = {api, "trying the model out", error};
    bool done = good(&at, evaluate(s, rows, n, x, &y)) && good(&at, api->type_of_value(y, &info)) &&
                good(&at, api->rank(info, &rank));
    if (done && rank == 2)
        done = good(&at, api->dimensions(info, dims, 2));
    if (done && (rank != 2 || dims[0] != rows || dims[1] < 1 || dims[1] > INT32_MAX))
        done = emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "for an input [%lld, %lld] the graph gives a tensor of %zu dimensions [%lld, %lld], expected "
                        "[%lld, num_outputs]: each sample must give one row",
                        (long long)rows, (long long)n, rank, (long long)dims[0], (long long)dims[1], (long long)rows);
    *m = dims[1];
    if (info != NULL)
        api->release_tensor_info(info);
    if (y != NULL)
        api->release_value(y);
    free(x);
    return done;
}

static bool describe(emu_model *model, state *s, emu_error *error)
{
    const ort_api *api = s->api;
    size_t num_inputs = 0, num_outputs = 0;
    ort_type_info *in = NULL, *out = NULL;
    int64_t x[2], y[2], m = 0;
    const step at = {api, "describing the model", error};
    bool done = good(&at, api->num_inputs(s->session, &num_inputs)) &&
                good(&at, api->num_outputs(s->session, &num_outputs)) &&
                (num_inputs == 0 || good(&at, api->input_type(s->session, 0, &in))) &&
                (num_outputs == 0 || good(&at, api->output_type(s->session, 0, &out))) &&
                read_side(&at, "input", num_inputs, in, &s->input_type, x) &&
                read_side(&at, "output", num_outputs, out, &s->output_type, y) &&
                good(&at, api->input_name(s->session, 0, s->allocator, &s->input_name)) &&
                good(&at, api->output_name(s->session, 0, s->allocator, &s->output_name));
    if (in != NULL)
        api->release_type_info(in);
    if (out != NULL)
        api->release_type_info(out);
    if (done && (x[1] < 1 || x[1] > INT32_MAX))
        done = emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "the graph's input states no number of columns (its shape is [%lld, %lld]); export it with a "
                        "fixed second dimension",
                        (long long)x[0], (long long)x[1]);
    /* A graph exported for one sample runs sample by sample; one for another number cannot be called in any batch. */
    if (done && x[0] > 1)
        done = emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "the graph takes exactly %lld samples; export it with a variable first dimension",
                        (long long)x[0]);
    if (!done || !try_out(s, x[0] == 1 ? 1 : 2, x[1], &m, error))
        return false;
    model->num_inputs = (int32_t)x[1];
    model->num_outputs = (int32_t)m;
    s->runner.in_double = s->input_type == ORT_DOUBLE;
    s->runner.out_double = s->output_type == ORT_DOUBLE;
    s->runner.max_rows = x[0] == 1 ? 1 : emu_backend_rows(x[1], m);
    s->runner.run = run;
    return true;
}

static bool read_metadata(emu_model *model, emu_text bytes, emu_error *error)
{
    emu_arena scratch = {NULL, 0};
    onnx_model file;
    const bool done = emu_onnx_read_metadata(bytes, &file, &scratch, error) && emu_read_metadata(&file, model, error);
    emu_arena_free(&scratch);
    return done;
}

static bool open_model(emu_model *model, emu_text bytes, const emu_options *options, emu_error *error)
{
    state *s = emu_arena_alloc(&model->arena, 1, sizeof *s);
    if (s == NULL)
        return emu_fail(error, EMU_ERR_MEMORY, "out of memory");
    model->backend_state = s;
    s->api = find_api(options->library, error);
    return s->api != NULL && create_session(s, bytes, options->num_threads, error) && describe(model, s, error) &&
           read_metadata(model, bytes, error);
}

static void close_model(emu_model *model)
{
    state *s = model->backend_state;
    if (s == NULL || s->api == NULL)
        return;
    const ort_api *api = s->api;
    emu_host_environment host;
    emu_leave_host(&host);
    char *names[] = {s->input_name, s->output_name};
    for (int i = 0; i < 2; i++) {
        ort_status *status = names[i] != NULL ? api->allocator_free(s->allocator, names[i]) : NULL;
        if (status != NULL)
            api->release_status(status);
    }
    if (s->memory != NULL)
        api->release_memory_info(s->memory);
    if (s->session != NULL)
        api->release_session(s->session);
    if (s->env != NULL)
        api->release_env(s->env);
    emu_return_to_host(&host);
    model->backend_state = NULL;
}

const struct emu_backend emu_backend_onnxruntime = {"onnxruntime", open_model, emu_backend_infer, close_model};
