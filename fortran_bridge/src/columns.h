/* Symbolic evaluation of an ONNX graph, one column at a time. Every tensor of the graph is [ncol, n]: n columns,
 * each either a constant or "column `source` of layer `layer`, then these elementwise steps". Masks with constant
 * conditions resolve while loading, so that a variable which needs no logarithm never meets one. */
#ifndef EMU_COLUMNS_H
#define EMU_COLUMNS_H

#include "error.h"
#include "model.h"
#include "onnx.h"

enum {
    MAX_WIDTH = 65536,
    MAX_LAYERS = 1024,
    MAX_STEPS = 64,            /* in one column between two layers */
    MAX_GROUPS = 256,          /* of one program */
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

typedef struct {
    int32_t source; /* -1: a constant */
    double value;   /* of a constant */
    const emu_step *last;
} emu_column;

enum { LAYER_NONE = -2, LAYER_INPUT = -1 };

/* x < threshold or x > threshold, waiting for the Where that makes a limit of it */
typedef struct {
    emu_column column;
    double threshold;
} emu_comparison;

typedef struct {
    emu_text name;
    const onnx_tensor *tensor; /* a constant as stored; NULL: computed */
    int64_t n;                 /* columns; of a constant tensor only once it has been turned into columns */
    emu_column *columns;
    emu_comparison *comparisons; /* NULL unless this is the result of Less or Greater */
    bool less;
    bool is_f32;
    int layer; /* that the columns come from: LAYER_INPUT, 0, ..., or LAYER_NONE if all are constant */
    int uses;
    bool is_product; /* of MatMul: its bias may follow */
    bool superseded; /* a product that got its bias later: nobody may use it any more */
} emu_value;

typedef struct {
    int32_t num_inputs, num_outputs;
    const onnx_tensor *weights;
    bool transposed; /* weights are [num_outputs, num_inputs] */
    const onnx_tensor *bias;
    emu_activation activation;
    bool has_activation;    /* the first step of every column that reads this layer is its activation */
    const emu_value *input; /* the columns it reads */
} emu_draft_layer;

typedef struct {
    emu_error *error;
    emu_arena *scratch; /* gone after loading */
    const emu_kernels *kernels;
    int num_inputs;
    int num_layers;
    emu_draft_layer *layers;
    size_t tracked;
    /* the step made last, shared by neighbouring columns that undergo the same */
    const emu_step *recent;
    const onnx_node *node; /* being evaluated, for messages */
    void *program_work;    /* of program.c */
} emu_draft;

/* columns.c */
bool emu_refuse_node(emu_draft *draft, emu_status status, const char *format, ...);
emu_column *emu_new_columns(emu_draft *draft, int64_t n);
bool emu_as_columns(emu_draft *draft, emu_value *value);
bool emu_push(emu_draft *draft, emu_column *column, emu_op op, double a, double b, bool is_f32);
bool emu_same_column(const emu_column *a, const emu_column *b);

/* operators.c: evaluate draft->node; inputs[i] is NULL where the node leaves one out */
bool emu_evaluate_node(emu_draft *draft, emu_value *const *inputs, emu_value *result);

/* program.c */
bool emu_settle_activation(emu_draft *draft, const emu_value *reader);
bool emu_build_program(emu_draft *draft, const emu_value *value, bool feeds_layer, emu_program *program,
                       emu_model *model);

/* plan.c: everything of the model but its metadata */
bool emu_plan(const onnx_model *onnx, emu_model *model, emu_error *error);

/* pack.c */
bool emu_pack_layer(const emu_draft_layer *draft, emu_layer *layer, emu_model *model, emu_error *error);

#endif
