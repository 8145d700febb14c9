/* Read what make_models.py wrote. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *read_file(const char *path, size_t item, long *count)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "engine_bench: cannot open %s; make_models.py writes it\n", path);
        return NULL;
    }
    fseek(file, 0, SEEK_END);
    *count = ftell(file) / (long)item;
    rewind(file);
    void *data = malloc((size_t)*count * item);
    if (data != NULL && fread(data, item, (size_t)*count, file) != (size_t)*count) {
        free(data);
        data = NULL;
    }
    fclose(file);
    if (data == NULL)
        fprintf(stderr, "engine_bench: cannot read %s\n", path);
    return data;
}

double *bench_read_doubles(const char *path, long *count)
{
    return read_file(path, sizeof(double), count);
}

double bench_weights(const struct bench_network *network)
{
    double sum = 0.0;
    for (int k = 0; k < network->num_layers; k++)
        sum += (double)network->width[k] * network->width[k + 1];
    return sum;
}

static int read_description(const char *path, struct bench_network *w)
{
    FILE *file = fopen(path, "r");
    int ok = file != NULL && fscanf(file, "%d", &w->num_layers) == 1 && w->num_layers <= BENCH_MAX_LAYERS;
    for (int k = 0; ok && k <= w->num_layers; k++)
        ok = fscanf(file, "%d", &w->width[k]) == 1;
    ok = ok && w->width[0] <= BENCH_MAX_COLUMNS && w->width[w->num_layers] <= BENCH_MAX_COLUMNS;
    for (int i = 0; ok && i < w->width[0]; i++) {
        double std = 1.0;
        ok = fscanf(file, "%d %lf %lf %lf", &w->is_log[i], &w->lower[i], &w->mean[i], &std) == 4;
        w->scale[i] = 1.0 / std;
    }
    if (file != NULL)
        fclose(file);
    if (!ok)
        fprintf(stderr, "engine_bench: cannot read %s\n", path);
    return ok;
}

int bench_read_network(const char *data, const char *name, struct bench_network *network)
{
    char path[2 * BENCH_TEXT];
    long count;
    memset(network, 0, sizeof *network);
    snprintf(network->folder, sizeof network->folder, "%s/%s", data, name);
    snprintf(path, sizeof path, "%s/network.txt", network->folder);
    if (!read_description(path, network))
        return 0;
    snprintf(path, sizeof path, "%s/weights.f32", network->folder);
    network->weights = read_file(path, sizeof(float), &count);
    snprintf(path, sizeof path, "%s/reference.f64", network->folder);
    network->reference = bench_read_doubles(path, &count);
    network->num_samples = count / network->width[network->num_layers];
    return network->weights != NULL && network->reference != NULL;
}
