/* libemulator itself, through its C API. */
#include "bench.h"
#include "libemulator.h"

#include <stdio.h>
#include <stdlib.h>

struct state {
    emu_model *model;
    void *workspace;
    size_t workspace_size;
};

static void *load(const struct bench_network *network, char *message)
{
    char path[BENCH_TEXT + 32];
    struct state *state = calloc(1, sizeof *state);
    snprintf(path, sizeof path, "%s/model.onnx", network->folder);
    if (emu_load(path, &state->model, message, BENCH_TEXT) != EMU_OK) {
        free(state);
        return NULL;
    }
    state->workspace_size = emu_workspace_size(state->model);
    state->workspace = malloc(state->workspace_size);
    return state;
}

static int infer(void *opaque, long n, const double *x, double *y)
{
    struct state *s = opaque;
    return emu_infer_f64(s->model, n, x, 1, n, y, 1, n, s->workspace, s->workspace_size) != EMU_OK;
}

static void unload(void *opaque)
{
    struct state *state = opaque;
    emu_free(state->model);
    free(state->workspace);
    free(state);
}

static const char *isa(void *opaque)
{
    return emu_isa(((struct state *)opaque)->model);
}

static const char *version(void)
{
    return emu_version();
}

const struct bench_plugin *bench_open(void)
{
    static const struct bench_backend backends[] = {{"native", "", load, infer, unload, isa}};
    static const struct bench_plugin plugin = {1, backends, version};
    return &plugin;
}
