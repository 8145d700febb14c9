/* The parts of an ONNX file that libemulator looks at, still pointing into the file's bytes. */
#ifndef EMU_ONNX_H
#define EMU_ONNX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arena.h"
#include "error.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "libemulator is for little-endian machines: on others (tried: s390x) a sample's bits depend on its batch"
#endif

/* TensorProto.DataType */
enum { ONNX_FLOAT = 1, ONNX_INT32 = 6, ONNX_INT64 = 7, ONNX_BOOL = 9, ONNX_DOUBLE = 11 };

/* Limits of the reader: generous for any multilayer perceptron, small enough that no file costs more memory or
 * time than its size justifies. */
enum {
    ONNX_MAX_NODES = 20000,
    ONNX_MAX_TENSORS = 20000,
    ONNX_MAX_METADATA = 1000,
    ONNX_MAX_RANK = 8,
    ONNX_MAX_NODE_NAMES = 4096 /* inputs or outputs of one node (Concat, Split) */
};
#define ONNX_MAX_FILE ((size_t)1 << 31) /* protobuf's own limit is 2 GiB */

typedef struct {
    emu_text name;
    int32_t type;
    int rank;
    int64_t dims[ONNX_MAX_RANK];
    size_t count;        /* product of dims */
    const uint8_t *data; /* count elements, little-endian, unaligned */
} onnx_tensor;

typedef struct {
    emu_text name, op_type, domain;
    int num_inputs, num_outputs;
    emu_text *inputs, *outputs; /* size 0: left out */
    emu_text attributes;        /* the whole message, scanned again for each attribute asked for */
} onnx_node;

typedef struct {
    emu_text name;
    int32_t type;
    int rank; /* -1: not stated */
    int64_t dims[ONNX_MAX_RANK]; /* -1: symbolic or not stated */
} onnx_value;

typedef struct {
    emu_text key, value;
} onnx_metadata;

typedef struct {
    size_t size;   /* of the file in bytes */
    int64_t opset; /* of the default domain */
    int num_nodes, num_tensors, num_inputs, num_outputs, num_metadata;
    onnx_node *nodes;
    onnx_tensor *tensors; /* initializers */
    onnx_value *inputs, *outputs;
    onnx_metadata *metadata;
    emu_text graph; /* the whole message */
} onnx_model;

/* Read the file's structure; what is returned points into `bytes` and into the arena. */
bool emu_onnx_read(emu_text bytes, onnx_model *model, emu_arena *arena, emu_error *error);

/* Its outermost level alone: size, opset, metadata, graph. Of graphs that another library evaluates, no more is read. */
bool emu_onnx_read_metadata(emu_text bytes, onnx_model *model, emu_arena *arena, emu_error *error);

/* Element i as a number. */
double emu_onnx_value_at(const onnx_tensor *tensor, size_t i);

/* The same of an ONNX_FLOAT. A signalling NaN becomes a quiet one, which a host's traps never meet. */
static inline float emu_onnx_float_at(const onnx_tensor *tensor, size_t i)
{
    uint32_t bits;
    memcpy(&bits, tensor->data + 4 * i, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        bits |= 0x00400000;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

typedef enum {
    ONNX_ABSENT,
    ONNX_INT,
    ONNX_REAL,
    ONNX_TEXT,
    ONNX_TENSOR,
    ONNX_REALS,
    ONNX_INTS,
    ONNX_OTHER
} onnx_attribute_kind;
typedef struct {
    onnx_attribute_kind kind;
    int64_t integer;
    double real;
    emu_text text;
    onnx_tensor tensor; /* ONNX_TENSOR; ONNX_REALS and ONNX_INTS as one of rank 1 */
} onnx_attribute;

/* The attribute of that name; kind ONNX_ABSENT if there is none. */
bool emu_onnx_find_attribute(const onnx_node *node, const char *name, onnx_attribute *attribute, emu_arena *arena,
                             emu_error *error);

bool emu_text_is(emu_text text, const char *literal);
bool emu_text_equal(emu_text a, emu_text b);

#endif
