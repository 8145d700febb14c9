/* LibTorch, for model.pt: through the plugin libemulator_torch, so that this library needs neither C++ nor LibTorch. */
#include "backend.h"

#include <string.h>

#include "backend_libtorch.h"
#include "metadata.h"
#include "onnx.h"

typedef struct {
    emu_runner runner; /* first: emu_backend_infer sees only this */
    const emu_torch_plugin_table *plugin;
    void *session;
} state;

static const emu_library_search library = {
    .what = "libemulator's LibTorch plugin",
    .variable = "LIBEMULATOR_LIBTORCH",
    .names = (const char *const[]){"libemulator_torch.so", NULL},
    .remedy = "build it with the CMake option LIBEMULATOR_TORCH",
    .beside_us = true,
};

static const emu_torch_plugin_table *find_plugin(const char *path, emu_error *error)
{
    void *handle = emu_open_library(&library, path, error);
    if (handle == NULL)
        return NULL;
    const emu_torch_plugin_table *(*get)(void) =
        (const emu_torch_plugin_table *(*)(void))emu_library_function(handle, "emu_torch_plugin");
    const emu_torch_plugin_table *plugin = get != NULL ? get() : NULL;
    if (plugin == NULL)
        emu_fail(error, EMU_ERR_UNSUPPORTED,
                 "the library named for LibTorch is another one: expected libemulator_torch.so, libemulator's plugin "
                 "(which finds LibTorch by itself)");
    else if (plugin->version != EMU_TORCH_PLUGIN_VERSION)
        emu_fail(error, EMU_ERR_UNSUPPORTED,
                 "libemulator_torch.so has interface version %d, this libemulator (%s) expects %d; build them together",
                 plugin->version, emu_version(), (int)EMU_TORCH_PLUGIN_VERSION);
    return plugin != NULL && plugin->version == EMU_TORCH_PLUGIN_VERSION ? plugin : NULL;
}

static emu_status run(const emu_model *model, int64_t rows, const void *x, void *y)
{
    const state *s = model->backend_state;
    const int result = s->plugin->run(s->session, rows, x, y);
    return result == EMU_TORCH_OK ? EMU_OK : result == EMU_TORCH_MEMORY ? EMU_ERR_MEMORY : EMU_ERR_BACKEND;
}

static bool read_metadata(emu_model *model, const emu_torch_model *file, emu_error *error)
{
    emu_arena scratch = {NULL, 0};
    onnx_model texts = {.num_metadata = file->num_texts,
                        .metadata = emu_arena_alloc(&scratch, (size_t)file->num_texts, sizeof *texts.metadata)};
    if (texts.metadata == NULL)
        return emu_fail(error, EMU_ERR_MEMORY, "out of memory while reading the metadata");
    for (int i = 0; i < file->num_texts; i++) {
        texts.metadata[i].key = (emu_text){file->texts[i].key, strlen(file->texts[i].key)};
        texts.metadata[i].value = (emu_text){file->texts[i].value, file->texts[i].size};
    }
    const bool done = emu_read_metadata(&texts, model, error);
    emu_arena_free(&scratch);
    return done;
}

static bool open_session(emu_model *model, state *s, emu_text bytes, const emu_options *options, emu_error *error)
{
    emu_torch_model file;
    memset(&file, 0, sizeof file);
    char message[600] = "";
    const int threads = options->num_threads > 0 ? options->num_threads : 1;
    const int result = s->plugin->open(bytes.data, bytes.size, threads, &file, message, sizeof message);
    if (result != EMU_TORCH_OK)
        return emu_fail(error,
                        result == EMU_TORCH_FORMAT   ? EMU_ERR_FORMAT
                        : result == EMU_TORCH_MEMORY ? EMU_ERR_MEMORY
                                                     : EMU_ERR_UNSUPPORTED,
                        "LibTorch %s: %s", s->plugin->torch_version, message);
    s->session = file.session;
    s->runner.in_double = file.in_double != 0;
    s->runner.out_double = file.out_double != 0;
    s->runner.max_rows = emu_backend_rows(file.num_inputs, file.num_outputs);
    s->runner.run = run;
    model->num_inputs = (int32_t)file.num_inputs;
    model->num_outputs = (int32_t)file.num_outputs;
    return read_metadata(model, &file, error);
}

static bool open_model(emu_model *model, emu_text bytes, const emu_options *options, emu_error *error)
{
    state *s = emu_arena_alloc(&model->arena, 1, sizeof *s);
    if (s == NULL)
        return emu_fail(error, EMU_ERR_MEMORY, "out of memory");
    model->backend_state = s;
    s->plugin = find_plugin(options->library, error);
    return s->plugin != NULL && open_session(model, s, bytes, options, error);
}

static void close_model(emu_model *model)
{
    state *s = model->backend_state;
    if (s == NULL || s->session == NULL)
        return;
    emu_host_environment host;
    emu_leave_host(&host);
    s->plugin->close(s->session);
    emu_return_to_host(&host);
    model->backend_state = NULL;
}

const struct emu_backend emu_backend_libtorch = {"libtorch", open_model, emu_backend_infer, close_model};
