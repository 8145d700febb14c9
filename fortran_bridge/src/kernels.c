/* The kernels, compiled once per instruction set: kernels_avx512.c, kernels_avx2.c and kernels_neon.c include this file,
 * and compiled as it is it gives the portable ones. Which one runs does not change a bit of any result: the order of
 * every sum is fixed (model.h), multiply-adds are fused everywhere, and nothing else is contracted. */
#include "strict_fp.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "model.h"

#if !defined(EMU_ISA_AVX512) && !defined(EMU_ISA_AVX2) && !defined(EMU_ISA_NEON)
#define EMU_ISA_PORTABLE 1
#endif

#define INLINE static inline __attribute__((always_inline))
#define MATH static __attribute__((noinline)) /* one copy: a call costs little beside what it calls */
#define ALIGNED __attribute__((aligned(64)))
#if defined(EMU_ISA_PORTABLE) && (EMU_WITH_X86 || EMU_WITH_NEON)
#define SMALL 1 /* a fallback beside faster kernels: without those for a few samples */
#else
#define SMALL 0
#endif
#define COLD static __attribute__((noinline, cold))
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
#define ISA(x) x##_avx512
#define ISA_NAME "avx512"
#elif defined(EMU_ISA_AVX2)
#include "simd_avx2.h"
#define ISA(x) x##_avx2
#define ISA_NAME "avx2"
#elif defined(EMU_ISA_NEON)
#include "simd_vector16.h"
#define ISA(x) x##_neon
#define ISA_NAME "neon"
#else
#include "simd_vector16.h"
#define ISA(x) x##_portable
#define ISA_NAME "portable"
#endif

#if defined(EMU_ISA_AVX512) || defined(EMU_ISA_NEON)
enum { MANY_REGISTERS = 1 }; /* 32: two parts of a tile's sums at once */
#else
enum { MANY_REGISTERS = 0 }; /* 16: one part after the other */
#endif

/* Keeps the compiler from loading the inputs of the second part before it has used those of the first: registers */
#define KEEP_ORDER __asm__ volatile("" ::: "memory")
#include "kernel_math.h"
#include "kernel_program.h"
#include "kernel_activation.h"

/* Defined by a test, to see that it finds what it is there for: a layer whose order depends on the size of the batch */
#if defined(EMU_BREAK_SAME_BITS)
#define BATCH_PARTS(layer) (6 - (layer)->parts)
#else
#define BATCH_PARTS(layer) ((layer)->parts)
#endif

/* Tiles that fit the registers and the space a library may take. BATCH_n: outputs at a time for n vectors of samples.
 * Panels at a time: ONE_2 and ONE_4 for one sample, by the parts of a sum; FEW_n for n samples. 0: not made. */
#define REAL float
#define VEC vf
#define LANES VW
#define OP(x) vf_##x
#define LOCAL(x) x##_single
#if defined(EMU_ISA_AVX512)
#define BATCH_1 16
#define BATCH_2 8
#define BATCH_3 0
#define ONE_2 4
#define ONE_4 2
#define FEW_1 1
#define FEW_2 4
#define FEW_3 4
#define FEW_4 2
#define FEW_6 2
#define FEW_8 2
#elif defined(EMU_ISA_AVX2)
#define BATCH_1 8
#define BATCH_2 4
#define BATCH_3 4
#define ONE_2 2
#define ONE_4 1
#define FEW_1 1
#define FEW_2 2
#define FEW_3 0
#define FEW_4 1
#define FEW_6 0
#define FEW_8 0
#elif defined(EMU_ISA_NEON)
#define BATCH_1 16
#define BATCH_2 8
#define BATCH_3 0
#define ONE_2 2
#define ONE_4 1
#define FEW_1 1
#define FEW_2 1
#define FEW_3 0
#define FEW_4 1
#define FEW_6 0
#define FEW_8 0
#else
#define BATCH_1 4
#define BATCH_2 0
#define BATCH_3 0
#define ONE_2 1
#define ONE_4 1
#define FEW_1 (!SMALL)
#define FEW_2 0
#define FEW_3 0
#define FEW_4 0
#define FEW_6 0
#define FEW_8 0
#endif
#include "kernel_dense.h"
#include "kernel_run.h"

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
#undef FEW_2
#undef FEW_3
#undef FEW_4
#undef FEW_1
#undef FEW_6
#undef FEW_8
#define REAL double
#define VEC vd
#define LANES VD
#define OP(x) vd_##x
#define LOCAL(x) x##_double
#if defined(EMU_ISA_AVX512)
#define BATCH_1 16
#define ONE_2 2
#elif defined(EMU_ISA_AVX2) || defined(EMU_ISA_NEON)
#define BATCH_1 8
#define ONE_2 1
#else
#define BATCH_1 4
#define ONE_2 1
#endif
#define BATCH_2 0
#define BATCH_3 0
#define ONE_4 1
#define FEW_1 (!SMALL)
#define FEW_2 0
#define FEW_3 0
#define FEW_4 0
#define FEW_6 0
#define FEW_8 0
#include "kernel_dense.h"
#include "kernel_run.h"

