/* The kernels, compiled once per instruction set: kernels_avx512.c, kernels_avx2.c and kernels_neon.c include this file,
 * and compiled as it is it gives the portable ones. Which one runs does not change a bit of any result: the order of
 * every sum is fixed (model.h), multiply-adds are fused everywhere, and nothing else is contracted. So those for AVX-512
 * are but the layers in float32, log and exp; the others are taken from AVX2. */
#include "strict_fp.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#if !defined(EMU_ISA_AVX512) && !defined(EMU_ISA_AVX2) && !defined(EMU_ISA_NEON)
#define EMU_ISA_PORTABLE 1
#endif

#define INLINE static inline __attribute__((always_inline))
#define MATH static __attribute__((noinline, unused)) /* one copy: a call costs little beside what it calls */
#define ALIGNED __attribute__((aligned(64)))
#if defined(EMU_ISA_PORTABLE) && (EMU_WITH_X86 || EMU_WITH_NEON)
#define SMALL 1 /* a fallback beside faster kernels: without those for a few samples */
#else
#define SMALL 0
#endif
#define COLD static __attribute__((noinline, cold, unused))
#if SMALL
#define UNROLL
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("Os")
#endif
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

#if defined(EMU_ISA_AVX512)
#include "simd_avx512.h"
#define ISA_NAME "avx512"
#define ISA2(x) x##_avx512
#elif defined(EMU_ISA_AVX2)
#include "simd_avx2.h"
#define ISA2(x) x##_avx2
#define ISA_NAME "avx2"
#elif defined(EMU_ISA_NEON)
#include "simd_vector16.h"
#define ISA2(x) x##_neon
#define ISA_NAME "neon"
#else
#include "simd_vector16.h"
#define ISA2(x) x##_portable
#define ISA_NAME "portable"
#endif
#define ISA(x) ISA2(x)

#if defined(EMU_ISA_AVX512) || defined(EMU_ISA_NEON)
enum { MANY_REGISTERS = 1 }; /* 32: two parts of a tile's sums at once */
#else
enum { MANY_REGISTERS = 0 }; /* 16: one part after the other */
#endif

/* Keeps the compiler from loading the inputs of the second part before it has used those of the first: registers */
#define KEEP_ORDER __asm__ volatile("" ::: "memory")
/* Keeps it from replacing one pointer that advances by a register for each place it has been at */
#define ADVANCE(pointer, by)                                                                                 \
    do {                                                                                                     \
        (pointer) += (by);                                                                                   \
        __asm__("" : "+r"(pointer));                                                                         \
    } while (0)
#include "kernel_math.h"
#if !defined(EMU_ISA_AVX512)
#include "kernel_program.h"
#endif
#include "kernel_activation.h"

/* Defined by a test, to see that it finds what it is there for: a layer whose order depends on the size of the batch */
#if defined(EMU_BREAK_SAME_BITS)
#define BATCH_PARTS(layer) (6 - (layer)->parts)
#else
#define BATCH_PARTS(layer) ((layer)->parts)
#endif

/* Tiles that fit the registers and the space a library may take. BATCH_n: outputs at a time for n vectors of samples, with
 * BATCH_G parts. ONE_2 and ONE_4: panels at a time for one sample, by the parts of a sum. FEW_LOW_V panels for two to FEW_LOW
 * samples, FEW_HIGH_V for more, up to FEW_HIGH, with FEW_G parts. NARROW: samples of a narrow layer. 0: not made. */
#define REAL float
#define VEC vf
#define LANES VW
#define OP(x) vf_##x
#define LOCAL(x) x##_single
#if defined(EMU_ISA_AVX512)
#define BATCH_G 2
#define BATCH_1 8
#define BATCH_2 4
#define BATCH_3 4
#define ONE_2 4
#define ONE_4 2
#define FEW_G 2
#define NARROW 4
#define FEW_LOW 3
#define FEW_LOW_V 4
#define FEW_HIGH 14
#define FEW_HIGH_V 1
#elif defined(EMU_ISA_AVX2)
#define BATCH_G 1
#define BATCH_1 8
#define BATCH_2 4
#define BATCH_3 4
#define ONE_2 2
#define ONE_4 1
#define FEW_G 1
#define NARROW 2
#define FEW_LOW 2
#define FEW_LOW_V 2
#define FEW_HIGH 6
#define FEW_HIGH_V 1
#elif defined(EMU_ISA_NEON)
#define BATCH_G 2
#define BATCH_1 8
#define BATCH_2 4
#define BATCH_3 0
#define ONE_2 2
#define ONE_4 1
#define FEW_G 1
#define NARROW 2
#define FEW_LOW 4
#define FEW_LOW_V 1
#define FEW_HIGH 0
#else
#define BATCH_G 1
#define BATCH_1 4
#define BATCH_2 0
#define BATCH_3 0
#define ONE_2 (!SMALL)
#define ONE_4 (!SMALL)
#define FEW_G 1
#define NARROW 1
#define FEW_LOW 0
#define FEW_HIGH 0
#endif
#include "kernel_dense.h"

