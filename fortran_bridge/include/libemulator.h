/* libemulator: evaluate a neural-network emulator (model.onnx) from C and Fortran.
 *
 * This header is the whole contract. What holds for every function:
 *
 * - Nothing here aborts, exits, prints, throws, starts threads, or changes the caller's floating-point
 *   environment (rounding mode, traps), locale or OpenMP settings. (Another backend than "native" starts threads
 *   if num_threads asks for more than one.) Environment variables are read once per load (LIBEMULATOR_ISA; for other
 *   backends the two of emu_options.library), never written. The rounding mode must be to-nearest, the default.
 * - A function that can fail returns an emu_status. Where it takes `message` and `message_size`, it writes
 *   there one line of text, always terminated, cut to message_size bytes: what was found, what was
 *   expected, and what to do. On success the text is empty. message may be NULL (then nothing is written).
 * - A loaded model never changes. Any number of threads may use one model at the same time, without locks;
 *   only emu_free must come after every other use of that model.
 * - Indices start at 0. Strings returned belong to the model (or to the library) and live as long as it.
 * - Accessors given a NULL model return 0, NaN, -1 or NULL.
 *
 * Not promised: that two versions of the library give the same bits (the changelog says when they do not),
 * or that the layout of anything behind a pointer stays the same.
 */
#ifndef LIBEMULATOR_H
#define LIBEMULATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(EMU_SHARED)
#ifdef EMU_BUILDING
#define EMU_API __declspec(dllexport)
#else
#define EMU_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define EMU_API __attribute__((visibility("default")))
#else
#define EMU_API
#endif

/* Raised when a function changes its meaning or its arguments, or is removed; not when one is added.
 * A host compares it with emu_abi_version() to learn that header and library belong together. */
#define EMU_ABI_VERSION 1

/* A loaded model. Opaque; made by emu_load or emu_load_bytes, given back by emu_free. */
typedef struct emu_model emu_model;

/* What a call came to. New members may be added at the end: treat any value but EMU_OK as a failure. */
typedef enum emu_status {
    EMU_OK = 0,
    EMU_ERR_ARGUMENT = 1,    /* the caller passed something that cannot be right */
    EMU_ERR_FILE = 2,        /* the file cannot be opened or read */
    EMU_ERR_FORMAT = 3,      /* the bytes are not a well-formed model: truncated, damaged, inconsistent */
    EMU_ERR_UNSUPPORTED = 4, /* well-formed, but holds something that libemulator does not evaluate */
    EMU_ERR_LIMIT = 5,       /* larger than the fixed limits of the reader */
    EMU_ERR_MEMORY = 6,      /* the system has no memory left */
    EMU_ERR_MISMATCH = 7,    /* the host's names or units differ from the model's */
    EMU_ERR_CHECK = 8,       /* the self-check found a difference, or the model holds no check samples */
    EMU_ERR_BACKEND = 9      /* another library (onnxruntime, libtorch) failed while it evaluated */
} emu_status;

/* ---- loading ------------------------------------------------------------------------------------ */

