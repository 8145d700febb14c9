/* The evaluated form of an emulator: what the loader builds once and the kernels walk for every call.
 *
 * x (float64, physical units) -> program of layer 0 -> float32 -> layer 0 -> ... -> last layer
 *   -> output program (float64) -> y.
 * A program is a list of groups; a group is a set of columns that undergo the same sequence of elementwise
 * operations, each with its own constants (normalisation and transforms differ by variable, their kind rarely).
 */
#ifndef EMU_MODEL_H
#define EMU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "libemulator.h"

/* Elementwise operations of a column, in float64. a and b are constants of the column. */
typedef enum {
    OP_SET,        /* a, whatever the input */
    OP_ADD,        /* t + a */
    OP_MUL,        /* t * a */
    OP_DIV,        /* t / a, only where 1/a is no normal number */
    OP_SUB_MUL,    /* (t - a) * b, two roundings */
    OP_MUL_ADD,    /* t * a + b, two roundings */
    OP_RSUB,       /* a - t */
    OP_RDIV,       /* a / t */
    OP_AT_LEAST,   /* t < a ? a : t, passes NaN */
    OP_AT_MOST,    /* t > a ? a : t, passes NaN */
    OP_ABS,
    OP_NEG,
    OP_SQUARE,
    OP_SQRT,
    OP_LOG,
    OP_EXP,
    OP_SIGMOID,
    OP_TANH,
    OP_ROUND_F32,  /* to the nearest float32 */
    OP_COUNT
} emu_op;

/* What a layer applies to its own sums, in float32. */
typedef enum { ACT_NONE, ACT_RELU, ACT_SIGMOID, ACT_TANH } emu_activation;

/* Order in which a layer adds its products. It depends on the number of outputs alone, so that every kernel
 * gives the same bits; w is the weight, b the bias, all products enter by fused multiply-add in float32.
 *   ORDER_NARROW (outputs <= 16): s_q = sum of w_k x_k over k = q, q+16, q+32, ... from 0, for q = 0..15;
 *     folded as s_q += s_{q+8} (q < 8), then 4, 2, 1; then + b.
 *   ORDER_HALVES (outputs <= 64): (b + sum over k < K/2) + (0 + sum over k >= K/2), k ascending.
 *   ORDER_CHAIN: b + sum over all k, k ascending.
 * Few outputs leave too few independent sums to fill the multiply-add pipes: hence the splits. */
typedef enum { ORDER_NARROW, ORDER_HALVES, ORDER_CHAIN } emu_order;

enum {
    EMU_PANEL = 16,      /* outputs in one packed panel: one AVX-512 vector */
    EMU_NARROW_PANEL = 4 /* outputs in one packed panel of a narrow layer */
};

typedef struct {
    int num_ops;
    int32_t num_columns;
    int32_t padded; /* num_columns rounded up to 8; the last column's constants are repeated */
    const uint8_t *ops;
    bool adjacent;             /* target[i] = target[0] + i */
    const int32_t *source;     /* [padded] column read; the last one is repeated */
    const int32_t *target;     /* [num_columns] column written */
    const double *constants;   /* [num_ops][2][padded] */
} emu_group;

typedef struct {
    int num_groups; /* 0: identity */
    const emu_group *groups;
} emu_program;

typedef struct {
    int32_t num_inputs, num_outputs;
    emu_order order;
    emu_activation activation;
    emu_program program; /* applied to the columns that this layer reads */
    const float *panels; /* [panel][num_inputs][width]; width 16, or 4 when narrow; zero padded */
    const float *rows;   /* narrow only: [output rounded up to 4][num_inputs rounded up to 16] */
    const float *bias;   /* rounded up to 16, zero padded */
} emu_layer;

struct emu_kernels;

enum { EMU_TILE_TABLE = 97 }; /* tile choices for 0..96 samples left */

struct emu_model {
    const struct emu_kernels *kernels;
    int32_t num_inputs, num_outputs;
    int num_layers;
    const emu_layer *layers;
    emu_program output; /* columns of the last layer -> y */
    int32_t max_width;  /* widest row of columns anywhere, rounded up to 16 */
    int64_t num_parameters;
    uint8_t tiles[EMU_TILE_TABLE]; /* index into kernels->tiles to take when so many samples are left */

    /* from the metadata; see metadata.c */
    const char **input_names, **input_units, **output_names, **output_units;
    const double *input_min, *input_max, *output_min, *output_max; /* NaN where unknown */
    int64_t num_checks;
    const double *check_inputs, *check_outputs; /* [num_checks][inputs], [num_checks][outputs] */
    double check_tolerance;
    int num_metadata;
    const char **metadata_keys, **metadata_values;

    emu_arena arena; /* everything above lives here */
};

/* One way of taking some samples through the network. */
typedef struct {
    int samples;  /* at most so many */
    bool batched; /* samples in lanes (a batch kernel) or outputs in lanes (a few-sample kernel) */
} emu_tile;

/* One instruction set's kernels. */
typedef struct emu_kernels {
    const char *name;
    int num_tiles;
    const emu_tile *tiles; /* the largest batched tile first */
    int lanes;             /* float32 lanes of a vector */
    void (*infer_f64)(const emu_model *m, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                      int64_t ys, int64_t yf, void *scratch);
    void (*infer_f32)(const emu_model *m, int64_t ncol, const float *x, int64_t xs, int64_t xf, float *y,
                      int64_t ys, int64_t yf, void *scratch);
    double (*apply)(emu_op op, double a, double b, double t);
} emu_kernels;

enum { EMU_MAX_LANES = 16, EMU_MAX_BLOCK = 3 * EMU_MAX_LANES };

/* select.c: the kernels to use; NULL (with a message) if LIBEMULATOR_ISA asks for what is not there. */
struct emu_error;
const emu_kernels *emu_select_kernels(struct emu_error *error);
void emu_choose_tiles(emu_model *model);

#if EMU_WITH_X86
extern const emu_kernels emu_kernels_avx512;
extern const emu_kernels emu_kernels_avx2;
#endif
extern const emu_kernels emu_kernels_portable;

#endif
