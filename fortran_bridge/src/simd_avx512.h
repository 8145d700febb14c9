/* Vector operations of kernels.c on AVX-512 (F, DQ, BW, VL): 16 float32 or 8 float64 lanes.
 * All comparisons are quiet: min and max instructions would raise "invalid" for a NaN. */
#include <immintrin.h>

#define VW 16 /* float32 lanes */
#define VD 8  /* float64 lanes */
typedef __m512 vf;
typedef __m512d vd;
typedef __m512i vi; /* 64-bit lanes */

INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
/* x <= floor ? floor : x, passes NaN */
INLINE vf vf_at_least(vf x, vf floor)
{
    return _mm512_mask_mov_ps(floor, _mm512_cmp_ps_mask(x, floor, _CMP_NLE_UQ), x);
}
INLINE vf vf_less_select(vf a, vf b, vf yes, vf no)
{
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
INLINE vf vf_abs(vf x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
INLINE vf vf_copysign(vf magnitude, vf sign)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign));
}
/* 2^n where t = n + 1.5 * 2^23 */
INLINE vf vf_pow2(vf t)
{
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t), 23), _mm512_set1_epi32(0x3f800000)));
}
/* x in the first lane, 0 in the others */
INLINE vf vf_first(float x) { return _mm512_zextps128_ps512(_mm_set_ss(x)); }
typedef __m128 vf_four;
/* The quarters of x[0] added from the first to the last */
INLINE vf_four vf_fold(const vf *x)
{
    return _mm_add_ps(_mm_add_ps(_mm_add_ps(_mm512_castps512_ps128(*x), _mm512_extractf32x4_ps(*x, 1)),
                                 _mm512_extractf32x4_ps(*x, 2)),
                      _mm512_extractf32x4_ps(*x, 3));
}
/* The sum of each of x[0..3], in the first four lanes; 0 in the others */
INLINE vf vf_sums(const vf_four *x)
{
    __m128 a = x[0], b = x[1], c = x[2], d = x[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    return _mm512_zextps128_ps512(_mm_add_ps(_mm_add_ps(_mm_add_ps(a, b), c), d));
}

INLINE vd vd_load(const double *p) { return _mm512_loadu_pd(p); }
INLINE void vd_store(double *p, vd v) { _mm512_storeu_pd(p, v); }
INLINE vd vd_set(double x) { return _mm512_set1_pd(x); }
INLINE vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
INLINE vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
INLINE vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
INLINE vd vd_div(vd a, vd b) { return _mm512_div_pd(a, b); }
INLINE vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
INLINE vd vd_sqrt(vd a) { return _mm512_sqrt_pd(a); }
INLINE vd vd_at_least(vd x, vd floor)
{
    return _mm512_mask_mov_pd(floor, _mm512_cmp_pd_mask(x, floor, _CMP_NLE_UQ), x);
}
INLINE vd vd_abs(vd x) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), x); }
INLINE vd vd_neg(vd x) { return _mm512_xor_pd(_mm512_set1_pd(-0.0), x); }
INLINE vd vd_copysign(vd magnitude, vd sign)
{
    return _mm512_or_pd(magnitude, _mm512_and_pd(_mm512_set1_pd(-0.0), sign));
}
INLINE vd vd_less_select(vd a, vd b, vd yes, vd no)
{
    return _mm512_mask_mov_pd(no, _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), yes);
}
INLINE bool vd_all_within(vd x, double low, double high)
{
    __mmask8 mask = _mm512_cmp_pd_mask(x, _mm512_set1_pd(low), _CMP_GE_OQ);
    return _mm512_mask_cmp_pd_mask(mask, x, _mm512_set1_pd(high), _CMP_LE_OQ) == 0xff;
}
INLINE vi vd_bits(vd x) { return _mm512_castpd_si512(x); }
INLINE vd vd_from_bits(vi x) { return _mm512_castsi512_pd(x); }
INLINE vi vi_set(int64_t x) { return _mm512_set1_epi64(x); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi64(a, b); }
INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi vi_right52(vi a) { return _mm512_srli_epi64(a, 52); }
INLINE vi vi_left52(vi a) { return _mm512_slli_epi64(a, 52); }

INLINE vd vd_load_float(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
INLINE void vd_store_float(float *p, vd x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x)); }
INLINE vd vd_round_f32(vd x) { return _mm512_cvtps_pd(_mm512_cvtpd_ps(x)); }
/* p[index[i] * stride] in lane i */
INLINE vd vd_gather(const double *p, const int32_t *index, int64_t stride)
{
#define AT(i) p[index[i] * stride]
    return _mm512_set_pd(AT(7), AT(6), AT(5), AT(4), AT(3), AT(2), AT(1), AT(0));
}
INLINE vd vd_gather_float(const float *p, const int32_t *index, int64_t stride)
{
    return _mm512_cvtps_pd(_mm256_set_ps(AT(7), AT(6), AT(5), AT(4), AT(3), AT(2), AT(1), AT(0)));
#undef AT
}
