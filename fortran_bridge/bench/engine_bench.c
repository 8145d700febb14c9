/* engine_bench: libemulator, its peers and ARG timed in one process on one core. run.py calls it, three times. */
#define _GNU_SOURCE
#include "bench.h"

#include <dlfcn.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: engine_bench --data FOLDER [options]\n"
    "       engine_bench --data FOLDER --footprint PEER [--variant NAME] [--models MODEL]\n"
    "\n"
    "Prints JSON objects, one a line. run.py, beside the source, makes the data and the tables.\n"
    "\n"
    "  --data FOLDER     what make_models.py wrote\n"
    "  --models A,B      models to time (default L,L+log,M,B)\n"
    "  --batches N,N     samples in a call (default 1,4,16,64,256,1024,16384; for L and L+log also 1152)\n"
    "  --seconds S       time spent on each model and batch (default 0.6)\n"
    "  --calls N         cost of a call for every number of samples up to N, L and M (default 384; 0: not)\n"
    "  --core N          core to run on (default: the first one allowed)\n"
    "  --footprint PEER  instead: load PEER and one model in this process, print time, memory, files\n";

enum { NUM_PEERS = 5, MAX_LIST = 16 };
static const char *const peers[NUM_PEERS] = {"native", "onnxruntime", "onednn", "libtorch", "ftorch"};

struct options {
    struct bench_plan plan;
    char *models[MAX_LIST];
    int num_models;
    long batches[MAX_LIST];
    int num_batches, default_batches;
    long max_calls;
    int core;
    const char *footprint, *variant;
};

static int split(char *text, char **parts)
{
    int count = 0;
    for (char *part = strtok(text, ","); part != NULL && count < MAX_LIST; part = strtok(NULL, ","))
        parts[count++] = part;
    return count;
}

static int read_options(int argc, char **argv, struct options *o)
{
    static char models[] = "L,L+log,M,B", batches[] = "1,4,16,64,256,1024,16384";
    char *numbers[MAX_LIST], *batch_text = batches;
    memset(o, 0, sizeof *o);
    o->plan.seconds = 0.6;
    o->max_calls = 384;
    o->core = -1;
    o->variant = "";
    o->default_batches = 1;
    char *model_text = models;
    for (int i = 1; i < argc; i += 2) {
        char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value == NULL) {
            return 0;
        } else if (strcmp(argv[i], "--data") == 0) {
            o->plan.data = value;
        } else if (strcmp(argv[i], "--models") == 0) {
            model_text = value;
        } else if (strcmp(argv[i], "--batches") == 0) {
            batch_text = value;
            o->default_batches = 0;
        } else if (strcmp(argv[i], "--seconds") == 0) {
            o->plan.seconds = atof(value);
        } else if (strcmp(argv[i], "--calls") == 0) {
            o->max_calls = atol(value);
        } else if (strcmp(argv[i], "--core") == 0) {
            o->core = atoi(value);
        } else if (strcmp(argv[i], "--footprint") == 0) {
            o->footprint = value;
        } else if (strcmp(argv[i], "--variant") == 0) {
            o->variant = value;
        } else {
            return 0;
        }
    }
    o->num_models = split(model_text, o->models);
    o->num_batches = split(batch_text, numbers);
    for (int b = 0; b < o->num_batches; b++) {
        o->batches[b] = atol(numbers[b]);
        if (o->batches[b] < 1)
            return 0;
    }
    return o->plan.data != NULL && o->num_models > 0;
}

/* One core, and one thread for whatever OpenMP, MKL or ONNX Runtime would start. Before any library is opened. */
static void keep_to_one_core(int core)
{
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    for (int k = 0; core < 0 && k < CPU_SETSIZE; k++)
        if (CPU_ISSET(k, &set))
            core = k;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fprintf(stderr, "engine_bench: cannot keep to core %d; results will vary more\n", core);
    setenv("OMP_NUM_THREADS", "1", 1);
    setenv("MKL_NUM_THREADS", "1", 1);
}

static void plugin_path(const char *peer, char *path, size_t size)
{
    char folder[BENCH_TEXT] = "";
    if (readlink("/proc/self/exe", folder, sizeof folder - 1) < 0)
        strcpy(folder, "./engine_bench");
    *strrchr(folder, '/') = '\0';
    snprintf(path, size, "%s/peer_%s.so", folder, peer);
}