/* Read the model file at `path` and prepare it for evaluation. On success *model is the model and the
 * result is EMU_OK; on failure *model is NULL and nothing is left behind. The file is read once and closed.
 * Fails with EMU_ERR_FILE if it cannot be read or is no regular file, EMU_ERR_FORMAT if it is damaged,
 * EMU_ERR_UNSUPPORTED (naming operator and node) if it holds what the library does not evaluate,
 * EMU_ERR_LIMIT, EMU_ERR_MEMORY, and EMU_ERR_ARGUMENT if path or model is NULL or if the environment
 * variable LIBEMULATOR_ISA names an instruction set that does not exist or that this machine lacks.
 * A file from anywhere may be given: damaged or hostile bytes give a status, never a crash.
 * What loads ("native"): ONNX files, operator set 7 or later, with one input [ncol, num_inputs] and one output
 * [ncol, num_outputs] (or [ncol]), float or double, that hold a feed-forward network: layers (Gemm; MatMul, Add) with
 * constant weights, float or double (rounded to the precision of the layers), in a chain or with branches and skip
 * connections, and before, between and after them:
 *   activations: Relu, LeakyRelu, PRelu, Elu, Celu, Selu, Gelu (erf and tanh), Swish, Mish, HardSigmoid, HardSwish,
 *     Softplus, Softsign, Sigmoid, Tanh, also where an exporter writes them out in simpler operators;
 *   arithmetic: Add, Sub, Mul, Div, Sum of results and of constants; Pow by 4, 3, 2, 1, 0.5, -0.5, -1, -2; Neg, Abs,
 *     Reciprocal, Sqrt, Exp, Log, Erf, Erfc (as tf2onnx writes it); Min, Max, Clip, and Where with Less or Greater, as limits by constants; Where
 *     with a constant mask;
 *   columns: Concat, Split, Slice, Gather, GatherND (constant indices), ArrayFeatureExtractor;
 *   normalisations: BatchNormalization (inference), LayerNormalization (also written out), ReduceMean over the columns,
 *     Scaler of ai.onnx.ml;
 *   what changes no number: Cast, Identity, Dropout, Constant, ConstantOfShape, Shape, Reshape, Flatten, Squeeze,
 *     Unsqueeze, Transpose, as long as each sample stays one row of columns. (skl2onnx writes several outputs as
 *     [ncol * num_outputs, 1]: read as [ncol, num_outputs].)
 * So networks exported by torch.onnx.export (both exporters), tf2onnx, Keras and skl2onnx load as they are. Anything
 * else is refused with its operator and node. At most 1024 layers, 65,536 columns of one result, 262,144 of all that
 * are needed at once, 2 GiB of file.
 * Not promised: that any other ONNX file loads. */
EMU_API emu_status emu_load(const char *path, emu_model **model, char *message, size_t message_size);

/* The same from `size` bytes in memory: one rank reads the file and broadcasts it, each rank calls this.
 * The bytes may be freed or changed as soon as the call returns. */
EMU_API emu_status emu_load_bytes(const void *bytes, size_t size, emu_model **model, char *message,
                                  size_t message_size);

/* How to load, for hosts that want something else than the defaults. Fill it by emu_options_init, then change
 * members; 0 and NULL stand for the default in each of them. Members may be added at the end: `size` tells the library
 * which ones the host knows, so that a host compiled against an older header keeps working. A size that no version had
 * is refused. Strings are read during the load only; an empty one counts as NULL. */
typedef struct emu_options {
    size_t size;             /* sizeof(emu_options) */
    const char *backend;     /* what evaluates the model. NULL: "native" for an ONNX file, "libtorch" for a TorchScript
                              * file (model.pt); or "native", "onnxruntime", "libtorch" by name. Nothing is ever
                              * replaced silently: what "native" cannot load is refused. */
    const char *isa;         /* native: instruction set as in LIBEMULATOR_ISA, which it overrides; NULL: the fastest */
    const char *library;     /* onnxruntime: path of libonnxruntime (1.19 or later) or of its folder; libtorch: of the
                              * plugin libemulator_torch, which finds LibTorch itself. NULL: the environment variable
                              * LIBEMULATOR_ONNXRUNTIME or LIBEMULATOR_LIBTORCH, else (the plugin) beside
                              * libemulator, else the loader's search path */
    int32_t precision;       /* native: 32 (default) or 64 bits for the layers */
    int32_t num_threads;     /* onnxruntime, libtorch: threads of one call, default 1. native: the caller's alone */
} emu_options;

/* In the header, so that no library writes beyond the struct that the host was compiled with. */
static inline void emu_options_init(emu_options *options)
{
    const emu_options defaults = {sizeof(emu_options), NULL, NULL, NULL, 32, 1};
    *options = defaults;
}

