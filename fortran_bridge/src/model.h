/* The evaluated form of an emulator: what the loader builds once and the kernels walk for every call.
 *
 * x (float64, physical units) -> input program -> nodes, one after the other -> output program (float64) -> y.
 * Between the programs there is one row of columns per sample, of float32 (or float64, if the model was loaded so).
 * The planner gives each intermediate result some of these columns, its slot, for as long as it is needed: a plain
 * chain of layers uses two slots in turn. A slot starts at a multiple of 16 columns and has room for a multiple of 16.
 * A program is a list of groups; a group is a set of columns that undergo the same sequence of elementwise
 * operations, each with its own constants (normalisation and transforms differ by variable, their kind rarely).
 */
#ifndef EMU_MODEL_H
#define EMU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "strict_fp.h"

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
    OP_ROUND_F32,    /* to the nearest float32 */
    OP_CUBE,         /* t * t * t */
    OP_ERF,
    OP_LEAKY_RELU,   /* t < 0 ? a * t : t */
    OP_ELU,          /* t < 0 ? a * (e^t - 1) : b * t; SELU with a = alpha * gamma, b = gamma */
    OP_GELU,         /* t * (1 + erf(t / sqrt 2)) / 2 */
    OP_GELU_TANH,    /* t * sigmoid(2 sqrt(2/pi) (t + 0.044715 t^3)) */
    OP_SILU,         /* t * sigmoid(t) */
    OP_SOFTPLUS,     /* log(1 + e^t) */
    OP_HARD_SIGMOID, /* min(1, max(0, a * t + b)) */
    OP_HARD_SWISH,   /* t * min(1, max(0, a * t + b)) */
    OP_COUNT
} emu_op;

/* What a layer applies to its own sums, in the precision of the layers. The parameters are layer->a and b, with the
 * meaning that the emu_op of the same name gives them. */
typedef enum {
    ACT_NONE,
    ACT_RELU,
    ACT_SIGMOID,
    ACT_TANH,
    ACT_LEAKY_RELU,
    ACT_ELU,
    ACT_GELU,
    ACT_GELU_TANH,
    ACT_SILU,
    ACT_SOFTPLUS,
    ACT_HARD_SIGMOID,
    ACT_HARD_SWISH
} emu_activation;

/* The order in which a layer adds its products: the contract on which "same bits" rests. It depends on the shape of the
 * layer alone (emu_parts_of), so every kernel, for one sample or many, on any instruction set, gives the same bits.
 * Output j is the sum of `parts` partial sums. Partial sum s_q adds w_k x_k for k = q, q + parts, q + 2 parts, ...,
 * ascending, each by one fused multiply-add; s_0 starts from the bias, the others from +0.
 *   parts = 2 or 4: (s_0 + s_1), and so on: ((s_0 + s_1) + s_2) + s_3.
 *   parts = 16: t_q = ((s_q + s_{q+4}) + s_{q+8}) + s_{q+12} for q = 0..3, then ((t_0 + t_1) + t_2) + t_3.
 * All in the precision of the layers; the activation comes last. Several partial sums keep the multiply-add pipes busy
 * where a layer has few outputs, and halve the rounding error of long sums where it has many; more would cost batches
 * additions. */
enum {
    EMU_PANEL = 16, /* outputs in a panel: one AVX-512 vector of float32 */
    EMU_GROUP = 64, /* outputs in a group of panels side by side */
    EMU_NARROW = 4  /* layers with at most so many outputs have 16 parts and a group of 4 outputs */
};

static inline int emu_parts_of(int32_t num_outputs)
{
    return num_outputs <= EMU_NARROW ? 16 : num_outputs <= 32 ? 4 : 2;
}

typedef struct {
    int num_ops;
    int32_t num_columns;
    int32_t padded; /* num_columns rounded up to 8; the last column's constants are repeated */
    const uint8_t *ops;
    bool adjacent;             /* target[i] = target[0] + i */
    bool source_adjacent;      /* source[i] = source[0] + i */
    const int32_t *source;     /* [padded] column read (of x, or of the row); the last one is repeated */
    const int32_t *target;     /* [num_columns] column written (of the row, or of y) */
    const double *constants;   /* [num_ops][2][padded] */
} emu_group;

typedef struct {
    int num_groups; /* 0: identity */
    const emu_group *groups;
} emu_program;