/* Backends of all the peers that can be had; the others are named, with what dlopen says. */
static int open_peers(const struct bench_backend **backends)
{
    int count = 0;
    for (int p = 0; p < NUM_PEERS; p++) {
        char path[BENCH_TEXT + 64];
        plugin_path(peers[p], path, sizeof path);
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        const struct bench_plugin *(*open_plugin)(void) = NULL;
        if (handle != NULL)
            *(void **)&open_plugin = dlsym(handle, "bench_open");
        const struct bench_plugin *plugin = open_plugin != NULL ? open_plugin() : NULL;
        const char *version = plugin != NULL ? plugin->version() : NULL;
        if (version == NULL) {
            printf("{\"missing\": {\"peer\": \"%s\", \"why\": \"%s\"}}\n", peers[p],
                   handle == NULL ? "not built" : "its library cannot be opened");
            continue;
        }
        printf("{\"peer\": {\"peer\": \"%s\", \"version\": \"%s\"}}\n", peers[p], version);
        for (int k = 0; k < plugin->num_backends && count < BENCH_MAX_BACKENDS; k++)
            backends[count++] = &plugin->backends[k];
    }
    return count;
}

static int time_model(const struct options *o, const char *model, const struct bench_backend *const *backends,
                      int count)
{
    const int is_l = model[0] == 'L';
    char message[BENCH_TEXT];
    double worst = 0.0;
    struct bench_network network;
    struct bench_loaded loaded[BENCH_MAX_BACKENDS];
    if (!bench_read_network(o->plan.data, model, &network))
        return 1;
    for (int b = 0; b < count; b++) {
        loaded[b] = (struct bench_loaded){backends[b], backends[b]->load(&network, message)};
        if (loaded[b].state == NULL) {
            fprintf(stderr, "engine_bench: %s cannot load model %s: %s\n", backends[b]->peer, model, message);
            return 1;
        }
        if (backends[b]->isa != NULL) {
            const char *isa = backends[b]->isa(loaded[b].state);
            printf("{\"peak\": {\"isa\": \"%s\", \"gflops\": %.3f}}\n", isa, bench_peak_gflops(isa, o->plan.seconds));
        }
    }
    if (!bench_agreement(&o->plan, model, &network, loaded, count, &worst)) {
        fflush(stdout);
        fprintf(stderr, "engine_bench: model %s: the backends do not compute the same (largest difference from the "
                "reference %.3g of an output's range, 1e-5 allowed): nothing is timed\n", model, worst);
        return 3;
    }
    for (int k = 0; k < o->num_batches; k++)
        if (o->batches[k] <= o->plan.num_samples)
            bench_rows(&o->plan, model, &network, o->batches[k], loaded, count);
    if (is_l && o->default_batches)
        bench_rows(&o->plan, model, &network, 1152, loaded, count);
    if (o->max_calls > 0 && (strcmp(model, "L") == 0 || strcmp(model, "M") == 0))
        bench_calls(&o->plan, model, &network, o->max_calls, &loaded[0]); /* native comes first */
    for (int b = 0; b < count; b++)
        backends[b]->unload(loaded[b].state);
    free(network.weights);
    free(network.reference);
    return 0;
}

int main(int argc, char **argv)
{
    struct options o;
    char path[2 * BENCH_TEXT];
    const struct bench_backend *backends[BENCH_MAX_BACKENDS];
    if (!read_options(argc, argv, &o)) {
        fputs(usage, stderr);
        return 2;
    }
    keep_to_one_core(o.core);
    snprintf(path, sizeof path, "%s/states.f64", o.plan.data);
    o.plan.states = bench_read_doubles(path, &o.plan.num_samples);
    o.plan.num_samples /= 16;
    if (o.plan.states == NULL)
        return 1;
    if (o.footprint != NULL) {
        struct bench_network network;
        if (!bench_read_network(o.plan.data, o.models[0], &network))
            return 1;
        plugin_path(o.footprint, path, sizeof path);
        return bench_footprint(path, o.variant, &network, o.plan.states);
    }
    /* A peer that allocates its activations in each call must not pay for fresh pages every time: memory stays with the
     * process. (LibTorch takes almost twice as long for L at batch 1024 otherwise.) */
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    const int count = open_peers(backends);
    int status = count > 0 && strcmp(backends[0]->peer, "native") == 0 ? 0 : 1;
    for (int m = 0; m < o.num_models && status == 0; m++) {
        status = time_model(&o, o.models[m], backends, count);
        if (status == 0 && strcmp(o.models[m], "L") == 0) { /* ARG right after the model that would replace it */
            bench_arg(&o.plan, 1);
            bench_arg(&o.plan, 16);
            bench_arg(&o.plan, 1152);
        }
    }
    free(o.plan.states);
    return status;
}