/* emu_load and emu_load_bytes with options; NULL means the defaults. EMU_ERR_ARGUMENT also for a backend, instruction
 * set, precision or number of threads that does not exist, and for options of a wrong size; EMU_ERR_UNSUPPORTED if this
 * build does not have the backend, or if its library cannot be found or opened (the message says where it was looked
 * for). Options that concern another backend than the one in use have no effect, so that a host may set them all.
 * A TorchScript file is a program: "libtorch" should load only files that are trusted.
 * Other backends than "native" run somebody else's code behind the same calls: what this header says of allocation,
 * same bits, NaN and floating-point exceptions then holds as far as that code does it. Kept in any case: no abort, no
 * exception across the boundary, the caller's floating-point environment and OpenMP settings as they were. */
EMU_API emu_status emu_load_with(const char *path, const emu_options *options, emu_model **model, char *message,
                                 size_t message_size);
EMU_API emu_status emu_load_bytes_with(const void *bytes, size_t size, const emu_options *options, emu_model **model,
                                       char *message, size_t message_size);

/* Free a model. NULL is allowed and does nothing. No thread may be using the model, and the strings that
 * its accessors returned are gone. */
EMU_API void emu_free(emu_model *model);

/* ---- about the library -------------------------------------------------------------------------- */

/* EMU_ABI_VERSION of the library that is linked; "major.minor.patch"; "EMU_ERR_FORMAT" and so on (an
 * unknown value gives "unknown status", never NULL). */
EMU_API int emu_abi_version(void);
EMU_API const char *emu_version(void);
EMU_API const char *emu_status_name(emu_status status);

/* ---- about a model ------------------------------------------------------------------------------ */

/* The instruction set its kernels use: "avx512", "avx2", "neon" or "portable"; "" for other backends than "native". The
 * fastest that the machine has, unless the options or LIBEMULATOR_ISA named one at load. Results do not depend on it,
 * speed does. */
EMU_API const char *emu_isa(const emu_model *model);

/* "native", "onnxruntime" or "libtorch"; and the bits of the layers' arithmetic, 32 or 64 (0 if unknown). */
EMU_API const char *emu_backend(const emu_model *model);
EMU_API int emu_precision(const emu_model *model);

/* Sizes. A layer is one matrix product with its bias and activation; the width of layer i is the number of
 * its outputs, -1 when there is no such layer. Parameters are weights and biases. */
EMU_API int64_t emu_num_inputs(const emu_model *model);
EMU_API int64_t emu_num_outputs(const emu_model *model);
EMU_API int64_t emu_num_layers(const emu_model *model);
EMU_API int64_t emu_layer_width(const emu_model *model, int64_t layer);
EMU_API int64_t emu_num_parameters(const emu_model *model);

/* Name and unit of input or output i, in the order in which emu_infer_* takes them; NULL if i is out of
 * range. A model without names has x_1, x_2, ... and y_1, y_2, ...; one without units has "". */
EMU_API const char *emu_input_name(const emu_model *model, int64_t i);
EMU_API const char *emu_input_unit(const emu_model *model, int64_t i);
EMU_API const char *emu_output_name(const emu_model *model, int64_t i);
EMU_API const char *emu_output_unit(const emu_model *model, int64_t i);

/* Smallest and largest value in the training data, physical units; NaN if unknown or i out of range. The smallest is
 * never above the largest: such a file is refused with EMU_ERR_FORMAT. */
EMU_API double emu_input_min(const emu_model *model, int64_t i);
EMU_API double emu_input_max(const emu_model *model, int64_t i);
EMU_API double emu_output_min(const emu_model *model, int64_t i);
EMU_API double emu_output_max(const emu_model *model, int64_t i);

/* Index of the input or output with that name, -1 if there is none. Compared byte by byte. */
EMU_API int64_t emu_input_index(const emu_model *model, const char *name);
EMU_API int64_t emu_output_index(const emu_model *model, const char *name);

/* Check that the host fills its arrays as the model reads them: n names in this order, with these units.
 * Returns EMU_OK, or EMU_ERR_MISMATCH with the first difference in the message. units may be NULL: then only
 * names are compared. Names and units are compared byte by byte ("cm/s" is not "cm s-1"). */
