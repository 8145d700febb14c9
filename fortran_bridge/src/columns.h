/* Symbolic evaluation of an ONNX graph, one column at a time. A tensor with samples is [ncol, n] (or [ncol, 1, ..., n],
 * or [ncol]): n columns, each a constant or "column `index` of slot `slot`, then these elementwise steps". A slot is
 * x or the result of a node of the draft: a layer, a sum of two results, ... . Rearranging columns (Concat, Slice)
 * costs nothing; elementwise operations become steps; masks with constant conditions resolve while loading, so that a
 * variable which needs no logarithm never meets one. What nobody reads in the end is dropped. */
#ifndef EMU_COLUMNS_H
#define EMU_COLUMNS_H

#include "error.h"
#include "model.h"
#include "onnx.h"

enum {
    MAX_WIDTH = 65536,
    MAX_LAYERS = 1024,
    MAX_DRAFT_NODES = 8192,
    MAX_ROW = 1 << 18,         /* columns of all slots that are needed at the same time */
    MAX_STEPS = 64,            /* in one column between two nodes */
    MAX_GROUPS = 256,          /* of one program */
    MAX_REPEATED = 1 << 22,    /* weights of layers that share one stored matrix */
    MAX_TRACKED = 1 << 22      /* columns of all tensors together, and steps: 4 million, at most 256 MB */
};
#define MAX_WEIGHTS ((size_t)1 << 30) /* packed float32 weights: 4 GiB */

typedef struct emu_step {
    const struct emu_step *before; /* NULL: the first */
    double a, b;
    int depth;
    uint8_t op;  /* emu_op */
    bool is_f32; /* the tensor was float32: may become a layer's activation */
} emu_step;

enum { SLOT_CONSTANT = -2, SLOT_INPUT = -1 };

typedef struct {
    int32_t slot;  /* SLOT_CONSTANT, SLOT_INPUT, or the draft node that makes it */
    int32_t index; /* column of the slot */
    double value;  /* of a constant */
    const emu_step *last;
} emu_column;

/* x < threshold or x > threshold, waiting for the Where that makes a limit of it */
typedef struct {
    emu_column column;
    double threshold;
} emu_comparison;

/* The parts of a layer normalisation that is written out (patterns.c); v is the tensor that it normalises. */
typedef enum {
    ROLE_NONE,
    ROLE_MEAN,         /* mean(v) over the columns */
    ROLE_CENTRED,      /* v - mean(v) */
    ROLE_SQUARED,      /* (v - mean(v))^2 */
    ROLE_VARIANCE,     /* mean((v - mean(v))^2) */
    ROLE_VARIANCE_EPS, /* variance + epsilon */
    ROLE_STD,          /* sqrt(variance + epsilon) */
    ROLE_INVERSE_STD,  /* gamma / sqrt(variance + epsilon); gamma NULL: 1 */
    ROLE_SCALED,       /* v * gamma / sqrt(variance + epsilon) */
    ROLE_SHIFT         /* beta + sign * mean(v) * gamma / sqrt(variance + epsilon); beta NULL: 0 */
} emu_role;

typedef struct emu_value {
    emu_text name;
    const onnx_tensor *tensor; /* a constant as stored; NULL: computed */
    int64_t n;                 /* columns; of a constant tensor only once it has been turned into columns */
    emu_column *columns;
    emu_comparison *comparisons; /* NULL unless this is the result of Less or Greater */
    bool less;
    int32_t type;    /* ONNX data type of the elements */
    int rank;        /* number of dimensions */
    bool is_rows;    /* has a dimension of samples, the first; otherwise it is constant */
    bool transposed; /* [n, ncol], or a constant read with its two dimensions exchanged */
    bool stacked;    /* [ncol * n, 1], sample after sample: good for a graph output only */
    bool ready;      /* the node that makes it has been evaluated */
    int uses;        /* by nodes and as graph output */
    int product;     /* draft node of the MatMul that made it, whose bias may follow; -1: another operator */
    emu_role role;
    bool negative;   /* sign of the mean in ROLE_MEAN and ROLE_SHIFT */
    double epsilon;
    struct emu_value *of, *gamma, *beta; /* of the role */
    int32_t copy;    /* place.c: number of its copy in the row, plus 1; 0: none */
} emu_value;

typedef struct {
    int32_t num_inputs, num_outputs;
    const onnx_tensor *weights;
    bool transposed;         /* weights are [num_outputs, num_inputs] */
    const onnx_tensor *bias; /* NULL: none; one value or num_outputs */
    emu_activation activation;
    double a, b; /* of the activation */
} emu_draft_layer;

typedef struct {
    emu_node_kind kind; /* NODE_DENSE, NODE_COMBINE or NODE_NORM */
    int32_t num_outputs;
    emu_value *inputs[2]; /* the columns it reads; [1] of NODE_COMBINE only */
    emu_draft_layer layer;
    emu_combine combine;
    double epsilon;
    bool live;
    bool has_activation; /* the first step of every column that reads this layer is its activation */
    bool undecided;      /* no reader has been seen */
    int32_t slot;        /* place.c: of its result */
} emu_draft_node;

