/* The kernels of the instruction sets, and what they share.
 *
 * A call (run.c) takes the samples in tiles. A batched tile has samples in lanes: a row of a block is one column of all
 * its samples, [column][samples]. The few samples of the others have outputs in lanes, and a row each:
 * [sample][num_columns of the model]. Tiles of one model may come from several instruction sets: the bits are the same. */
#ifndef EMU_KERNELS_H
#define EMU_KERNELS_H

#include "model.h"

/* Numbers of samples and columns: column f of sample s is element s * sample + f * column */
typedef struct {
    void *data;
    int64_t sample, column;
    bool single; /* float32 */
    bool padded; /* has room for whole vectors of samples: rows of ours, not the host's */
} emu_array;

static inline void *emu_element(const emu_array *a, int64_t sample, int64_t column)
{
    const int64_t i = sample * a->sample + column * a->column;
    return (unsigned char *)a->data + (a->single ? i * (int64_t)sizeof(float) : i * (int64_t)sizeof(double));
}

/* The part of an array from a sample and column on */
static inline emu_array emu_at(const emu_array *a, int64_t sample, int64_t column)
{
    emu_array part = *a;
    part.data = emu_element(a, sample, column);
    return part;
}

static inline double emu_number_at(const emu_array *a, int64_t sample, int64_t column)
{
    const void *p = emu_element(a, sample, column);
    return a->single ? (double)*(const float *)p : *(const double *)p;
}

static inline void emu_set_number(const emu_array *a, int64_t sample, int64_t column, double value)
{
    void *p = emu_element(a, sample, column);
    if (a->single)
        *(float *)p = (float)value;
    else
        *(double *)p = value;
}

/* Dense layers, of one precision. Each evaluates the model's nodes from `first` on as long as they are NODE_DENSE, and
 * returns the first that is not. */
typedef struct {
    int lanes;
    int (*batch)(const emu_model *m, int first, void *block, int samples);
    int (*few)(const emu_model *m, int first, void *rows, int samples);
} emu_dense;

/* Elementwise, in float64 */
typedef struct emu_elementwise {
    int lanes;
    /* A program for `count` samples in ld lanes. Lanes beyond `count` repeat the last sample. wide: for log and exp of whole
     * multiples of 8 numbers, by vectors wider than these; or NULL */
    void (*block)(const emu_program *program, const emu_array *from, const emu_array *to, int count, int ld,
                  void (*wide)(emu_op op, double *t, int n));
    /* For sample s of `from` to sample t of `to`; not where all tiles are batched */
    void (*sample)(const emu_program *program, const emu_array *from, int64_t s, const emu_array *to, int64_t t);
    void (*norm)(const emu_node *node, const emu_array *rows, int samples);
} emu_elementwise;

/* One way of taking some samples through the network. */
typedef struct emu_tile {
    int samples;  /* at most so many */
    bool batched;
    const emu_dense *dense;
} emu_tile;

/* What the kernels for AVX-512 take from those for AVX2 */
#if EMU_WITH_X86
extern const emu_elementwise emu_elementwise_avx2;
extern const emu_dense emu_dense_single_avx2, emu_dense_double_avx2;
double emu_apply_avx2(emu_op op, double a, double b, double t);
void emu_activate_avx2(const emu_layer *layer, float *y, int64_t count);
#endif

enum { EMU_MAX_FEW = 16 }; /* samples of a tile that is not batched */

/* run.c: a whole call. rows has room for EMU_MAX_BLOCK samples of the model's columns */
void emu_run(const emu_model *m, int64_t ncol, const emu_array *x, const emu_array *y, void *rows);

#endif