typedef struct {
    int32_t num_inputs, num_outputs;
    int parts; /* emu_parts_of(num_outputs) */
    emu_activation activation;
    float a, b; /* of the activation */
    /* float or double, by the model's precision. Weights: for each group of 64 outputs [num_inputs][outputs of the group,
     * rounded up to 16], zero padded; narrow: for each 16 inputs [4][16], padded with -0 */
    const void *weights;
    const void *bias; /* rounded up to 16, zero padded */
} emu_layer;

typedef enum {
    NODE_DENSE,   /* to = activation(layer(from)) */
    NODE_PROGRAM, /* the program's columns, from and to anywhere in the row */
    NODE_COMBINE, /* to[j] = from[j] combine from2[j], in the precision of the layers */
    NODE_NORM     /* to[j] = (from[j] - mean) / sqrt(variance + epsilon), both over the num_columns columns, summed in
                     float64: column j is added to partial sum j mod 8, j ascending, and the eight are folded as
                     s_q += s_{q+4}, then 2, 1; the variance is the mean of the squared differences */
} emu_node_kind;
typedef enum { COMBINE_ADD, COMBINE_SUB, COMBINE_MUL, COMBINE_DIV } emu_combine;

typedef struct {
    emu_node_kind kind;
    emu_combine combine;
    int32_t from, from2, to; /* first columns of the slots */
    int32_t num_columns;     /* of NODE_COMBINE and NODE_NORM */
    double epsilon;
    const emu_layer *layer;
    emu_program program;
} emu_node;

struct emu_kernels;

enum { EMU_TILE_TABLE = 97 }; /* tile choices for 0..96 samples left */

struct emu_model {
    const struct emu_kernels *kernels;
    int precision; /* of the layers: 32 or 64 bits */
    int32_t num_inputs, num_outputs;
    int num_layers, num_nodes;
    const emu_layer *layers; /* of the NODE_DENSE, in order */
    const emu_node *nodes;   /* in order of evaluation */
    emu_program input;       /* x -> row; at least one group */
    emu_program output;      /* row -> y; at least one group */
    int32_t num_columns;     /* of the row: all slots, a multiple of 16 */
    int64_t num_parameters;
    uint8_t tiles[EMU_TILE_TABLE]; /* index into kernels->tiles, for the precision, to take when so many samples are left */

    /* Another library that evaluates the model, see backend.h; NULL: the kernels above, which then are all set */
    const struct emu_backend *backend;
    void *backend_state;

    /* from the metadata; see metadata.c */
    const char **input_names, **input_units, **output_names, **output_units;
    const double *input_min, *input_max, *output_min, *output_max; /* NaN where unknown */
    /* Of the inputs, for the guards: [2][num_inputs], minima and maxima, infinite where unknown; rounded to float32 */
    const double *limits_f64;
    const float *limits_f32;
    int64_t num_checks;
    const double *check_inputs, *check_outputs; /* [num_checks][inputs], [num_checks][outputs] */
    double check_tolerance;
    int num_metadata;
    const char **metadata_keys, **metadata_values;

    emu_arena arena; /* everything above lives here */
};

/* One instruction set's kernels; the types are those of kernels.h */
typedef struct emu_kernels {
    const char *name;
    double (*apply)(emu_op op, double a, double b, double t);
    const struct emu_elementwise *elementwise;
    void (*wide)(emu_op op, double *t, int n); /* emu_elementwise_block's */
    int num_tiles[2]; /* for layers in float32, in float64 */
    const struct emu_tile *tiles[2]; /* the largest batched tile first */
} emu_kernels;

enum { EMU_MAX_LANES = 16, EMU_MAX_BLOCK = 3 * EMU_MAX_LANES };

/* select.c: the kernels to use. isa NULL: what LIBEMULATOR_ISA names, else the fastest. NULL (with a message) if either
 * asks for what is not there. */
struct emu_error;
const emu_kernels *emu_select_kernels(const char *isa, struct emu_error *error);
void emu_choose_tiles(emu_model *model);

/* Kernels that this compiler can make for this processor; which of them runs is found out at run time. */
#if defined(__x86_64__) && (defined(__clang__) || defined(__GNUC__)) && !defined(__NVCOMPILER)
#define EMU_WITH_X86 1
extern const emu_kernels emu_kernels_avx512;
extern const emu_kernels emu_kernels_avx2;
#endif
#if defined(__aarch64__) && (defined(__clang__) || defined(__GNUC__))
#define EMU_WITH_NEON 1
extern const emu_kernels emu_kernels_neon;
#endif
extern const emu_kernels emu_kernels_portable;

#endif
