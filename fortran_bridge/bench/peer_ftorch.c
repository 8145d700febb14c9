/* The C side of peer_ftorch.F90. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

void *bench_ftorch_load(const char *path);
void bench_ftorch_infer(void *handle, long n, int num_inputs, int num_outputs, const double *x, double *y);
void bench_ftorch_unload(void *handle);

struct state {
    int num_inputs, num_outputs;
    void *handle;
};

static void *load(const struct bench_network *network, char *message)
{
    char path[BENCH_TEXT + 32];
    struct state *state = malloc(sizeof *state);
    (void)message; /* FTorch ends the process when it fails */
    snprintf(path, sizeof path, "%s/model.pt", network->folder);
    state->num_inputs = network->width[0];
    state->num_outputs = network->width[network->num_layers];
    state->handle = bench_ftorch_load(path);
    return state;
}

static int infer(void *opaque, long n, const double *x, double *y)
{
    const struct state *state = opaque;
    bench_ftorch_infer(state->handle, n, state->num_inputs, state->num_outputs, x, y);
    return 0;
}

static void unload(void *opaque)
{
    bench_ftorch_unload(((struct state *)opaque)->handle);
    free(opaque);
}

static const char *version(void)
{
    return BENCH_FTORCH_VERSION;
}

const struct bench_plugin *bench_open(void)
{
    static const struct bench_backend backends[] = {{"ftorch", "", load, infer, unload, NULL}};
    static const struct bench_plugin plugin = {1, backends, version};
    return &plugin;
}