EMU_API emu_status emu_require_inputs(const emu_model *model, int64_t n, const char *const *names,
                                      const char *const *units, char *message, size_t message_size);
EMU_API emu_status emu_require_outputs(const emu_model *model, int64_t n, const char *const *names,
                                       const char *const *units, char *message, size_t message_size);

/* The text stored in the file under `key`, for instance "libemulator.provenance"; NULL if there is none. */
EMU_API const char *emu_metadata(const emu_model *model, const char *key);

/* ---- evaluation --------------------------------------------------------------------------------- */

/* Bytes of scratch memory that one emu_infer_* call needs, guarded or not. Depends on the model, not on ncol. */
EMU_API size_t emu_workspace_size(const emu_model *model);

/* Evaluate ncol samples. x and y are in physical units. Feature f of sample s is read from
 * x[s * x_sample_stride + f * x_feature_stride], output j is written to
 * y[s * y_sample_stride + j * y_feature_stride]; strides count elements. So a Fortran array x(pcols, nx)
 * has strides (1, pcols), and x(nx, pcols) has (nx, 1). Any stride is allowed, negative ones too, and 0 for x;
 * a stride of y must not be 0 along a dimension longer than 1. Only the ncol samples are touched: nothing
 * else is read or written. x and y must not overlap. ncol = 0 does nothing.
 *
 * workspace: workspace_size >= emu_workspace_size(model) bytes of any alignment, used by this call alone; or
 * NULL with workspace_size 0: the calling thread's own, allocated on its first such call (grown when a larger
 * model comes), freed when the thread ends. With a workspace, nothing is allocated.
 *
 * Returns EMU_OK; EMU_ERR_ARGUMENT if model is NULL, ncol negative, x or y NULL, a stride of y 0, or the
 * workspace too small, with y untouched; EMU_ERR_MEMORY if the thread's own workspace cannot be allocated. Other
 * backends than "native" also return EMU_ERR_BACKEND if their library fails and EMU_ERR_MEMORY, with y undefined.
 *
 * Precision: normalisation and transforms in float64 (log and exp to about 1 ulp; division by a constant is
 * multiplication by its reciprocal), layers in float32 with fused multiply-add, inverse transforms in float64.
 * With precision 64 the layers are in float64 too, and casts to float within the graph round nothing. Where two results
 * are combined (a skip connection, a quotient), both are first rounded to the precision of the layers; so are inputs
 * that pass unchanged to an output.
 * emu_infer_f32 converts to float64 on reading and rounds to float32 on writing, and is otherwise the same.
 *
 * Same bits: the result for a sample depends on the model and on that sample's inputs alone. Not on ncol, its
 * position, the strides, the other samples, the thread, or the instruction set.
 *
 * NaN: an input that is NaN makes every output that depends on it NaN, for that sample only (which NaN, its
 * sign and payload, is not promised). No floating-point exception other than inexact and underflow is raised
 * for a sample whose inputs are quiet NaN or lie within the training ranges. Inputs far outside may overflow
 * to infinity, raising the overflow flag or trap as any arithmetic does. Not promised: good values outside
 * the training ranges. */
EMU_API emu_status emu_infer_f64(const emu_model *model, int64_t ncol, const double *x, int64_t x_sample_stride,
                                 int64_t x_feature_stride, double *y, int64_t y_sample_stride,
                                 int64_t y_feature_stride, void *workspace, size_t workspace_size);
EMU_API emu_status emu_infer_f32(const emu_model *model, int64_t ncol, const float *x, int64_t x_sample_stride,
                                 int64_t x_feature_stride, float *y, int64_t y_sample_stride,
                                 int64_t y_feature_stride, void *workspace, size_t workspace_size);

/* ---- guards: inputs outside the training ranges ------------------------------------------------- */

