/* Loading, and what can be asked of a model. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "columns.h"
#include "error.h"
#include "metadata.h"
#include "model.h"
#include "onnx.h"

#define STRING_(x) #x
#define STRING(x) STRING_(x)

int emu_abi_version(void)
{
    return EMU_ABI_VERSION;
}

const char *emu_version(void)
{
    return STRING(EMU_VERSION);
}

const char *emu_status_name(emu_status status)
{
    static const char *const names[] = {"EMU_OK",        "EMU_ERR_ARGUMENT", "EMU_ERR_FILE",
                                        "EMU_ERR_FORMAT", "EMU_ERR_UNSUPPORTED", "EMU_ERR_LIMIT",
                                        "EMU_ERR_MEMORY", "EMU_ERR_MISMATCH", "EMU_ERR_CHECK"};
    const unsigned i = (unsigned)status;
    return i < sizeof names / sizeof names[0] ? names[i] : "unknown status";
}

/* ---- loading ---- */

static bool build(emu_model *model, emu_text bytes, emu_error *error)
{
    emu_arena file = {NULL, 0};
    onnx_model onnx;
    model->kernels = emu_select_kernels(error);
    const bool good = model->kernels != NULL && emu_onnx_read(bytes, &onnx, &file, error) &&
                      emu_plan(&onnx, model, error) && emu_read_metadata(&onnx, model, error);
    emu_arena_free(&file);
    if (good)
        emu_choose_tiles(model);
    return good;
}

static emu_model *load(emu_text bytes, emu_error *error)
{
    emu_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        emu_fail(error, EMU_ERR_MEMORY, "out of memory");
        return NULL;
    }
    if (build(model, bytes, error))
        return model;
    emu_free(model);
    return NULL;
}

