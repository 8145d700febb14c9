/* Loading: options, the file's bytes, and which backend makes a model of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend.h"
#include "columns.h"
#include "error.h"
#include "guard.h"
#include "metadata.h"
#include "model.h"
#include "onnx.h"

/* ---- options ---- */

static const char *unless_empty(const char *text)
{
    return text != NULL && *text != '\0' ? text : NULL;
}

/* The host's options, with defaults for what it left out or does not know */
static bool complete_options(const emu_options *given, emu_options *options, emu_error *error)
{
    /* sizes that a host may have been compiled with: a struct that ends before one of these members, or today's */
    static const size_t sizes[] = {offsetof(emu_options, isa), offsetof(emu_options, library),
                                   offsetof(emu_options, precision), sizeof *options};
    emu_options_init(options);
    if (given == NULL)
        return true;
    bool known = false;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        known |= given->size == sizes[i];
    if (!known)
        return emu_fail(error, EMU_ERR_ARGUMENT,
                        "emu_options.size is %zu, expected %zu or that of an older libemulator.h; call emu_options_init, "
                        "and link the library that the header belongs to",
                        given->size, sizeof *options);
    memcpy(options, given, given->size);
    options->backend = unless_empty(options->backend);
    options->isa = unless_empty(options->isa);
    options->library = unless_empty(options->library);
    if (options->precision == 0)
        options->precision = 32;
    if (options->num_threads == 0)
        options->num_threads = 1;
    if (options->precision != 32 && options->precision != 64)
        return emu_fail(error, EMU_ERR_ARGUMENT, "the option precision is %d, expected 32 or 64 (bits of the layers)",
                        (int)options->precision);
    if (options->num_threads < 0)
        return emu_fail(error, EMU_ERR_ARGUMENT, "the option num_threads is %d, expected at least 1",
                        (int)options->num_threads);
    return true;
}

/* *backend: what the options name, or what the bytes call for; NULL for native */
static bool choose_backend(emu_text bytes, const emu_options *options, const struct emu_backend **backend,
                           emu_error *error)
{
    const bool torchscript = bytes.size >= 4 && memcmp(bytes.data, "PK\3\4", 4) == 0; /* a zip archive */
    const char *name = options->backend != NULL ? options->backend : torchscript ? "libtorch" : "native";
    const bool native = strcmp(name, "native") == 0;
    *backend = native ? NULL : emu_find_backend(name);
    emu_shown shown;
    if (!native && *backend == NULL)
        return emu_fail(error, EMU_ERR_ARGUMENT,
                        "the option backend is '%s', expected native, onnxruntime or libtorch",
                        emu_show(&shown, (emu_text){name, strlen(name)}));
    if (torchscript == (*backend == &emu_backend_libtorch))
        return true;
    if (torchscript)
        return emu_fail(error, native ? EMU_ERR_UNSUPPORTED : EMU_ERR_FORMAT,
                        "this is a TorchScript file (a zip archive), but the backend '%s' reads ONNX files; use the "
                        "backend 'libtorch', or give it the model's .onnx file",
                        name);
    return emu_fail(error, EMU_ERR_FORMAT,
                    "this is no TorchScript file (a zip archive made by torch.jit.save); for an ONNX file use the "
                    "backend 'native' or 'onnxruntime'");
}

/* ---- models ---- */

static bool build_native(emu_model *model, emu_text bytes, const emu_options *options, emu_error *error)
{
    emu_arena file = {NULL, 0};
    onnx_model onnx;
    model->precision = options->precision;
    model->kernels = emu_select_kernels(options->isa, error);
    const bool good = model->kernels != NULL && emu_onnx_read(bytes, &onnx, &file, error) &&
                      emu_plan(&onnx, model, error) && emu_read_metadata(&onnx, model, error);
    emu_arena_free(&file);
    if (good)
        emu_choose_tiles(model);
    return good;
}

static bool build(emu_model *model, emu_text bytes, const emu_options *given, emu_error *error)
{
    emu_options options;
    if (!complete_options(given, &options, error) || !choose_backend(bytes, &options, &model->backend, error))
        return false;
    const bool good = model->backend != NULL ? model->backend->open(model, bytes, &options, error)
                                             : build_native(model, bytes, &options, error);
    return good && (emu_set_limits(model) || emu_fail(error, EMU_ERR_MEMORY, "out of memory"));
}

static emu_model *load(emu_text bytes, const emu_options *options, emu_error *error)
{
    emu_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        emu_fail(error, EMU_ERR_MEMORY, "out of memory");
        return NULL;
    }
    /* Numbers of a file may overflow or be divided by zero: none of that reaches the host's flags and traps. */
    emu_host_environment host;
    emu_leave_host(&host);
    const bool good = build(model, bytes, options, error);
    emu_return_to_host(&host);
    if (good)
        return model;
    emu_free(model);
    return NULL;
}

void emu_free(emu_model *model)
{
    if (model == NULL)
        return;
    if (model->backend != NULL)
        model->backend->close(model);
    emu_arena_free(&model->arena);
    free(model);
}

/* ---- files ---- */

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

static bool read_file(const char *path, emu_arena *arena, char **bytes, size_t *size, emu_error *error)
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
    *bytes = good ? emu_arena_alloc(arena, *size, 1) : NULL;
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

emu_status emu_load_with(const char *path, const emu_options *options, emu_model **model, char *message,
                         size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (model != NULL)
        *model = NULL;
    if (path == NULL || model == NULL) {
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_load: path or model is NULL");
        return error.status;
    }
    emu_arena file = {NULL, 0};
    char *bytes = NULL;
    size_t size = 0;
    if (read_file(path, &file, &bytes, &size, &error))
        *model = load((emu_text){bytes, size}, options, &error);
    emu_arena_free(&file);
    if (error.status != EMU_OK)
        add_path(&error, path);
    return error.status;
}

emu_status emu_load_bytes_with(const void *bytes, size_t size, const emu_options *options, emu_model **model,
                               char *message, size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (model != NULL)
        *model = NULL;
    if (bytes == NULL || model == NULL)
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_load_bytes: bytes or model is NULL");
    else if (size == 0)
        emu_fail(&error, EMU_ERR_FORMAT, "the model has no bytes");
    else
        *model = load((emu_text){bytes, size}, options, &error);
    return error.status;
}

emu_status emu_load(const char *path, emu_model **model, char *message, size_t message_size)
{
    return emu_load_with(path, NULL, model, message, message_size);
}

emu_status emu_load_bytes(const void *bytes, size_t size, emu_model **model, char *message, size_t message_size)
{
    return emu_load_bytes_with(bytes, size, NULL, model, message, message_size);
}
