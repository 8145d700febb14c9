/* Vector operations of kernels.c in the vector types of gcc and clang, 16 bytes long: 4 float32 or 2 float64 lanes. With
 * NEON intrinsics where EMU_ISA_NEON is defined; else any processor's, with fused multiply-adds by fma(), which is an
 * instruction on most processors and a slow function on x86 before AVX2.
 *
 * Comparisons are made of integer operations: `<` raises "invalid" for a NaN, and compilers turn isless() into
 * instructions that do as well (gcc 12 into cmpnltpd). */
#if defined(EMU_ISA_NEON)
#include <arm_neon.h>
#endif

/* Where a multiply-add is a call of fma() anyway, one more call saves much space */
#if defined(EMU_ISA_PORTABLE) && !defined(FP_FAST_FMA)
#define FMA static __attribute__((noinline))
#define SELECT static __attribute__((noinline))
#else
#define FMA INLINE
#define SELECT INLINE
#endif

#define VW 4 /* float32 lanes */
#define VD 2 /* float64 lanes */
typedef float vf __attribute__((vector_size(16)));
typedef double vd __attribute__((vector_size(16)));
typedef int32_t lanes32 __attribute__((vector_size(16)));
typedef int64_t lanes64 __attribute__((vector_size(16)));
typedef uint64_t vi __attribute__((vector_size(16)));

