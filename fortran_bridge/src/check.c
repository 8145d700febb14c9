/* emu_self_check and emu_measure: a model tried out on this machine. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "error.h"
#include "model.h"

emu_status emu_self_check(const emu_model *m, double *max_difference, char *message, size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (max_difference != NULL)
        *max_difference = (double)NAN;
    if (m == NULL) {
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_self_check: model is NULL");
        return error.status;
    }
    if (m->num_checks == 0) {
        emu_fail(&error, EMU_ERR_CHECK,
                 "the model file holds no check samples (libemulator.check_inputs); export it with them");
        return error.status;
    }
    double *y = calloc((size_t)m->num_checks, (size_t)m->num_outputs * sizeof *y);
    if (y == NULL) {
        emu_fail(&error, EMU_ERR_MEMORY, "out of memory for the self-check");
        return error.status;
    }
    const emu_status status = emu_infer_f64(m, m->num_checks, m->check_inputs, m->num_inputs, 1, y, m->num_outputs, 1,
                                            NULL, 0);
    if (status != EMU_OK)
        emu_fail(&error, status, "the self-check could not run: %s", emu_status_name(status));
    double worst = 0.0;
    int64_t worst_at = 0;
    for (int64_t i = 0; i < m->num_checks * m->num_outputs && status == EMU_OK; i++) {
        const int64_t j = i % m->num_outputs;
        const double range = m->output_max[j] - m->output_min[j];
        double difference = fabs(y[i] - m->check_outputs[i]);
        if (isgreater(range, 0.0) && isfinite(range))
            difference /= range;
        if (isnan(y[i]) || isnan(m->check_outputs[i]))
            difference = isnan(y[i]) && isnan(m->check_outputs[i]) ? 0.0 : (double)INFINITY;
        if (difference > worst) {
            worst = difference;
            worst_at = i;
        }
    }
    if (status == EMU_OK && max_difference != NULL)
        *max_difference = worst;
    if (status == EMU_OK && worst > m->check_tolerance)
        emu_fail(&error, EMU_ERR_CHECK,
                 "check sample %lld, output '%s': found %.9g, the file says %.9g; a difference of %.3g of the training "
                 "range, allowed %.3g: the file is damaged, or this build of libemulator is wrong on this machine",
                 (long long)(worst_at / m->num_outputs) + 1, m->output_names[worst_at % m->num_outputs], y[worst_at],
                 m->check_outputs[worst_at], worst, m->check_tolerance);
    free(y);
    return error.status;
}

/* ---- timing ---- */

static double uniform(uint64_t *state) /* splitmix64, [0, 1) */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Values such as the model was trained on: what is timed should not be overflow or NaN. */
static void fill_inputs(const emu_model *m, int64_t ncol, int64_t xs, int64_t xf, double *x)
{
    uint64_t state = 1;
    for (int64_t s = 0; s < ncol; s++) {
        for (int64_t f = 0; f < m->num_inputs; f++) {
            const double u = uniform(&state), low = m->input_min[f], high = m->input_max[f];
            double value = 2.0 * u - 1.0;
            if (isfinite(low) && isfinite(high))
                value = low + u * (high - low);
            else if (m->num_checks > 0)
                value = m->check_inputs[s % m->num_checks * m->num_inputs + f];
            x[s * xs + f * xf] = value;
        }
    }
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    const double p = *(const double *)a, q = *(const double *)b;
    return (p > q) - (p < q);
}

emu_status emu_measure(const emu_model *m, int64_t ncol, int layout, double seconds, double *ns_per_sample)
{
    enum { MAX_SAMPLES = 2001, MIN_SAMPLES = 7 };
    if (m == NULL || ns_per_sample == NULL || ncol < 1 || layout < 0 || layout > 1 || !isgreaterequal(seconds, 0.0))
        return EMU_ERR_ARGUMENT;
    const size_t n = (size_t)ncol, inputs = (size_t)m->num_inputs, outputs = (size_t)m->num_outputs;
    if (n > SIZE_MAX / 16 / (inputs + outputs))
        return EMU_ERR_MEMORY;
    double *x = calloc(n * inputs, sizeof *x), *y = calloc(n * outputs, sizeof *y);
    double *times = calloc(MAX_SAMPLES, sizeof *times);
    void *workspace = malloc(emu_workspace_size(m));
    emu_status status = x != NULL && y != NULL && times != NULL && workspace != NULL ? EMU_OK : EMU_ERR_MEMORY;
    if (status == EMU_OK) {
        const int64_t xs = layout == 0 ? 1 : m->num_inputs, xf = layout == 0 ? ncol : 1;
        const int64_t ys = layout == 0 ? 1 : m->num_outputs, yf = layout == 0 ? ncol : 1;
        const size_t size = emu_workspace_size(m);
        fill_inputs(m, ncol, xs, xf, x);
        double start = 0.0, once = 0.0;
        for (int i = 0; i < 3 && status == EMU_OK; i++) { /* the third with caches and clock warm */
            start = seconds_now();
            status = emu_infer_f64(m, ncol, x, xs, xf, y, ys, yf, workspace, size);
            once = seconds_now() - start;
        }
        /* each sample lasts at least 100 microseconds, far above the clock's resolution */
        const int64_t repeats = 1 + (int64_t)(1e-4 / (once + 1e-9));
        const double begin = seconds_now();
        int taken = 0;
        while (status == EMU_OK && taken < MAX_SAMPLES && (taken < MIN_SAMPLES || seconds_now() - begin < seconds)) {
            start = seconds_now();
            for (int64_t r = 0; r < repeats; r++)
                emu_infer_f64(m, ncol, x, xs, xf, y, ys, yf, workspace, size);
            times[taken++] = (seconds_now() - start) / (double)repeats;
        }
        qsort(times, (size_t)taken, sizeof *times, compare);
        if (taken > 0)
            *ns_per_sample = times[taken / 2] * 1e9 / (double)ncol;
    }
    free(x);
    free(y);
    free(times);
    free(workspace);
    return status;
}
