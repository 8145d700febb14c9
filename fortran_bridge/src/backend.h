/* Other libraries behind the same calls: ONNX Runtime and LibTorch, opened at run time. */
#ifndef EMU_BACKEND_H
#define EMU_BACKEND_H

#include "error.h"
#include "model.h"

struct emu_backend {
    const char *name;
    /* Prepare the model from the file's bytes: fills model->backend_state, num_inputs, num_outputs and the metadata.
     * The loader has seen to it that they are a zip archive for LibTorch and none for the others, has set the host's
     * floating-point environment aside and model->backend before, and calls `close` whether `open` succeeds or not. */
    bool (*open)(emu_model *model, emu_text bytes, const emu_options *options, emu_error *error);
    /* As emu_infer_f64, arguments already checked, ncol > 0. float32 callers are converted by infer.c. Called from any
     * number of threads at a time. */
    emu_status (*infer)(const emu_model *model, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                        int64_t ys, int64_t yf);
    void (*close)(emu_model *model);
};

/* By name; NULL if there is none of that name ("native" is none: it is the kernels). */
const struct emu_backend *emu_find_backend(const char *name);

extern const struct emu_backend emu_backend_onnxruntime;
extern const struct emu_backend emu_backend_libtorch;

/* ---- what the backends share ---- */

/* The head of every backend_state: how contiguous blocks of samples are evaluated. Blocks bound the memory that the
 * other library takes for intermediate results. */
typedef struct {
    bool in_double, out_double; /* the model takes, gives float64; else float32 */
    int64_t max_rows;           /* of one run */
    emu_status (*run)(const emu_model *model, int64_t rows, const void *x, void *y);
} emu_runner;

/* Rows for max_rows: a few thousand samples, fewer for wide models. */
int64_t emu_backend_rows(int64_t num_inputs, int64_t num_outputs);

/* The `infer` of every backend: floating-point environment set aside, host arrays taken as they are where they are
 * contiguous float64 and the model takes that, else copied block by block. */
emu_status emu_backend_infer(const emu_model *model, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                             int64_t ys, int64_t yf);

/* ---- the host's floating-point environment ---- */

/* Other libraries raise exceptions and set flush-to-zero: all of it happens between these two, which put the default
 * environment in force (no trap, round to nearest, subnormal numbers kept) and then the host's again, with its flags. */
typedef struct emu_host_environment emu_host_environment;
enum { EMU_ENVIRONMENT_SIZE = 64 };
struct emu_host_environment {
    _Alignas(16) unsigned char bytes[EMU_ENVIRONMENT_SIZE];
};
void emu_leave_host(emu_host_environment *host);
void emu_return_to_host(const emu_host_environment *host);

/* ---- finding a shared library ---- */

typedef struct {
    const char *what;         /* for messages: "ONNX Runtime" */
    const char *variable;     /* environment variable */
    const char *const *names; /* file names, the first is preferred; NULL at the end */
    const char *remedy;       /* what to do if there is none */
    bool beside_us;           /* look in libemulator's own folder before the search path */
} emu_library_search;

/* dlopen what `path` (of the options), else the environment variable names, a file or a folder; else what the search
 * path has. NULL with a message that says where it was looked for. It stays open until the process ends: such
 * libraries do not survive being closed. */
void *emu_open_library(const emu_library_search *search, const char *path, emu_error *error);

/* A function of that library; NULL if it has none of that name. */
typedef void (*emu_function)(void);
emu_function emu_library_function(void *library, const char *name);

/* Text of somebody else as one line. */
void emu_one_line(char *to, size_t size, const char *text);

#endif
