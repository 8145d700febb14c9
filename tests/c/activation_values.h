/* See activation_values.c */
#ifndef ACTIVATION_VALUES_H
#define ACTIVATION_VALUES_H

typedef struct {
    const char *isa;
    void (*activations)(int activation, float a, float b, int n, const float *x, float *y);
    double (*operation)(int op, double a, double b, double x);
} emu_values;

extern const emu_values emu_values_portable, emu_values_avx2, emu_values_avx512, emu_values_neon;

#endif
