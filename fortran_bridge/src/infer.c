/* emu_infer_*: arguments, workspace, kernels. */
#include <pthread.h>
#include <stdlib.h>

#include "model.h"

size_t emu_workspace_size(const emu_model *m)
{
    if (m == NULL)
        return 0;
    /* two sets of rows, which layers fill in turn; 64 to align them */
    return 2 * (size_t)m->max_width * EMU_MAX_BLOCK * sizeof(float) + 64;
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

/* ---- calls ---- */

static emu_status prepare(const emu_model *m, int64_t ncol, const void *x, const void *y, int64_t ys, int64_t yf,
                          void *workspace, size_t workspace_size, void **scratch)
{
    if (m == NULL || ncol < 0)
        return EMU_ERR_ARGUMENT;
    if (ncol == 0)
        return EMU_OK;
    if (x == NULL || y == NULL || (ys == 0 && ncol > 1) || (yf == 0 && m->num_outputs > 1))
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

emu_status emu_infer_f64(const emu_model *m, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                         int64_t ys, int64_t yf, void *workspace, size_t workspace_size)
{
    void *scratch = NULL;
    const emu_status status = prepare(m, ncol, x, y, ys, yf, workspace, workspace_size, &scratch);
    if (status == EMU_OK && ncol > 0)
        m->kernels->infer_f64(m, ncol, x, xs, xf, y, ys, yf, scratch);
    return status;
}

emu_status emu_infer_f32(const emu_model *m, int64_t ncol, const float *x, int64_t xs, int64_t xf, float *y, int64_t ys,
                         int64_t yf, void *workspace, size_t workspace_size)
{
    void *scratch = NULL;
    const emu_status status = prepare(m, ncol, x, y, ys, yf, workspace, workspace_size, &scratch);
    if (status == EMU_OK && ncol > 0)
        m->kernels->infer_f32(m, ncol, x, xs, xf, y, ys, yf, scratch);
    return status;
}
