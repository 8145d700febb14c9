/* usage: mpirun -n R mpi_ranks model.onnx inputs.bin outputs.bin [LOADS [each]]
 * Rank 0 alone opens the model and broadcasts its bytes; every rank loads it from them LOADS times (once by default, the
 * others are freed again), evaluates its share of the samples, and rank 0 writes all results in order. With `each`, every
 * load opens the file instead: what a host should not do. inputs.bin, outputs.bin: float64, sample-major. Ends with
 * status 1 on any error. */
#include "libemulator.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void *read_all(const char *path, long *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    void *bytes = malloc((size_t)*size);
    if (!bytes || fread(bytes, 1, (size_t)*size, file) != (size_t)*size) fail(path);
    fclose(file);
    return bytes;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc < 4 || argc > 6) fail("usage: mpi_ranks model.onnx inputs.bin outputs.bin [LOADS [each]]");
    const int loads = argc > 4 ? atoi(argv[4]) : 1, each = argc > 5 && strcmp(argv[5], "each") == 0;

    long size = 0;
    void *bytes = rank == 0 ? read_all(argv[1], &size) : NULL;
    MPI_Bcast(&size, 1, MPI_LONG, 0, MPI_COMM_WORLD);
    if (rank != 0) bytes = malloc((size_t)size);
    MPI_Bcast(bytes, (int)size, MPI_BYTE, 0, MPI_COMM_WORLD);

    emu_model *model = NULL;
    char message[512];
    int loaded = 0, all_loaded = 0;
    for (; loaded < loads; loaded++) {
        emu_free(model);
        const emu_status status = each ? emu_load(argv[1], &model, message, sizeof message)
                                       : emu_load_bytes(bytes, (size_t)size, &model, message, sizeof message);
        if (status != EMU_OK) fail(message);
    }
    MPI_Reduce(&loaded, &all_loaded, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    free(bytes);
    long nx = (long)emu_num_inputs(model), ny = (long)emu_num_outputs(model);

    long input_size;
    double *x = read_all(argv[2], &input_size);
    long n = input_size / (long)sizeof(double) / nx;
    long first = n * rank / ranks, last = n * (rank + 1) / ranks;
    double *y = calloc((size_t)(n * ny), sizeof *y);
    if (!y) fail("out of memory");
    if (emu_infer_f64(model, last - first, x + first * nx, nx, 1, y + first * ny, ny, 1, NULL, 0) != EMU_OK)
        fail("emu_infer_f64 failed");

    /* the others' shares are zero in every rank's array: a sum with zeros puts them together unchanged */
    double *all = rank == 0 ? malloc((size_t)(n * ny) * sizeof *all) : NULL;
    MPI_Reduce(y, all, (int)(n * ny), MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        FILE *out = fopen(argv[3], "wb");
        if (!out || fwrite(all, sizeof *all, (size_t)(n * ny), out) != (size_t)(n * ny)) fail(argv[3]);
        fclose(out);
        printf("%d ranks, %ld samples, %d loads, isa %s\n", ranks, n, all_loaded, emu_isa(model));
    }
    emu_free(model);
    free(x);
    free(y);
    free(all);
    MPI_Finalize();
    return 0;
}