static void run(const emu_model *m, int64_t ncol, const array *x, const array *y, void *rows)
{
    const bool single = m->precision != 64;
    const int lanes = single ? VW : VD;
    for (int64_t done = 0; done < ncol;) {
        const int64_t left = ncol - done;
        const int choice = m->tiles[left < EMU_TILE_TABLE ? left : EMU_TILE_TABLE - 1];
        const emu_tile tile = single ? tiles_single[choice] : tiles_double[choice];
        const int count = left < tile.samples ? (int)left : tile.samples;
        const array from = at(x, done, 0), to = at(y, done, 0);
        done += count;
        if (SMALL || tile.batched) {
            const array block = {rows, 1, tile.samples, single, true};
            program_block(&m->input, &from, &block, count, tile.samples);
            if (single)
                run_batch_single(m, rows, tile.samples / lanes);
            else
                run_batch_double(m, rows, tile.samples / lanes);
            program_block(&m->output, &block, &to, count, tile.samples);
            continue;
        }
#if !SMALL
        const array row = {rows, m->num_columns, 1, single, true};
        for (int s = 0; s < tile.samples; s++) { /* those beyond the last repeat it */
            const array x_s = at(&from, s < count ? s : count - 1, 0), row_s = at(&row, s, 0);
            program_sample(&m->input, &x_s, &row_s);
        }
        if (single)
            run_few_single(m, rows, tile.samples);
        else
            run_few_double(m, rows, tile.samples);
        for (int s = 0; s < count; s++) {
            const array row_s = at(&row, s, 0), y_s = at(&to, s, 0);
            program_sample(&m->output, &row_s, &y_s);
        }
#endif
    }
}

static void infer_f64(const emu_model *m, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y, int64_t ys,
                      int64_t yf, void *scratch)
{
    const array from = {(void *)(uintptr_t)x, xs, xf, false, false}, to = {y, ys, yf, false, false};
    run(m, ncol, &from, &to, scratch);
}

static void infer_f32(const emu_model *m, int64_t ncol, const float *x, int64_t xs, int64_t xf, float *y, int64_t ys,
                      int64_t yf, void *scratch)
{
    const array from = {(void *)(uintptr_t)x, xs, xf, true, false}, to = {y, ys, yf, true, false};
    run(m, ncol, &from, &to, scratch);
}

const emu_kernels ISA(emu_kernels) = {
    .name = ISA_NAME,
    .num_tiles = {sizeof tiles_single / sizeof tiles_single[0], sizeof tiles_double / sizeof tiles_double[0]},
    .tiles = {tiles_single, tiles_double},
    .lanes = {VW, VD},
    .infer_f64 = infer_f64,
    .infer_f32 = infer_f32,
    .apply = apply_scalar,
};
