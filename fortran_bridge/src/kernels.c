/* The kernels, compiled once per instruction set: EMU_ISA is avx512, avx2 or portable. Which one runs does not
 * change a bit of any result: the order of every sum is fixed (model.h), multiply-adds are fused everywhere, and
 * nothing else is contracted (-ffp-contract=off). */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "model.h"

#if defined(__FAST_MATH__)
#error "libemulator must not be compiled with -ffast-math: it would change results and lose NaN"
#endif

#if defined(EMU_ISA_AVX512) + defined(EMU_ISA_AVX2) + defined(EMU_ISA_PORTABLE) != 1
#error "define one of EMU_ISA_AVX512, EMU_ISA_AVX2 and EMU_ISA_PORTABLE"
#endif

#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#if defined(EMU_ISA_PORTABLE) /* small, since speed is not its purpose */
#define MATH static __attribute__((noinline))
#define UNROLL
#else
#define MATH INLINE
#endif
#if defined(EMU_ISA_PORTABLE)
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

#if defined(EMU_ISA_AVX512)
#include "simd_avx512.h"
#define NAME(x) x##_avx512
#define ISA_NAME "avx512"
#elif defined(EMU_ISA_AVX2)
#include "simd_avx2.h"
#define NAME(x) x##_avx2
#define ISA_NAME "avx2"
#else
#include "simd_portable.h"
#define NAME(x) x##_portable
#define ISA_NAME "portable"
#endif

#include "kernel_math.h"

INLINE vf activated(emu_activation activation, vf x)
{
    switch (activation) {
    case ACT_RELU: return vf_relu(x);
    case ACT_SIGMOID: return vf_sigmoid(x);
    case ACT_TANH: return vf_tanh(x);
    default: return x;
    }
}

static void activate(emu_activation activation, float *y, int64_t count)
{
    if (activation == ACT_SIGMOID) {
        for (int64_t i = 0; i < count; i += VW)
            vf_store(y + i, vf_sigmoid(vf_load(y + i)));
    } else {
        for (int64_t i = 0; i < count; i += VW)
            vf_store(y + i, vf_tanh(vf_load(y + i)));
    }
}

#include "kernel_batch.h"
#include "kernel_few.h"
#include "kernel_program.h"

/* The network between the input and output programs, for rows of samples */
static const float *run_batch(const emu_model *m, float *a, float *b, int vectors)
{
    for (int l = 0; l < m->num_layers; l++) {
        const emu_layer *layer = &m->layers[l];
        if (l > 0 && layer->program.num_groups > 0) {
            program_rows(&layer->program, a, b, vectors * VW);
            float *swap = a;
            a = b;
            b = swap;
        }
        batch_layer(layer, a, b, vectors);
        float *swap = a;
        a = b;
        b = swap;
    }
    return a;
}

static const float *run_few(const emu_model *m, float *a, float *b, int samples)
{
    const int64_t ld = m->max_width;
    for (int l = 0; l < m->num_layers; l++) {
        const emu_layer *layer = &m->layers[l];
        if (l > 0 && layer->program.num_groups > 0) {
            for (int s = 0; s < samples; s++)
                program_row(&layer->program, a + s * ld, b + s * ld);
            float *swap = a;
            a = b;
            b = swap;
        }
        few_layer(layer, a, b, ld, samples);
        float *swap = a;
        a = b;
        b = swap;
    }
    return a;
}

static const emu_tile tiles[] = {
#if VW == 16
    {3 * VW, true}, {2 * VW, true}, {VW, true}, {6, false}, {4, false}, {2, false}, {1, false},
#elif !defined(EMU_ISA_PORTABLE)
    {3 * VW, true}, {2 * VW, true}, {VW, true}, {4, false}, {2, false}, {1, false},
#else
    {VW, true}, {1, false},
#endif
};
enum { NUM_TILES = sizeof tiles / sizeof tiles[0] };

#define REAL double
#define INFER infer_f64
#define LOAD_VD vd_load
#define STORE_VD vd_store
#define GATHER vd_gather
#include "kernel_infer.h"
#undef REAL
#undef INFER
#undef LOAD_VD
#undef STORE_VD
#undef GATHER

#define REAL float
#define INFER infer_f32
#define LOAD_VD vd_load_float
#define STORE_VD vd_store_float
#define GATHER vd_gather_float
#include "kernel_infer.h"

const emu_kernels NAME(emu_kernels) = {
    .name = ISA_NAME,
    .num_tiles = NUM_TILES,
    .tiles = tiles,
    .lanes = VW,
    .infer_f64 = infer_f64,
    .infer_f32 = infer_f32,
    .apply = apply_scalar,
};
