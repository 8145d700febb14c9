/* emu_infer_*: arguments, workspace, and the way of the samples through guards to the kernels or to a backend. */
#include "backend.h"
#include "guard.h"
#include "kernels.h"

#include <pthread.h>
#include <stdlib.h>

/* ---- what a call needs of the workspace: the rows of the kernels (or float64 copies for a backend), and room for the
 * clamped inputs of a block of samples ---- */

static size_t rounded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t clamped_size(const emu_model *m)
{
    return rounded((size_t)m->num_inputs * EMU_GUARD_BLOCK * sizeof(double));
}

/* Samples that a backend gets at a time when they must be copied: about 128 KiB of values */
static int64_t copied_samples(const emu_model *m)
{
    const int64_t n = (int64_t)1 << 14, values = (int64_t)m->num_inputs + m->num_outputs;
    return n / values < 16 ? 16 : n / values;
}

size_t emu_workspace_size(const emu_model *m)
{
    if (m == NULL)
        return 0;
    const size_t alignment = 64;
    if (m->backend != NULL)
        return (size_t)copied_samples(m) * ((size_t)m->num_inputs + (size_t)m->num_outputs) * sizeof(double) + alignment;
    return (size_t)m->num_columns * EMU_MAX_BLOCK * (size_t)m->precision / 8 + clamped_size(m) + alignment;
}

/* ---- the calling thread's own workspace ---- */

typedef struct {
    size_t size;
    _Alignas(16) unsigned char bytes[];
} own_workspace;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* frees the workspace when its thread ends */
static bool key_exists;
static _Thread_local own_workspace *own;

static void make_key(void)
{
    key_exists = pthread_key_create(&key, free) == 0;
}

static void *thread_workspace(size_t size)
{
    if (own != NULL && own->size >= size)
        return own->bytes;
    if (pthread_once(&once, make_key) != 0 || !key_exists)
        return NULL;
    own_workspace *larger = malloc(sizeof *larger + size);
    if (larger == NULL)
        return NULL;
    if (pthread_setspecific(key, larger) != 0) {
        free(larger);
        return NULL;
    }
    free(own);
    larger->size = size;
    own = larger;
    return own->bytes;
}

/* ---- calls, for float64 and float32 alike ---- */

typedef struct {
    size_t size; /* of a value: 8 or 4 bytes */
    const void *x;
    int64_t xs, xf;
    void *y;
    int64_t ys, yf;
} arrays;

/* The same arrays, from that sample on */
static arrays from_sample(const arrays *a, int64_t first)
{
    arrays from = *a;
    from.x = (const unsigned char *)a->x + first * a->xs * (int64_t)a->size;
    from.y = (unsigned char *)a->y + first * a->ys * (int64_t)a->size;
    return from;
}

static emu_status prepare(const emu_model *m, int64_t ncol, const arrays *a, void *workspace, size_t workspace_size,
                          unsigned char **scratch)
{
    if (m == NULL || ncol < 0)
        return EMU_ERR_ARGUMENT;
    if (ncol == 0)
        return EMU_OK;
    if (a->x == NULL || a->y == NULL || (a->ys == 0 && ncol > 1) || (a->yf == 0 && m->num_outputs > 1))
        return EMU_ERR_ARGUMENT;
    const size_t needed = emu_workspace_size(m);
    if (workspace == NULL) {
        workspace = thread_workspace(needed);
        if (workspace == NULL)
            return EMU_ERR_MEMORY;
    } else if (workspace_size < needed) {
        return EMU_ERR_ARGUMENT;
    }
    *scratch = (unsigned char *)workspace + (64 - (uintptr_t)workspace % 64) % 64;
    return EMU_OK;
}

static void run_kernels(const emu_model *m, int64_t ncol, const arrays *a, unsigned char *scratch)
{
    const bool single = a->size == sizeof(float);
    const emu_array x = {(void *)(uintptr_t)a->x, a->xs, a->xf, single, false}, y = {a->y, a->ys, a->yf, single, false};
    emu_run(m, ncol, &x, &y, scratch + clamped_size(m));
}

static bool count(const emu_model *m, emu_guard *guard, int64_t first, int64_t n, const arrays *a)
{
    return emu_guard_count(m, guard, first, n, a->size, a->x, a->xs, a->xf);
}

static void run_clamped(const emu_model *m, int64_t ncol, const arrays *a, unsigned char *scratch)
{
    for (int64_t done = 0; done < ncol; done += EMU_GUARD_BLOCK) {
        const int64_t n = ncol - done < EMU_GUARD_BLOCK ? ncol - done : EMU_GUARD_BLOCK;
        arrays block = from_sample(a, done);
        emu_guard_clamp(m, n, a->size, block.x, a->xs, a->xf, scratch);
        block.x = scratch;
        block.xs = 1;
        block.xf = EMU_GUARD_BLOCK;
        run_kernels(m, n, &block, scratch);
    }
}

/* Each block is looked at, then evaluated while its inputs are in the cache. 4 to 20 times the largest tile, so that the
 * kernels work on whole tiles as they do without a guard; what is left at the end goes with the last block, for the same
 * reason. */
