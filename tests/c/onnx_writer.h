/* Random emulators, their bytes as ONNX (the graph that the exporter writes), and their values in float64. */
#ifndef ONNX_WRITER_H
#define ONNX_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "libemulator.h"

typedef struct {
    unsigned char *data;
    size_t size, capacity;
} bytes;

typedef enum { NO_TRANSFORM, LOG, SQRT, LOGIT } transform; /* of an input; of an output: its inverse */

enum { MAX_DEPTH = 24 };

typedef struct {
    int depth;               /* layers */
    int widths[MAX_DEPTH + 1];
    char activation[12];     /* "Relu", "Sigmoid", "Tanh" or "" */
    char output_activation[12];
    float *weights[MAX_DEPTH]; /* [out][in] */
    float *biases[MAX_DEPTH];
    transform *inputs, *outputs;
    double *mean, *std, *low, *high; /* of the inputs */
    int num_checks;                  /* samples stored in the file */
    int names;                       /* write names, units and ranges */
} net;

/* 64 random bits; numbers in [0, 1) */
uint64_t random_bits(uint64_t *state);
double uniform(uint64_t *state);

/* Weights of such a size that activations keep their spread. transforms: 0 none, 1 a random mix. */
net random_net(uint64_t seed, int depth, const int *widths, const char *activation, const char *output_activation,
               int transforms);
void free_net(net *n);
/* num samples within the ranges, sample-major */
void random_inputs(const net *n, uint64_t seed, int num, double *x);
void reference(const net *n, const double *x, double *y); /* one sample */

bytes write_model(const net *n);
/* A network that is no chain, 6 inputs and 9 outputs (the last six are the inputs): a skip connection, a layer
 * normalisation, branches joined and split, a gate, quotients */
bytes write_branched_model(void);

/* The pieces, for models of another shape */
void put_varint(bytes *to, uint64_t value);
void put_number(bytes *to, int field, uint64_t value);
void put_bytes(bytes *to, int field, const void *data, size_t size);
void put_text(bytes *to, int field, const char *text);
void put_message(bytes *to, int field, bytes *message); /* and frees it */
void put_tensor(bytes *graph, const char *name, int type, int rank, const int64_t *dims, const void *data, size_t size);
/* names separated by blanks; one attribute at most */
void put_node(bytes *graph, const char *op, const char *inputs, const char *output, const char *attribute,
              int64_t value);
void put_value_info(bytes *graph, int field, const char *name, int type, int64_t width);
void put_metadata(bytes *model, const char *key, const char *text);
bytes finish_model(bytes *graph); /* a ModelProto with opset 17 */

/* Load or end the program with the message */
emu_model *load_net(const net *n);
emu_model *load_or_die(const bytes *model);

/* The instruction sets of this machine; LIBEMULATOR_ISA is left unset */
int available_isas(const char *names[3]);

#endif