INLINE vf vf_set(float x) { return (vf){x, x, x, x}; }
INLINE vd vd_set(double x) { return (vd){x, x}; }
INLINE vi vi_set(int64_t x) { return (vi){(uint64_t)x, (uint64_t)x}; }
INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE vd vd_load(const double *p)
{
    vd v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE void vd_store(double *p, vd v) { memcpy(p, &v, sizeof v); }

INLINE vf vf_add(vf a, vf b) { return a + b; }
INLINE vf vf_sub(vf a, vf b) { return a - b; }
INLINE vf vf_mul(vf a, vf b) { return a * b; }
INLINE vf vf_div(vf a, vf b) { return a / b; }
INLINE vd vd_add(vd a, vd b) { return a + b; }
INLINE vd vd_sub(vd a, vd b) { return a - b; }
INLINE vd vd_mul(vd a, vd b) { return a * b; }
INLINE vd vd_div(vd a, vd b) { return a / b; }
#if defined(EMU_ISA_NEON)
INLINE vf vf_fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vd vd_fma(vd a, vd b, vd c) { return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
INLINE vd vd_sqrt(vd a) { return (vd)vsqrtq_f64((float64x2_t)a); }
#else
FMA vf vf_fma(vf a, vf b, vf c)
{
    return (vf){fmaf(a[0], b[0], c[0]), fmaf(a[1], b[1], c[1]), fmaf(a[2], b[2], c[2]), fmaf(a[3], b[3], c[3])};
}
FMA vd vd_fma(vd a, vd b, vd c) { return (vd){fma(a[0], b[0], c[0]), fma(a[1], b[1], c[1])}; }
INLINE vd vd_sqrt(vd a) { return (vd){sqrt(a[0]), sqrt(a[1])}; }
#endif

/* Integers in the order of the numbers; sums with 0 make -0 and 0 the same */
INLINE lanes32 vf_key(vf x)
{
    const lanes32 bits = (lanes32)(x + vf_set(0.0f));
    return bits ^ ((bits >> 31) & 0x7fffffff);
}
INLINE lanes64 vd_key(vd x)
{
    const lanes64 bits = (lanes64)(x + vd_set(0.0));
    return bits ^ ((bits >> 63) & 0x7fffffffffffffff);
}
INLINE lanes32 vf_is_number(vf x) { return ((lanes32)x & 0x7fffffff) <= 0x7f800000; }
INLINE lanes64 vd_is_number(vd x) { return ((lanes64)x & 0x7fffffffffffffff) <= 0x7ff0000000000000; }
INLINE vf vf_choose(lanes32 mask, vf yes, vf no) { return (vf)(((lanes32)yes & mask) | ((lanes32)no & ~mask)); }
INLINE vd vd_choose(lanes64 mask, vd yes, vd no) { return (vd)(((lanes64)yes & mask) | ((lanes64)no & ~mask)); }
SELECT vf vf_less_select(vf a, vf b, vf yes, vf no)
{
    return vf_choose((vf_key(a) < vf_key(b)) & vf_is_number(a) & vf_is_number(b), yes, no);
}
SELECT vd vd_less_select(vd a, vd b, vd yes, vd no)
{
    return vd_choose((vd_key(a) < vd_key(b)) & vd_is_number(a) & vd_is_number(b), yes, no);
}
/* x <= floor ? floor : x, passes NaN; floor is not NaN */
#if defined(EMU_ISA_NEON)
INLINE vf vf_at_least(vf x, vf floor) { return (vf)vmaxq_f32((float32x4_t)x, (float32x4_t)floor); }
INLINE vd vd_at_least(vd x, vd floor) { return (vd)vmaxq_f64((float64x2_t)x, (float64x2_t)floor); }
#else
SELECT vf vf_at_least(vf x, vf floor)
{
    return vf_choose((vf_key(x) <= vf_key(floor)) & vf_is_number(x), floor, x);
}
SELECT vd vd_at_least(vd x, vd floor)
{
    return vd_choose((vd_key(x) <= vd_key(floor)) & vd_is_number(x), floor, x);
}
#endif
INLINE bool vd_all_within(vd x, double low, double high)
{
    const lanes64 key = vd_key(x), outside = (key < vd_key(vd_set(low))) | (key > vd_key(vd_set(high)));
    return (outside[0] | outside[1]) == 0; /* the key of a NaN lies beyond infinity */
}

INLINE vf vf_abs(vf x) { return (vf)((lanes32)x & 0x7fffffff); }
INLINE vd vd_abs(vd x) { return (vd)((lanes64)x & 0x7fffffffffffffff); }
INLINE vd vd_neg(vd x) { return (vd)((vi)x ^ vi_set(INT64_MIN)); }
INLINE vf vf_copysign(vf magnitude, vf sign)
{
    return (vf)((lanes32)magnitude | ((lanes32)sign & (lanes32)vf_set(-0.0f)));
}
INLINE vd vd_copysign(vd magnitude, vd sign)
{
    return (vd)((lanes64)magnitude | ((lanes64)sign & (lanes64)vd_set(-0.0)));
}
/* 2^n where t = n + 1.5 * 2^23 */
INLINE vf vf_pow2(vf t) { return (vf)(((lanes32)t << 23) + 0x3f800000); }
/* x in the first lane, 0 in the others */
INLINE vf vf_first(float x) { return (vf){x, 0.0f, 0.0f, 0.0f}; }
INLINE vd vd_first(double x) { return (vd){x, 0.0}; }
typedef vf vf_four;
typedef struct {
    vd low, high;
} vd_four;
/* The quarters of the vectors at x added from the first to the last */
INLINE vf_four vf_fold(const vf *x) { return vf_add(vf_add(vf_add(x[0], x[1]), x[2]), x[3]); }
INLINE vd_four vd_fold(const vd *x)
{
    return (vd_four){vd_add(vd_add(vd_add(x[0], x[2]), x[4]), x[6]), vd_add(vd_add(vd_add(x[1], x[3]), x[5]), x[7])};
}
/* The sum of each of x[0], x[1], ..., as many as there are lanes */
INLINE vf vf_sums(const vf_four *x)
{
#define SUM(i) (x[i][0] + x[i][1] + x[i][2] + x[i][3])
    return (vf){SUM(0), SUM(1), SUM(2), SUM(3)};
#undef SUM
}
INLINE vd vd_sums(const vd_four *x)
{
#define SUM(i) (x[i].low[0] + x[i].low[1] + x[i].high[0] + x[i].high[1])
    return (vd){SUM(0), SUM(1)};
#undef SUM
}

INLINE vi vd_bits(vd x) { return (vi)x; }
INLINE vd vd_from_bits(vi x) { return (vd)x; }
INLINE vi vi_add(vi a, vi b) { return a + b; }
INLINE vi vi_and(vi a, vi b) { return a & b; }
INLINE vi vi_or(vi a, vi b) { return a | b; }
INLINE vi vi_right52(vi a) { return a >> 52; }
INLINE vi vi_left52(vi a) { return a << 52; }

INLINE vd vd_load_float(const float *p) { return (vd){(double)p[0], (double)p[1]}; }
INLINE void vd_store_float(float *p, vd x)
{
    p[0] = (float)x[0];
    p[1] = (float)x[1];
}
INLINE vd vd_round_f32(vd x) { return (vd){(double)(float)x[0], (double)(float)x[1]}; }
/* p[index[i] * stride] in lane i */
INLINE vd vd_gather(const double *p, const int32_t *index, int64_t stride)
{
    return (vd){p[index[0] * stride], p[index[1] * stride]};
}
INLINE vd vd_gather_float(const float *p, const int32_t *index, int64_t stride)
{
    return (vd){(double)p[index[0] * stride], (double)p[index[1] * stride]};
}
