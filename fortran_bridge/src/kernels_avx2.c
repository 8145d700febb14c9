/* The kernels for AVX2 with FMA. The instruction set is named here and not by a flag of the build, since fpm has one
 * set of flags for all files. */
#include "model.h"

#if EMU_WITH_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define EMU_ISA_AVX2 1
#include "kernels.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
