/* What is measured. Each function prints JSON objects, one a line; run.py merges the lines of three runs. */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const long WALK_SAMPLES = 1152; /* 16 columns x 72 levels: a chunk of the host model */

static void *allocate(size_t count)
{
    const size_t bytes = (count * sizeof(double) + 63) / 64 * 64;
    void *block = aligned_alloc(64, bytes);
    if (block == NULL) {
        fputs("engine_bench: no memory\n", stderr);
        exit(1);
    }
    return block;
}

double *bench_chunks(const double *states, int num_inputs, long batch, long *num_chunks)
{
    *num_chunks = batch < WALK_SAMPLES ? WALK_SAMPLES / batch : 1;
    double *x = allocate((size_t)(*num_chunks * batch * num_inputs));
    for (long c = 0; c < *num_chunks; c++)
        for (int f = 0; f < num_inputs; f++)
            for (long s = 0; s < batch; s++)
                x[(c * num_inputs + f) * batch + s] = states[(c * batch + s) * num_inputs + f];
    return x;
}

void bench_walk(void *context, long calls)
{
    struct bench_walk *walk = context;
    const struct bench_backend *backend = walk->loaded->backend;
    for (long k = 0; k < calls; k++) {
        const long c = walk->next;
        walk->next = c + 1 == walk->num_chunks ? 0 : c + 1;
        if (backend->infer(walk->loaded->state, walk->batch, walk->x + c * walk->batch * walk->num_inputs,
                           walk->y + c * walk->batch * walk->num_outputs) != 0) {
            fprintf(stderr, "engine_bench: %s failed\n", backend->peer);
            exit(1);
        }
    }
}

static struct bench_walk new_walk(const struct bench_plan *plan, const struct bench_network *network, long batch,
                                  const struct bench_loaded *loaded)
{
    struct bench_walk walk = {loaded, batch, 0, 0, network->width[0], network->width[network->num_layers], NULL, NULL};
    walk.x = bench_chunks(plan->states, walk.num_inputs, batch, &walk.num_chunks);
    walk.y = allocate((size_t)(walk.num_chunks * batch * walk.num_outputs));
    return walk;
}

static void free_walk(struct bench_walk *walk)
{
    free(walk->x);
    free(walk->y);
}

/* ---- do they compute the same? ------------------------------------------------------------------- */

/* Largest difference from what PyTorch gives in float64, in units of each output's range. */
static double difference(const struct bench_walk *walk, const struct bench_network *network)
{
    double worst = 0.0;
    for (int j = 0; j < walk->num_outputs; j++) {
        double low = INFINITY, high = -INFINITY;
        for (long s = 0; s < network->num_samples; s++) {
            low = fmin(low, network->reference[s * walk->num_outputs + j]);
            high = fmax(high, network->reference[s * walk->num_outputs + j]);
        }
        for (long s = 0; s < walk->num_chunks * walk->batch; s++) {
            const long c = s / walk->batch, i = s % walk->batch;
            const double y = walk->y[(c * walk->num_outputs + j) * walk->batch + i];
            const double d = fabs(y - network->reference[s * walk->num_outputs + j]) / (high - low);
            if (!(d <= worst)) /* NaN counts */
                worst = d;
        }
    }
    return worst;
}

int bench_agreement(const struct bench_plan *plan, const char *model, const struct bench_network *network,
                    const struct bench_loaded *loaded, int count, double *worst)
{
    static const long batches[] = {1, 7, 16, 1024};
    for (int b = 0; b < count; b++) {
        double largest = 0.0;
        for (size_t k = 0; k < sizeof batches / sizeof *batches; k++) {
            struct bench_walk walk = new_walk(plan, network, batches[k], &loaded[b]);
            for (long i = 0; i < walk.num_chunks * walk.batch * walk.num_outputs; i++)
                walk.y[i] = NAN; /* what a backend leaves alone counts as wrong */
            bench_walk(&walk, walk.num_chunks);
            const double d = difference(&walk, network);
            largest = d <= largest ? largest : d;
            free_walk(&walk);
        }
        printf("{\"agreement\": {\"model\": \"%s\", \"backend\": \"%s\", \"variant\": \"%s\", "
               "\"difference\": %s%.3g%s}}\n", model, loaded[b].backend->peer, loaded[b].backend->variant,
               isfinite(largest) ? "" : "\"", largest, isfinite(largest) ? "" : "\"");
        *worst = largest <= *worst ? *worst : largest;
    }
    return *worst <= 1e-5; /* the toolkit's own tolerance between runtimes: emulator/export.py */
}

