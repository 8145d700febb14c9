/* Between a host's columns and a peer's float32 rows. Compiled for this machine with -ffast-math: a peer must not lose
 * because we fed it slowly. */
#include "bench.h"

#include <math.h>

enum { BLOCK = 64 }; /* samples: 64 x 16 columns in float32 are 4 KB */

static void normalise(const struct bench_network *network, int f, int count, const double *column, float *z)
{
    const double mean = network->mean[f], scale = network->scale[f], lower = network->lower[f];
    if (network->is_log[f])
        for (int s = 0; s < count; s++)
            z[s] = (float)((log(column[s] < lower ? lower : column[s]) - mean) * scale);
    else
        for (int s = 0; s < count; s++)
            z[s] = (float)((column[s] - mean) * scale);
}

typedef float float8 __attribute__((vector_size(32), aligned(4)));
#define PAIRS(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

/* An 8 x 8 tile: `from` rows are BLOCK apart, `to` rows num_inputs apart. */
static void transpose_tile(const float *from, float *to, int num_inputs)
{
    float8 a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = *(const float8 *)(from + i * BLOCK);
    for (int i = 0; i < 8; i += 2) {
        b[i] = PAIRS(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = PAIRS(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = PAIRS(b[i + k], b[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[i + 2 * k + 1] = PAIRS(b[i + k], b[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int k = 0; k < 4; k++) {
        *(float8 *)(to + k * num_inputs) = PAIRS(a[k], a[k + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(float8 *)(to + (k + 4) * num_inputs) = PAIRS(a[k], a[k + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

void bench_stage_in(const struct bench_network *network, long n, const double *x, float *z)
{
    const int num_inputs = network->width[0];
    _Alignas(64) float block[BENCH_MAX_COLUMNS][BLOCK];
    if (n == 1) { /* the columns lie next to each other */
        for (int f = 0; f < num_inputs; f++)
            z[f] = (float)((x[f] - network->mean[f]) * network->scale[f]);
        for (int f = 0; f < num_inputs; f++)
            if (network->is_log[f])
                normalise(network, f, 1, x + f, z + f);
        return;
    }
    for (long start = 0; start < n; start += BLOCK) {
        const int count = n - start < BLOCK ? (int)(n - start) : BLOCK;
        const int tiles = num_inputs % 8 == 0 ? count / 8 : 0;
        float *rows = z + start * num_inputs;
        for (int f = 0; f < num_inputs; f++)
            normalise(network, f, count, x + f * n + start, block[f]);
        for (int t = 0; t < tiles; t++)
            for (int f = 0; f < num_inputs; f += 8)
                transpose_tile(&block[f][8 * t], rows + 8 * t * num_inputs + f, num_inputs);
        for (int s = 8 * tiles; s < count; s++)
            for (int f = 0; f < num_inputs; f++)
                rows[s * num_inputs + f] = block[f][s];
    }
}

void bench_stage_out(int num_outputs, long n, const float *from, double *y)
{
    for (long start = 0; start < n; start += BLOCK) {
        const long end = n - start < BLOCK ? n : start + BLOCK;
        for (int j = 0; j < num_outputs; j++)
            for (long s = start; s < end; s++)
                y[j * n + s] = (double)from[s * num_outputs + j];
    }
}

void bench_transpose_in(int num_inputs, long n, const double *x, double *rows)
{
    for (long start = 0; start < n; start += 8) { /* a cache line of each column */
        const long end = n - start < 8 ? n : start + 8;
        for (int f = 0; f < num_inputs; f++)
            for (long s = start; s < end; s++)
                rows[s * num_inputs + f] = x[f * n + s];
    }
}

void bench_transpose_out(int num_outputs, long n, const double *rows, double *y)
{
    for (long start = 0; start < n; start += BLOCK) {
        const long end = n - start < BLOCK ? n : start + BLOCK;
        for (int j = 0; j < num_outputs; j++)
            for (long s = start; s < end; s++)
                y[j * n + s] = rows[s * num_outputs + j];
    }
}
