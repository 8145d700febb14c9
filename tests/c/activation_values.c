/* The functions of one instruction set's kernels, laid open for test_activations.c: EMU_KERNEL_FILE is the file that makes
 * them, EMU_VALUES the name of what is defined here. */
#include EMU_KERNEL_FILE

#include "activation_values.h"

static void activation_values(int activation, float a, float b, int n, const float *x, float *y)
{
    const emu_layer layer = {.activation = (emu_activation)activation, .a = a, .b = b};
    for (int i = 0; i < n; i++) {
        float lanes[VW];
        vf_store(lanes, activated_single(&layer, vf_set(x[i])));
        y[i] = lanes[0];
    }
}

static double operation_value(int op, double a, double b, double x)
{
    return ISA(emu_kernels).apply((emu_op)op, a, b, x);
}

const emu_values EMU_VALUES = {ISA_NAME, activation_values, operation_value};
