/* Between libemulator and its plugin libemulator_torch, which alone holds C++ and LibTorch. Plain C on both sides; the
 * two are built together, and `version` tells if they were not. */
#ifndef EMU_BACKEND_LIBTORCH_H
#define EMU_BACKEND_LIBTORCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EMU_TORCH_PLUGIN_VERSION = 1 };

typedef struct {
    const char *key; /* as in the ONNX file's metadata */
    const char *value;
    size_t size; /* of value */
} emu_torch_text;

typedef struct {
    void *session;
    int64_t num_inputs, num_outputs;
    int in_double, out_double; /* the module takes, gives float64; else float32 */
    int num_texts;
    const emu_torch_text *texts; /* live as long as the session */
} emu_torch_model;

/* What a call came to. */
enum { EMU_TORCH_OK = 0, EMU_TORCH_FORMAT = 1, EMU_TORCH_UNSUPPORTED = 2, EMU_TORCH_MEMORY = 3, EMU_TORCH_FAILED = 4 };

typedef struct {
    int version;
    const char *torch_version;
    /* Load a TorchScript file from memory and try it out. On failure nothing is left behind and `message` says why. */
    int (*open)(const void *bytes, size_t size, int num_threads, emu_torch_model *model, char *message,
                size_t message_size);
    /* Contiguous rows in, contiguous rows out. Any number of threads at a time. */
    int (*run)(void *session, int64_t rows, const void *x, void *y);
    void (*close)(void *session);
} emu_torch_plugin_table;

/* The plugin's only symbol. */
const emu_torch_plugin_table *emu_torch_plugin(void);

#ifdef __cplusplus
}
#endif
#endif
