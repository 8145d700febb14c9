/* What loading a peer and a model costs a process: time, memory, and the files that must be there. Meant for a process
 * that does nothing else. */
#define _GNU_SOURCE
#include "bench.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_FILES = 256 };

struct files {
    int count;
    char path[MAX_FILES][BENCH_TEXT];
};

static long resident_kb(void)
{
    char line[256];
    long kb = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmRSS: %ld kB", &kb) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return kb;
}

static void mapped_libraries(struct files *files)
{
    char line[1024], path[BENCH_TEXT];
    FILE *file = fopen("/proc/self/maps", "r");
    files->count = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%*s %*s %*s %*s %*s %511[^\n]", path) != 1 || strstr(path, ".so") == NULL)
            continue;
        int known = 0;
        for (int k = 0; k < files->count; k++)
            known = known || strcmp(files->path[k], path) == 0;
        if (!known && files->count < MAX_FILES)
            strcpy(files->path[files->count++], path);
    }
    if (file != NULL)
        fclose(file);
}

static void print_new_files(const struct files *before, const struct files *after, const char *plugin_path)
{
    const char *separator = "", *plugin = strrchr(plugin_path, '/');
    printf("\"files\": [");
    for (int k = 0; k < after->count; k++) {
        const char *path = after->path[k], *name = strrchr(path, '/');
        struct stat status;
        int known = strcmp(name, plugin) == 0;
        for (int b = 0; b < before->count; b++)
            known = known || strcmp(before->path[b], path) == 0;
        if (known || stat(path, &status) != 0)
            continue;
        printf("%s{\"path\": \"%s\", \"bytes\": %lld}", separator, path, (long long)status.st_size);
        separator = ", ";
    }
    printf("]");
}

int bench_footprint(const char *plugin_path, const char *variant, const struct bench_network *network,
                    const double *states)
{
    static struct files before, after;
    char message[BENCH_TEXT] = "";
    double x[16 * BENCH_MAX_COLUMNS], y[16 * BENCH_MAX_COLUMNS];
    for (int f = 0; f < network->width[0]; f++)
        for (int s = 0; s < 16; s++)
            x[f * 16 + s] = states[s * network->width[0] + f];
    mapped_libraries(&before);
    const long start_kb = resident_kb();
    const double start = bench_now_ns();
    void *handle = dlopen(plugin_path, RTLD_NOW | RTLD_LOCAL);
    const struct bench_plugin *(*open_plugin)(void) = NULL;
    if (handle != NULL)
        *(void **)&open_plugin = dlsym(handle, "bench_open");
    if (open_plugin == NULL || open_plugin()->version() == NULL) {
        fprintf(stderr, "engine_bench: cannot open %s\n", plugin_path);
        return 1;
    }
    const double opened = bench_now_ns();
    const struct bench_backend *backend = &open_plugin()->backends[0];
    for (int k = 0; k < open_plugin()->num_backends; k++)
        if (strcmp(open_plugin()->backends[k].variant, variant) == 0)
            backend = &open_plugin()->backends[k];
    void *state = backend->load(network, message);
    if (state == NULL) {
        fprintf(stderr, "engine_bench: %s: %s\n", backend->peer, message);
        return 1;
    }
    const double loaded = bench_now_ns();
    if (backend->infer(state, 16, x, y) != 0)
        return 1;
    const double first_call = bench_now_ns();
    const long end_kb = resident_kb();
    mapped_libraries(&after);
    printf("{\"backend\": \"%s\", \"open_ms\": %.4f, \"load_ms\": %.4f, \"first_call_ms\": %.4f, \"resident_kb\": %ld, ",
           backend->peer, 1e-6 * (opened - start), 1e-6 * (loaded - opened), 1e-6 * (first_call - loaded),
           end_kb - start_kb);
    print_new_files(&before, &after, plugin_path);
    puts("}");
    return 0;
}