#undef REAL
#undef VEC
#undef LANES
#undef OP
#undef LOCAL
#undef BATCH_1
#undef BATCH_2
#undef BATCH_3
#undef ONE_2
#undef ONE_4
#undef NARROW
#undef FEW_LOW
#undef FEW_HIGH
#if !defined(EMU_ISA_AVX512)
#define REAL double
#define VEC vd
#define LANES VD
#define OP(x) vd_##x
#define LOCAL(x) x##_double
#if SMALL
#define BATCH_1 4
#else
#define BATCH_1 8
#endif
#define BATCH_2 0
#define BATCH_3 0
#define ONE_2 (!SMALL)
#define ONE_4 1
#define NARROW 1
#define FEW_LOW 0
#define FEW_HIGH 0
#include "kernel_dense.h"
#endif

/* ---- what there is of all that ---- */

#if defined(EMU_ISA_AVX512)
static void wide(emu_op op, double *t, int n)
{
    for (int i = 0; i < n; i += VD)
        vd_store(t + i, op == OP_LOG ? vd_log(vd_load(t + i)) : vd_exp(vd_load(t + i)));
}
#else
#if SMALL
#define SAMPLE_OR_NULL NULL
#else
#define SAMPLE_OR_NULL program_sample
#endif
const emu_elementwise ISA(emu_elementwise) = {VD, program_block, SAMPLE_OR_NULL, norm};
#endif

#define MINE &ISA(emu_dense_single)
#if !defined(EMU_ISA_AVX512)
#define MINE_64 &ISA(emu_dense_double)
#endif
static const emu_tile tiles_single[] = {
#if defined(EMU_ISA_AVX512)
    {48, true, MINE}, {32, true, MINE}, {16, true, MINE}, {14, false, MINE}, {13, false, MINE}, {12, false, MINE},
    {11, false, MINE}, {10, false, MINE}, {9, false, MINE}, {8, false, MINE}, {7, false, MINE}, {6, false, MINE},
    {5, false, MINE}, {4, false, MINE}, {3, false, MINE}, {2, false, MINE}, {1, false, MINE},
#elif defined(EMU_ISA_AVX2)
    {24, true, MINE}, {16, true, MINE}, {8, true, MINE}, {6, false, MINE}, {5, false, MINE}, {4, false, MINE},
    {3, false, MINE}, {2, false, MINE}, {1, false, MINE},
#elif defined(EMU_ISA_NEON)
    {8, true, MINE}, {4, true, MINE}, {4, false, MINE}, {2, false, MINE}, {1, false, MINE},
#else
    {VW, true, MINE},
#if !SMALL
    {1, false, MINE},
#endif
#endif
};

static const emu_tile tiles_double[] = {
#if defined(EMU_ISA_AVX512)
    {4, true, &emu_dense_double_avx2}, {1, false, &emu_dense_double_avx2},
#else
    {VD, true, MINE_64},
#if !SMALL
    {1, false, MINE_64},
#endif
#endif
};

const emu_kernels ISA(emu_kernels) = {
    .name = ISA_NAME,
#if defined(EMU_ISA_AVX512)
    .apply = emu_apply_avx2,
    .elementwise = &emu_elementwise_avx2,
    .wide = wide,
#else
    .apply = apply_scalar,
    .elementwise = &ISA(emu_elementwise),
#endif
    .num_tiles = {sizeof tiles_single / sizeof tiles_single[0], sizeof tiles_double / sizeof tiles_double[0]},
    .tiles = {tiles_single, tiles_double},
};
