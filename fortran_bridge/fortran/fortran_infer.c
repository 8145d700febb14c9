/* What the infer procedures of libemulator.F90 have in common: do the arrays fit the model, and the call. Private to
 * libemulator.F90. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "libemulator.h"

enum { COLUMNS_FIRST = 1, INPUTS_FIRST = 2 }; /* as in libemulator.F90 */

/* type(emu_call) of libemulator_c.F90 */
typedef struct {
    int64_t x_shape[2], y_shape[2];
    int64_t ncol;       /* columns to evaluate */
    int64_t num_inputs; /* set by emu_fortran_check */
    int32_t all_columns; /* 1: ncol was not given, and is set by emu_fortran_check */
    int32_t layout;
    int32_t value_size; /* 8 or 4 bytes */
    int32_t unused;
    /* the element (1, 1) and its neighbours (2, 1) and (1, 2), or itself where there is none; NULL: contiguous arrays,
     * which come as arguments of their own */
    const void *x[3];
    void *y[3];
} emu_call;

emu_model *emu_fortran_model(void *pointer, int64_t generation);
void emu_fortran_check(void *pointer, int64_t generation, emu_call *call, int *code, char *message, size_t size);
void emu_fortran_infer(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, int *code,
                       char *message, size_t size);
void emu_fortran_infer_f64(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, const double *x,
                           double *y, int *code, char *message, size_t size);
void emu_fortran_infer_f32(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, const float *x,
                           float *y, int *code, char *message, size_t size);

/* EMU_OK, with call->ncol and call->num_inputs set, or EMU_ERR_ARGUMENT with a message */
void emu_fortran_check(void *pointer, int64_t generation, emu_call *call, int *code, char *message, size_t size)
{
    const emu_model *m = emu_fortran_model(pointer, generation);
    const long long num_x = (long long)emu_num_inputs(m), num_y = (long long)emu_num_outputs(m);
    const int c = call->layout == INPUTS_FIRST, f = 1 - c; /* the dimensions of columns and of features */
    const long long x_columns = (long long)call->x_shape[c], y_columns = (long long)call->y_shape[c];
    const long long x_features = (long long)call->x_shape[f], y_features = (long long)call->y_shape[f];
    call->num_inputs = num_x;
    *code = EMU_ERR_ARGUMENT;
    if (m == NULL) {
        snprintf(message, size, "infer: no model is loaded");
    } else if (call->layout != COLUMNS_FIRST && call->layout != INPUTS_FIRST) {
        snprintf(message, size, "infer: layout is %d, expected columns_first or inputs_first", (int)call->layout);
    } else if (x_features != num_x) {
        snprintf(message, size,
                 "infer: dimension %d of x is %lld, the model has %lld inputs; pass x(columns, inputs), or "
                 "layout=inputs_first with x(inputs, columns)",
                 f + 1, x_features, num_x);
    } else if (y_features != num_y) {
        snprintf(message, size,
                 "infer: dimension %d of y is %lld, the model has %lld outputs; pass y(columns, outputs), or "
                 "layout=inputs_first with y(outputs, columns)",
                 f + 1, y_features, num_y);
    } else if (call->all_columns && x_columns != y_columns) {
        snprintf(message, size, "infer: x has %lld columns and y %lld; give both the same extent, or pass ncol", x_columns,
                 y_columns);
    } else if (!call->all_columns && (call->ncol < 0 || call->ncol > x_columns || call->ncol > y_columns)) {
        snprintf(message, size, "infer: ncol is %lld, but x has %lld columns and y %lld", (long long)call->ncol, x_columns,
                 y_columns);
    } else {
        if (call->all_columns)
            call->ncol = x_columns;
        *code = EMU_OK;
    }
}

/* Elements from the first to its neighbour; any number but 0 where there is none */
static int64_t stride(const void *first, const void *neighbour, int32_t value_size)
{
    const intptr_t bytes = (intptr_t)neighbour - (intptr_t)first;
    return bytes == 0 ? 1 : (int64_t)(bytes / value_size);
}

static void infer(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, const void *x,
                  const int64_t *x_strides, void *y, const int64_t *y_strides, int *code, char *message, size_t size)
{
    const emu_model *m = emu_fortran_model(pointer, generation);
    const int c = call->layout == INPUTS_FIRST, f = 1 - c;
    if (guard->size == 0) /* none was given */
        guard = NULL;
    const emu_status status =
        call->ncol == 0 ? EMU_OK
        : call->value_size == sizeof(double)
            ? emu_infer_guarded_f64(m, call->ncol, x, x_strides[c], x_strides[f], y, y_strides[c], y_strides[f], NULL, 0,
                                    guard)
            : emu_infer_guarded_f32(m, call->ncol, x, x_strides[c], x_strides[f], y, y_strides[c], y_strides[f], NULL, 0,
                                    guard);
    *code = status;
    if (status != EMU_OK)
        snprintf(message, size, "infer: %s", emu_status_name(status));
}

/* Arrays and sections with any strides */
void emu_fortran_infer(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, int *code,
                       char *message, size_t size)
{
    int64_t x_strides[2], y_strides[2];
    for (int d = 0; d < 2; d++) {
        x_strides[d] = stride(call->x[0], call->x[1 + d], call->value_size);
        y_strides[d] = stride(call->y[0], call->y[1 + d], call->value_size);
    }
    infer(pointer, generation, call, guard, call->x[0], x_strides, call->y[0], y_strides, code, message, size);
}

/* Contiguous arrays */
void emu_fortran_infer_f64(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, const double *x,
                           double *y, int *code, char *message, size_t size)
{
    infer(pointer, generation, call, guard, x, (int64_t[]){1, call->x_shape[0]}, y, (int64_t[]){1, call->y_shape[0]}, code,
          message, size);
}

void emu_fortran_infer_f32(void *pointer, int64_t generation, const emu_call *call, emu_guard *guard, const float *x,
                           float *y, int *code, char *message, size_t size)
{
    infer(pointer, generation, call, guard, x, (int64_t[]){1, call->x_shape[0]}, y, (int64_t[]){1, call->y_shape[0]}, code,
          message, size);
}
