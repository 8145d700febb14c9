/* One model, many threads: the same bits, with the threads' own workspaces and with the callers', with guards and without.
 * Threads come and go, and use models of different sizes in turn, so that workspaces grow and are given back (the leak
 * checker watches). Others load and free models of their own meanwhile. The thread sanitizer runs this test as well. */
#include "check.h"
#include "onnx_writer.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 20, SAMPLES = 200 };

typedef struct {
    const emu_model *small, *large;
    const double *x_small, *x_large, *y_small, *y_large;
    const bytes *file;
    long wrong;
    emu_guard guard; /* this thread's own; its counters are added up at the end */
    int64_t below[16];
} job;

static long compare(const emu_model *m, const double *x, const double *expected, void *workspace, size_t size,
                    int round)
{
    static const int64_t batches[4] = {1, 7, 40, SAMPLES};
    const int64_t I = emu_num_inputs(m), O = emu_num_outputs(m), n = batches[round % 4];
    double *y = malloc((size_t)(n * O) * sizeof *y);
    emu_status status = emu_infer_f64(m, n, x, I, 1, y, O, 1, workspace, size);
    const long wrong = status != EMU_OK || memcmp(y, expected, (size_t)(n * O) * sizeof *y) != 0;
    free(y);
    return wrong;
}

/* The same through a guard, in float64 and in float32; all samples are within the ranges */
static long compare_guarded(job *j, int clamp, int round)
{
    const emu_model *m = j->small;
    const int64_t n = round % 2 ? SAMPLES : 9;
    float x[SAMPLES * 4], y_f32[SAMPLES * 3], z[SAMPLES * 3];
    double y[SAMPLES * 3];
    int32_t outside[SAMPLES];
    j->guard.clamp = clamp;
    j->guard.outside = outside;
    for (int i = 0; i < n * 4; i++)
        x[i] = (float)j->x_small[i];
    long wrong = emu_infer_guarded_f64(m, n, j->x_small, 4, 1, y, 3, 1, NULL, 0, &j->guard) != EMU_OK;
    wrong += memcmp(y, j->y_small, (size_t)(n * 3) * sizeof *y) != 0;
    wrong += emu_infer_guarded_f32(m, n, x, 4, 1, y_f32, 3, 1, NULL, 0, &j->guard) != EMU_OK;
    wrong += emu_infer_f32(m, n, x, 4, 1, z, 3, 1, NULL, 0) != EMU_OK;
    return wrong + (memcmp(y_f32, z, (size_t)(n * 3) * sizeof *z) != 0);
}

/* A model of this thread's own, loaded with options and freed again */
static long load_and_free(const job *j, int round)
{
    emu_model *m;
    emu_options options;
    emu_options_init(&options);
    options.isa = round % 2 ? "portable" : NULL;
    if (emu_load_bytes_with(j->file->data, j->file->size, &options, &m, NULL, 0) != EMU_OK)
        return 1;
    const long wrong = compare(m, j->x_small, j->y_small, NULL, 0, round);
    emu_free(m);
    return wrong;
}

static void *work(void *pointer)
{
    job *j = pointer;
    const size_t size = emu_workspace_size(j->large);
    void *workspace = malloc(size);
    for (int round = 0; round < ROUNDS; round++) {
        j->wrong += compare(j->small, j->x_small, j->y_small, NULL, 0, round);
        j->wrong += compare(j->large, j->x_large, j->y_large, NULL, 0, round);
        j->wrong += compare(j->large, j->x_large, j->y_large, workspace, size, round);
        j->wrong += compare_guarded(j, round % 3 == 0, round);
        j->wrong += load_and_free(j, round);
    }
    free(workspace);
    return NULL;
}

int main(void)
{
    static const int shape_small[] = {4, 20, 3}, shape_large[] = {16, 300, 65, 40, 5};
    net small = random_net(1, 2, shape_small, "Relu", "", 1);
    small.names = 1; /* and ranges */
    bytes file = write_model(&small);
    net large = random_net(2, 4, shape_large, "Tanh", "Sigmoid", 0);
    emu_model *m_small = load_net(&small), *m_large = load_net(&large);
    static double x_small[SAMPLES * 4], x_large[SAMPLES * 16], y_small[SAMPLES * 3], y_large[SAMPLES * 5];
    random_inputs(&small, 1, SAMPLES, x_small);
    random_inputs(&large, 1, SAMPLES, x_large);
    emu_infer_f64(m_small, SAMPLES, x_small, 4, 1, y_small, 3, 1, NULL, 0);
    emu_infer_f64(m_large, SAMPLES, x_large, 16, 1, y_large, 5, 1, NULL, 0);
    for (int wave = 0; wave < 3; wave++) {
        int64_t samples = 0;
        pthread_t threads[THREADS];
        job jobs[THREADS];
        for (int t = 0; t < THREADS; t++) {
            jobs[t] = (job){m_small, m_large, x_small, x_large, y_small, y_large, &file, 0, {0}, {0}};
            emu_guard_init(&jobs[t].guard);
            jobs[t].guard.below = jobs[t].below;
            CHECK(pthread_create(&threads[t], NULL, work, &jobs[t]) == 0, "cannot start a thread");
        }
        for (int t = 0; t < THREADS; t++) {
            pthread_join(threads[t], NULL);
            CHECK(jobs[t].wrong == 0, "wave %d, thread %d: %ld calls differ", wave, t, jobs[t].wrong);
            samples += jobs[t].guard.num_samples;
        }
        CHECK(samples == THREADS * ROUNDS * (SAMPLES + 9), "%ld samples counted", (long)samples);
    }
    emu_free(m_small);
    emu_free(m_large);
    free_net(&small);
    free_net(&large);
    free(file.data);
    FINISH(3 * (2 * THREADS + 1));
}