/* What to do with inputs outside [emu_input_min, emu_input_max]. All memory is the caller's, one guard for each
 * thread at a time; a host adds the counters of its threads, and the sum does not depend on their number. Fill it by
 * emu_guard_init (clamp 0, pointers NULL, counters 0), then set what is wanted. An input whose range is unknown (NaN)
 * is never outside, unless it is NaN itself. For float32 arrays, the ends of the ranges are rounded to the nearest
 * float32, as the host's values are: what is inside in float64 is inside in float32. */
typedef struct emu_guard {
    size_t size;           /* sizeof(emu_guard), set by emu_guard_init */
    int32_t clamp;         /* 1: evaluate with each input moved to the nearest end of its range. NaN stays NaN. */
    int32_t *outside;      /* [ncol], written: for each sample the number of inputs that are outside or NaN, so that the
                            * host can fall back to its own scheme where it is not 0. NULL: not wanted. */
    int64_t *below;        /* [num_inputs], added to: samples with the input below its minimum; NULL: not wanted */
    int64_t *above;        /* the same above its maximum */
    int64_t *nan;          /* the same for NaN */
    int64_t num_samples;   /* added to: samples seen */
    int64_t num_outside;   /* added to: samples with at least one input outside or NaN */
} emu_guard;

static inline void emu_guard_init(emu_guard *guard)
{
    const emu_guard nothing = {sizeof(emu_guard), 0, NULL, NULL, NULL, NULL, 0, 0};
    *guard = nothing;
}

/* emu_infer_* with a guard; NULL: without, at no cost. Everything that emu_infer_* says holds here too; a sample whose
 * inputs are within the ranges gets the same bits whatever the guard, a clamped sample the bits of one that had those
 * values from the start. The inputs are looked at with comparisons that raise no floating-point exception for a quiet
 * NaN; counting is exact and does not depend on how a host cuts its columns into calls. The guard's arrays must not
 * overlap x, y or each other. EMU_ERR_ARGUMENT also for a guard whose size or clamp is not one of the above. On failure
 * the guard is untouched. */
EMU_API emu_status emu_infer_guarded_f64(const emu_model *model, int64_t ncol, const double *x, int64_t x_sample_stride,
                                         int64_t x_feature_stride, double *y, int64_t y_sample_stride,
                                         int64_t y_feature_stride, void *workspace, size_t workspace_size,
                                         emu_guard *guard);
EMU_API emu_status emu_infer_guarded_f32(const emu_model *model, int64_t ncol, const float *x, int64_t x_sample_stride,
                                         int64_t x_feature_stride, float *y, int64_t y_sample_stride,
                                         int64_t y_feature_stride, void *workspace, size_t workspace_size,
                                         emu_guard *guard);

/* ---- trying a model out ------------------------------------------------------------------------- */

/* Evaluate the check samples stored in the file and compare with the float64 reference results stored beside
 * them. *max_difference (may be NULL) is the largest difference, in units of the output's training range.
 * EMU_OK if no difference exceeds the tolerance stored in the file (1e-5 if none is stored); EMU_ERR_CHECK if
 * one does, or if the file holds no check samples (*max_difference is then NaN); else what emu_infer_f64 returns. Meant
 * for start-up: it allocates. */
EMU_API emu_status emu_self_check(const emu_model *model, double *max_difference, char *message,
                                  size_t message_size);

/* Time emu_infer_f64 on this machine: calls of ncol samples with float64 arrays, layout 0 for (ncol, features)
 * with the sample index fastest (a Fortran x(pcols, nx)), 1 for the feature index fastest. Runs for about
 * `seconds`, and writes the median of the time per sample, in nanoseconds, to *ns_per_sample. Inputs are drawn
 * within the training ranges (or are the check samples, or lie in [-1, 1]). One thread; allocates. EMU_ERR_ARGUMENT if
 * model or ns_per_sample is NULL, ncol < 1, layout not 0 or 1, or seconds negative; else what emu_infer_f64 returns. */
EMU_API emu_status emu_measure(const emu_model *model, int64_t ncol, int layout, double seconds,
                               double *ns_per_sample);

#ifdef __cplusplus
}
#endif
#endif