static void run_guarded(const emu_model *m, int64_t ncol, const arrays *a, emu_guard *guard, unsigned char *scratch)
{
    int64_t size = 4 * EMU_MAX_BLOCK;
    if (ncol > 2 * size) { /* as much of 64 KiB of inputs as that: L2, and some of it L1 */
        const int64_t fit = 64 * 1024 / ((int64_t)a->size * EMU_MAX_BLOCK * m->num_inputs);
        size = EMU_MAX_BLOCK * (fit < 4 ? 4 : fit > 20 ? 20 : fit);
    }
    for (int64_t done = 0; done < ncol;) {
        const int64_t left = ncol - done, n = left < size + EMU_TILE_TABLE ? left : size;
        const arrays block = from_sample(a, done);
        if (count(m, guard, done, n, &block) && guard->clamp)
            run_clamped(m, n, &block, scratch);
        else
            run_kernels(m, n, &block, scratch);
        done += n;
    }
}

/* ---- another library behind the same calls ---- */

static double value_of(const arrays *a, int64_t offset)
{
    return a->size == sizeof(double) ? ((const double *)a->x)[offset] : (double)((const float *)a->x)[offset];
}

/* Blocks of float64 copies, clamped if so wanted */
static emu_status run_copied(const emu_model *m, int64_t ncol, const arrays *a, bool clamp, double *scratch)
{
    const int64_t size = copied_samples(m), inputs = m->num_inputs, outputs = m->num_outputs;
    double *x = scratch, *y = scratch + size * inputs;
    emu_status status = EMU_OK;
    for (int64_t done = 0; done < ncol && status == EMU_OK; done += size) {
        const int64_t n = ncol - done < size ? ncol - done : size;
        const arrays block = from_sample(a, done);
        for (int64_t f = 0; f < inputs; f++) {
            for (int64_t s = 0; s < n; s++) {
                const double value = value_of(&block, s * a->xs + f * a->xf);
                x[s * inputs + f] = clamp ? emu_guard_clamp_value(m, f, a->size, value) : value;
            }
        }
        status = m->backend->infer(m, n, x, inputs, 1, y, outputs, 1);
        for (int64_t s = 0; s < n && status == EMU_OK; s++) {
            for (int64_t j = 0; j < outputs; j++) {
                const int64_t at = s * a->ys + j * a->yf;
                if (a->size == sizeof(double))
                    ((double *)block.y)[at] = y[s * outputs + j];
                else
                    ((float *)block.y)[at] = (float)y[s * outputs + j];
            }
        }
    }
    return status;
}

/* The guard comes last here: a backend may fail, and then the guard is untouched. */
static emu_status run_backend(const emu_model *m, int64_t ncol, const arrays *a, emu_guard *guard, unsigned char *scratch)
{
    const bool clamp = guard != NULL && guard->clamp;
    const emu_status status =
        a->size == sizeof(double) && !clamp
            ? m->backend->infer(m, ncol, a->x, a->xs, a->xf, a->y, a->ys, a->yf)
            : run_copied(m, ncol, a, clamp, (double *)scratch);
    if (status == EMU_OK && guard != NULL)
        count(m, guard, 0, ncol, a);
    return status;
}

/* ---- the calls ---- */

static emu_status infer(const emu_model *m, int64_t ncol, const arrays *a, void *workspace, size_t workspace_size,
                               emu_guard *guard)
{
    unsigned char *scratch = NULL;
    if (guard != NULL && !emu_guard_is_good(guard))
        return EMU_ERR_ARGUMENT;
    const emu_status status = prepare(m, ncol, a, workspace, workspace_size, &scratch);
    if (status != EMU_OK || ncol == 0)
        return status;
    if (m->backend != NULL)
        return run_backend(m, ncol, a, guard, scratch);
    if (guard != NULL)
        run_guarded(m, ncol, a, guard, scratch);
    else
        run_kernels(m, ncol, a, scratch);
    return EMU_OK;
}

emu_status emu_infer_f64(const emu_model *m, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                         int64_t ys, int64_t yf, void *workspace, size_t workspace_size)
{
    return infer(m, ncol, &(arrays){sizeof *x, x, xs, xf, y, ys, yf}, workspace, workspace_size, NULL);
}

emu_status emu_infer_f32(const emu_model *m, int64_t ncol, const float *x, int64_t xs, int64_t xf, float *y, int64_t ys,
                         int64_t yf, void *workspace, size_t workspace_size)
{
    return infer(m, ncol, &(arrays){sizeof *x, x, xs, xf, y, ys, yf}, workspace, workspace_size, NULL);
}

emu_status emu_infer_guarded_f64(const emu_model *m, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                                 int64_t ys, int64_t yf, void *workspace, size_t workspace_size, emu_guard *guard)
{
    return infer(m, ncol, &(arrays){sizeof *x, x, xs, xf, y, ys, yf}, workspace, workspace_size, guard);
}

emu_status emu_infer_guarded_f32(const emu_model *m, int64_t ncol, const float *x, int64_t xs, int64_t xf, float *y,
                                 int64_t ys, int64_t yf, void *workspace, size_t workspace_size, emu_guard *guard)
{
    return infer(m, ncol, &(arrays){sizeof *x, x, xs, xf, y, ys, yf}, workspace, workspace_size, guard);
}