typedef struct {
    emu_error *error;
    emu_arena *scratch; /* gone after loading */
    const emu_kernels *kernels;
    int precision; /* of the layers */
    size_t file_size;
    int num_inputs;
    int num_nodes, room;
    emu_draft_node *nodes;
    size_t tracked;
    /* the step made last, shared by neighbouring columns that undergo the same */
    const emu_step *recent;
    const onnx_node *node; /* being evaluated, for messages */
    void *program_work;    /* of program.c */
} emu_draft;

/* columns.c */
bool emu_refuse_node(emu_draft *draft, emu_status status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;
bool emu_draft_memory(emu_draft *draft); /* fails: out of memory */
bool emu_track(emu_draft *draft, size_t count); /* before taking memory for so many columns, steps or numbers */
emu_column *emu_new_columns(emu_draft *draft, int64_t n);
emu_value *emu_new_value(emu_draft *draft, int64_t n, const emu_value *like); /* rows, type and rank of `like` */
emu_draft_node *emu_new_node(emu_draft *draft, emu_node_kind kind, int64_t num_outputs);
bool emu_start_result(emu_draft *draft, emu_value *result, int64_t n, const emu_value *like);
bool emu_slot_result(emu_draft *draft, emu_value *result, const emu_value *like); /* all columns of the newest node */
bool emu_as_columns(emu_draft *draft, emu_value *value);
bool emu_push(emu_draft *draft, emu_column *column, emu_op op, double a, double b, bool is_f32);
bool emu_same_column(const emu_column *a, const emu_column *b);
bool emu_as_integers(emu_draft *draft, emu_value *value, const double **list, int64_t *count);
static inline bool emu_is_f32(const emu_value *value)
{
    return value->type == ONNX_FLOAT;
}
static inline const emu_column *emu_column_of(const emu_value *value, int64_t i)
{
    return &value->columns[value->n == 1 ? 0 : i];
}

/* operators.c: evaluate draft->node; inputs[i] is NULL where the node leaves one out (and up to the eighth) */
bool emu_evaluate_node(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_attribute(emu_draft *draft, const char *name, onnx_attribute *attribute);
bool emu_attribute_real(emu_draft *draft, const char *name, double *value); /* unchanged if there is none */
bool emu_attribute_int(emu_draft *draft, const char *name, int64_t *value);
bool emu_identity(emu_draft *draft, emu_value *input, emu_value *result);

/* elementwise.c */
typedef struct {
    emu_op op;
    double a, b;
} emu_stage;
typedef enum { ADD, SUB, MUL, DIV, MIN, MAX, POW } emu_binary_kind;
bool emu_map(emu_draft *draft, emu_value *input, const emu_stage *stages, int count, emu_value *result);
bool emu_map_columns(emu_draft *draft, emu_value *input, const emu_stage *stages, int count, emu_value *parameters,
                     emu_value *result);
bool emu_binary(emu_draft *draft, emu_value *a, emu_value *b, emu_binary_kind kind, emu_value *result);
bool emu_clip(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_less(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_greater(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_where(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_cast(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);

/* patterns.c: what exporters write out in several operators. `column` := a (kind) b, if *known says it is one step */
bool emu_join_columns(emu_draft *draft, emu_binary_kind kind, const emu_column *a, const emu_column *b, bool is_f32,
                      emu_column *column, bool *known);
bool emu_push_scale(emu_draft *draft, emu_column *column, double factor, bool is_f32);
bool emu_choose_softplus(const emu_comparison *comparison, const emu_column *yes, const emu_column *no);
bool emu_note_role(emu_draft *draft, emu_value *const *inputs, emu_value *result);

/* layers.c */
bool emu_gemm(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_matmul(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_add(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_reduce_mean(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_batch_normalization(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_layer_normalization(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_scaler(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_normalize(emu_draft *draft, emu_value *input, double epsilon, emu_value *result);

/* shapes.c */
bool emu_constant(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_constant_of_shape(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_shape(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_concat(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_slice(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_split(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_gather(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_gather_nd(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_extract_features(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_reshape(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_flatten(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_squeeze(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_unsqueeze(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);
bool emu_transpose(emu_draft *draft, emu_value *const *inputs, emu_value *const *results);

/* program.c */
typedef struct {
    const emu_column *column;
    int32_t source, target; /* absolute; source of x or of the row */
} emu_item;
void emu_settle_activations(emu_draft *draft, const emu_value *output);
/* Nothing is left to do on the way from its slot to another */
bool emu_is_plain(const emu_draft *draft, const emu_column *column);
bool emu_build_program(emu_draft *draft, const emu_item *items, int64_t n, bool feeds_row, emu_program *program,
                       emu_model *model);

/* plan.c: everything of the model but its metadata */
bool emu_plan(const onnx_model *onnx, emu_model *model, emu_error *error);

/* place.c: from the draft to the model */
bool emu_assemble(emu_draft *draft, const emu_value *output, emu_model *model);

/* slots.c: places for results in the row. A slot of `width` columns is needed from step `birth` to step `death`. */
typedef struct {
    int32_t width, birth, death;
    int32_t offset; /* out: its first column, a multiple of 16 */
} emu_slot;
int64_t emu_place_slots(emu_slot *slots, int32_t count, int32_t *order); /* columns in all; order: room for count */

/* pack.c */
bool emu_pack_layer(const emu_draft_layer *draft, emu_layer *layer, emu_model *model, emu_error *error);

#endif
