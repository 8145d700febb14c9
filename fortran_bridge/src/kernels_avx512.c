/* The kernels for AVX-512. The instruction set is named here and not by a flag of the build, since fpm has one
 * set of flags for all files. */
#include "model.h"

#if EMU_WITH_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define EMU_ISA_AVX512 1
#include "kernels.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
