/* The benchmark's own interfaces: a network and its states, a backend, and how calls are timed. */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BENCH_MAX_LAYERS = 32, BENCH_MAX_COLUMNS = 64, BENCH_TEXT = 512 };

/* ---- what is computed ---------------------------------------------------------------------------- */

/* One model of the benchmark, from the folder that make_models.py wrote. z = (t(x) - mean) * scale, where t is the
 * logarithm, of at least `lower`, for columns with is_log. */
struct bench_network {
    char folder[BENCH_TEXT];
    int num_layers;
    int width[BENCH_MAX_LAYERS + 1];
    int is_log[BENCH_MAX_COLUMNS];
    double lower[BENCH_MAX_COLUMNS], mean[BENCH_MAX_COLUMNS], scale[BENCH_MAX_COLUMNS];
    float *weights;    /* per layer: (outputs, inputs), then biases */
    double *reference; /* outputs in float64, (num_samples, outputs) */
    long num_samples;
};

int bench_read_network(const char *data, const char *name, struct bench_network *network);
double *bench_read_doubles(const char *path, long *count);
double bench_weights(const struct bench_network *network); /* without biases: multiply-adds of one sample */

/* ---- who computes it ----------------------------------------------------------------------------- */

/* One way to evaluate a network. x is (n, inputs) and y (n, outputs) in float64 physical units with the sample index
 * fastest, x(pcols, nx) of a Fortran host. Everything between those arrays is the backend's job and is timed.
 * load returns NULL with a message; infer returns 0 if all went well. */
struct bench_backend {
    const char *peer;    /* "onnxruntime": what the table names */
    const char *variant; /* "" or what is particular; the table shows a peer's fastest variant */
    void *(*load)(const struct bench_network *network, char *message);
    int (*infer)(void *state, long n, const double *x, double *y);
    void (*unload)(void *state);
    const char *(*isa)(void *state); /* instruction set in use; NULL where the peer does not tell */
};

/* What a plugin exports: its backends and the version of what it calls. A peer comes as a shared object of its own, so
 * that its load time and memory can be told apart and one peer's libraries stay out of another's sight. */
struct bench_plugin {
    int num_backends;
    const struct bench_backend *backends;
    const char *(*version)(void); /* NULL if the library cannot be opened; then bench_message says why */
};
const struct bench_plugin *bench_open(void);

/* Normalise and convert for a peer that takes float32 (samples, inputs); and its float32 outputs back. Blocked, so
 * that columns a power of two apart do not fight for the same cache lines. */
void bench_stage_in(const struct bench_network *network, long n, const double *x, float *z);
void bench_stage_out(int num_outputs, long n, const float *from, double *y);
/* The same without normalisation or change of precision. */
void bench_transpose_in(int num_inputs, long n, const double *x, double *rows);
void bench_transpose_out(int num_outputs, long n, const double *rows, double *y);

/* ---- timing -------------------------------------------------------------------------------------- */

/* Something to time. run(context, calls) makes that many calls; best_ns becomes the cost of one call. */
struct bench_task {
    void (*run)(void *context, long calls);
    void *context;
    long calls; /* in a block; this and what follows is bench_interleave's */
    int is_long;
    double best_ns;
};

double bench_now_ns(void);
/* Time the tasks in turn for about `seconds` altogether, at least min_rounds times each, in blocks of block_ns. */
void bench_interleave(struct bench_task *tasks, int num_tasks, double seconds, int min_rounds, double block_ns);

/* float32 GFLOP/s of one core for "avx512", "avx2" or whatever else ("portable": the machine's widest); 0 if there is
 * no kernel for this architecture. */
double bench_peak_gflops(const char *isa, double seconds);

/* ---- what is measured: each prints one JSON object a line to stdout ----------------------------- */

enum { BENCH_MAX_BACKENDS = 16 };

/* A backend with a network loaded. */
struct bench_loaded {
    const struct bench_backend *backend;
    void *state;
};

/* Calls of a backend that walk through the states as a host's loop over chunks does. */
struct bench_walk {
    const struct bench_loaded *loaded;
    long batch, num_chunks, next;
    int num_inputs, num_outputs;
    double *x, *y; /* num_chunks chunks of (batch, columns) */
};
void bench_walk(void *context, long calls);
/* Chunks of `batch` states from `states` (samples, inputs); as many as 1152 samples fill, at least one. */
double *bench_chunks(const double *states, int num_inputs, long batch, long *num_chunks);

struct bench_plan { /* what the command line asks for */
    const char *data;
    double seconds; /* per model and batch */
    double *states; /* (num_samples, inputs) */
    long num_samples;
};

int bench_agreement(const struct bench_plan *plan, const char *model, const struct bench_network *network,
                    const struct bench_loaded *loaded, int count, double *worst);
void bench_rows(const struct bench_plan *plan, const char *model, const struct bench_network *network, long batch,
                const struct bench_loaded *loaded, int count);
void bench_calls(const struct bench_plan *plan, const char *model, const struct bench_network *network, long max_batch,
                 const struct bench_loaded *native);
void bench_arg(const struct bench_plan *plan, long batch);
int bench_footprint(const char *plugin_path, const char *variant, const struct bench_network *network,
                    const double *states);

/* ARG of the activation example in the host's own state arrays; arg_points.F90. states is (ncol, 16): w, t, rho, rh,
 * na, volume, hygro. */
void bench_arg_states(int ncol, const double *x, double *states);
void bench_arg_number(int ncol, const double *states, double *fn);
void bench_arg_all(int ncol, const double *states, double *results);
void bench_arg_mapping(int ncol, const double *states, double *x);

#ifdef __cplusplus
}
#endif
#endif