/* The file's name in front of what went wrong in it */
static void add_path(emu_error *error, const char *path)
{
    if (error->message == NULL)
        return;
    char text[600];
    emu_shown shown;
    const size_t length = strlen(path);
    /* the end of a long path says more than its start */
    const emu_text tail = {path + (length > 70 ? length - 70 : 0), length > 70 ? 70 : length};
    strncpy(text, error->message, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    emu_error again = emu_error_start(error->message, error->size);
    emu_fail(&again, error->status, "%s%s: %s", length > 70 ? "..." : "", emu_show(&shown, tail), text);
}

static bool read_file(const char *path, char **bytes, size_t *size, emu_error *error)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
    if (file < 0)
        return emu_fail(error, EMU_ERR_FILE, "cannot open the model file: %s", strerror(errno));
    struct stat info;
    bool good = true;
    if (fstat(file, &info) != 0)
        good = emu_fail(error, EMU_ERR_FILE, "cannot read the model file: %s", strerror(errno));
    else if (!S_ISREG(info.st_mode))
        good = emu_fail(error, EMU_ERR_FILE, "not a regular file");
    else if (info.st_size < 1)
        good = emu_fail(error, EMU_ERR_FORMAT, "the file is empty");
    else if ((uint64_t)info.st_size > ONNX_MAX_FILE)
        good = emu_fail(error, EMU_ERR_LIMIT, "the file is larger than 2 GiB, the limit of the format");
    *size = good ? (size_t)info.st_size : 0;
    *bytes = good ? malloc(*size) : NULL;
    if (good && *bytes == NULL)
        good = emu_fail(error, EMU_ERR_MEMORY, "out of memory for a file of %zu bytes", *size);
    for (size_t done = 0; good && done < *size;) {
        const ssize_t n = read(file, *bytes + done, *size - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            good = emu_fail(error, EMU_ERR_FILE, "the file became shorter while it was read");
        else if (errno != EINTR)
            good = emu_fail(error, EMU_ERR_FILE, "cannot read the model file: %s", strerror(errno));
    }
    close(file);
    return good;
}

emu_status emu_load(const char *path, emu_model **model, char *message, size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (model != NULL)
        *model = NULL;
    if (path == NULL || model == NULL) {
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_load: path or model is NULL");
        return error.status;
    }
    char *bytes = NULL;
    size_t size = 0;
    if (read_file(path, &bytes, &size, &error))
        *model = load((emu_text){bytes, size}, &error);
    free(bytes);
    if (error.status != EMU_OK)
        add_path(&error, path);
    return error.status;
}

emu_status emu_load_bytes(const void *bytes, size_t size, emu_model **model, char *message, size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (model != NULL)
        *model = NULL;
    if (bytes == NULL || model == NULL)
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_load_bytes: bytes or model is NULL");
    else if (size == 0)
        emu_fail(&error, EMU_ERR_FORMAT, "the model has no bytes");
    else
        *model = load((emu_text){bytes, size}, &error);
    return error.status;
}

void emu_free(emu_model *model)
{
    if (model == NULL)
        return;
    emu_arena_free(&model->arena);
    free(model);
}

/* ---- accessors ---- */

const char *emu_isa(const emu_model *m)
{
    return m != NULL ? m->kernels->name : NULL;
}

int64_t emu_num_inputs(const emu_model *m)
{
    return m != NULL ? m->num_inputs : 0;
}

int64_t emu_num_outputs(const emu_model *m)
{
    return m != NULL ? m->num_outputs : 0;
}

int64_t emu_num_layers(const emu_model *m)
{
    return m != NULL ? m->num_layers : 0;
}

int64_t emu_layer_width(const emu_model *m, int64_t layer)
{
    return m != NULL && layer >= 0 && layer < m->num_layers ? m->layers[layer].num_outputs : -1;
}

int64_t emu_num_parameters(const emu_model *m)
{
    return m != NULL ? m->num_parameters : 0;
}

#define ACCESSORS(side)                                                                                      \
    const char *emu_##side##_name(const emu_model *m, int64_t i)                                             \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_names[i] : NULL;                      \
    }                                                                                                        \
    const char *emu_##side##_unit(const emu_model *m, int64_t i)                                             \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_units[i] : NULL;                      \
    }                                                                                                        \
    double emu_##side##_min(const emu_model *m, int64_t i)                                                   \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_min[i] : (double)NAN;                 \
    }                                                                                                        \
    double emu_##side##_max(const emu_model *m, int64_t i)                                                   \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_max[i] : (double)NAN;                 \
    }                                                                                                        \
    int64_t emu_##side##_index(const emu_model *m, const char *name)                                         \
    {                                                                                                        \
        for (int64_t i = 0; m != NULL && name != NULL && i < m->num_##side##s; i++) {                        \
            if (strcmp(m->side##_names[i], name) == 0)                                                       \
                return i;                                                                                    \
        }                                                                                                    \
        return -1;                                                                                           \
    }
ACCESSORS(input)
ACCESSORS(output)

const char *emu_metadata(const emu_model *m, const char *key)
{
    for (int i = 0; m != NULL && key != NULL && i < m->num_metadata; i++) {
        if (strcmp(m->metadata_keys[i], key) == 0)
            return m->metadata_values[i];
    }
    return NULL;
}

/* ---- names and units of the host against the model's ---- */

static emu_status require(const emu_model *m, const char *side, int64_t n, const char *const *names,
                          const char *const *units, int64_t expected, const char *const *model_names,
                          const char *const *model_units, char *message, size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (m == NULL || n < 0 || (names == NULL && n > 0)) {
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_require_%ss: model or names is NULL, or n is negative", side);
        return error.status;
    }
    emu_shown host, file;
#define SHOW(buffer, text) emu_show(&buffer, (emu_text){text, strlen(text)})
    for (int64_t i = 0; i < n && i < expected && error.status == EMU_OK; i++) {
        const char *name = names[i] != NULL ? names[i] : "";
        if (strcmp(name, model_names[i]) != 0)
            emu_fail(&error, EMU_ERR_MISMATCH,
                     "%s %lld: the host has '%s', the model expects '%s'; fill the arrays in the model's order", side,
                     (long long)i + 1, SHOW(host, name), SHOW(file, model_names[i]));
        const char *unit = units != NULL && units[i] != NULL ? units[i] : "";
        if (units != NULL && strcmp(unit, model_units[i]) != 0) {
            char label[120];
            strncpy(label, SHOW(file, name), sizeof label - 1);
            label[sizeof label - 1] = '\0';
            emu_fail(&error, EMU_ERR_MISMATCH,
                     "%s %lld ('%s'): the host has the unit '%s', the model expects '%s'; convert the values", side,
                     (long long)i + 1, label, SHOW(host, unit), SHOW(file, model_units[i]));
        }
    }
    if (n != expected)
        emu_fail(&error, EMU_ERR_MISMATCH, "the host has %lld %ss, the model %lld; %s %lld is '%s'", (long long)n, side,
                 (long long)expected, side, (long long)(n < expected ? n : expected) + 1,
                 n < expected ? SHOW(file, model_names[n]) : (names[expected] ? SHOW(host, names[expected]) : ""));
#undef SHOW
    return error.status;
}

emu_status emu_require_inputs(const emu_model *m, int64_t n, const char *const *names, const char *const *units,
                              char *message, size_t message_size)
{
    return require(m, "input", n, names, units, emu_num_inputs(m), m ? m->input_names : NULL,
                   m ? m->input_units : NULL, message, message_size);
}

emu_status emu_require_outputs(const emu_model *m, int64_t n, const char *const *names, const char *const *units,
                               char *message, size_t message_size)
{
    return require(m, "output", n, names, units, emu_num_outputs(m), m ? m->output_names : NULL,
                   m ? m->output_units : NULL, message, message_size);
}