/* ---- how long do they take? ---------------------------------------------------------------------- */

void bench_rows(const struct bench_plan *plan, const char *model, const struct bench_network *network, long batch,
                const struct bench_loaded *loaded, int count)
{
    struct bench_walk walks[BENCH_MAX_BACKENDS];
    struct bench_task tasks[BENCH_MAX_BACKENDS];
    for (int b = 0; b < count; b++) {
        walks[b] = new_walk(plan, network, batch, &loaded[b]);
        tasks[b] = (struct bench_task){bench_walk, &walks[b], 0, 0, 0.0};
    }
    bench_interleave(tasks, count, plan->seconds, 2, 200e3);
    for (int b = 0; b < count; b++) {
        printf("{\"row\": {\"model\": \"%s\", \"batch\": %ld, \"backend\": \"%s\", \"variant\": \"%s\", "
               "\"ns_per_sample\": %.4f, \"weights\": %.0f}}\n", model, batch, loaded[b].backend->peer,
               loaded[b].backend->variant, tasks[b].best_ns / (double)batch, bench_weights(network));
        free_walk(&walks[b]);
    }
    fflush(stdout);
}

/* The cost of a call of 1, 2, ... max_batch samples, for the saw-tooth check. */
void bench_calls(const struct bench_plan *plan, const char *model, const struct bench_network *network, long max_batch,
                 const struct bench_loaded *native)
{
    struct bench_walk *walks = calloc((size_t)max_batch, sizeof *walks);
    struct bench_task *tasks = calloc((size_t)max_batch, sizeof *tasks);
    for (long n = 1; n <= max_batch; n++) {
        walks[n - 1] = new_walk(plan, network, n, native);
        tasks[n - 1] = (struct bench_task){bench_walk, &walks[n - 1], 0, 0, 0.0};
    }
    bench_interleave(tasks, (int)max_batch, 10.0 * plan->seconds, 10, 50e3);
    printf("{\"calls\": {\"model\": \"%s\", \"ns_per_call\": [", model);
    for (long n = 1; n <= max_batch; n++) {
        printf("%s%.2f", n > 1 ? ", " : "", tasks[n - 1].best_ns);
        free_walk(&walks[n - 1]);
    }
    puts("]}}");
    free(walks);
    free(tasks);
}

/* ---- the parameterization to replace -------------------------------------------------------------- */

#ifdef BENCH_WITH_ARG
enum { STATE_COLUMNS = 16, RESULT_COLUMNS = 16 };

struct arg_walk {
    void (*routine)(int ncol, const double *states, double *results);
    long batch, num_chunks, next;
    const double *states;
    double *results;
};

static void run_arg(void *context, long calls)
{
    struct arg_walk *walk = context;
    for (long k = 0; k < calls; k++) {
        const long c = walk->next;
        walk->next = c + 1 == walk->num_chunks ? 0 : c + 1;
        walk->routine((int)walk->batch, walk->states + c * walk->batch * STATE_COLUMNS,
                      walk->results + c * walk->batch * RESULT_COLUMNS);
    }
}

void bench_arg(const struct bench_plan *plan, long batch)
{
    static const char *const names[] = {"number", "all", "mapping"};
    void (*const routines[])(int, const double *, double *) = {bench_arg_number, bench_arg_all, bench_arg_mapping};
    struct arg_walk walks[3];
    struct bench_task tasks[3];
    long num_chunks;
    double *x = bench_chunks(plan->states, STATE_COLUMNS, batch, &num_chunks);
    double *states = allocate((size_t)(num_chunks * batch * STATE_COLUMNS));
    for (long c = 0; c < num_chunks; c++)
        bench_arg_states((int)batch, x + c * batch * STATE_COLUMNS, states + c * batch * STATE_COLUMNS);
    for (int k = 0; k < 3; k++) {
        double *results = allocate((size_t)(num_chunks * batch * RESULT_COLUMNS));
        walks[k] = (struct arg_walk){routines[k], batch, num_chunks, 0, states, results};
        tasks[k] = (struct bench_task){run_arg, &walks[k], 0, 0, 0.0};
    }
    bench_interleave(tasks, 3, plan->seconds, 3, 200e3);
    for (int k = 0; k < 3; k++) {
        printf("{\"arg\": {\"batch\": %ld, \"what\": \"%s\", \"ns_per_point\": %.4f}}\n", batch, names[k],
               tasks[k].best_ns / (double)batch);
        free(walks[k].results);
    }
    free(states);
    free(x);
}
#else
void bench_arg(const struct bench_plan *plan, long batch)
{
    (void)plan;
    (void)batch;
}
#endif
