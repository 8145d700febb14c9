/* Vector operations of kernels.c on AVX2 with FMA: 8 float32 or 4 float64 lanes.
 * All comparisons are quiet: min and max instructions would raise "invalid" for a NaN. */
#include <immintrin.h>

#define VW 8 /* float32 lanes */
#define VD 4 /* float64 lanes */
typedef __m256 vf;
typedef __m256d vd;
typedef __m256i vi; /* 64-bit lanes */

INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
/* x <= floor ? floor : x, passes NaN */
INLINE vf vf_at_least(vf x, vf floor)
{
    return _mm256_blendv_ps(floor, x, _mm256_cmp_ps(x, floor, _CMP_NLE_UQ));
}
INLINE vf vf_less_select(vf a, vf b, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
INLINE vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE vf vf_copysign(vf magnitude, vf sign)
{
    return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
/* 2^n where t = n + 1.5 * 2^23 */
INLINE vf vf_pow2(vf t)
{
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(t), 23), _mm256_set1_epi32(0x3f800000)));
}
/* x in the first lane, 0 in the others */
INLINE vf vf_first(float x) { return _mm256_zextps128_ps256(_mm_set_ss(x)); }
typedef __m128 vf_four;
/* The quarters of x[0] and x[1] added from the first to the last */
INLINE vf_four vf_fold(const vf *x)
{
    const __m128 first = _mm_add_ps(_mm256_castps256_ps128(x[0]), _mm256_extractf128_ps(x[0], 1));
    return _mm_add_ps(_mm_add_ps(first, _mm256_castps256_ps128(x[1])), _mm256_extractf128_ps(x[1], 1));
}
/* The sum of each of x[0..3], in the first four lanes; 0 in the others */
INLINE vf vf_sums(const vf_four *x)
{
    __m128 a = x[0], b = x[1], c = x[2], d = x[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    return _mm256_zextps128_ps256(_mm_add_ps(_mm_add_ps(_mm_add_ps(a, b), c), d));
}

INLINE vd vd_load(const double *p) { return _mm256_loadu_pd(p); }
INLINE void vd_store(double *p, vd v) { _mm256_storeu_pd(p, v); }
INLINE vd vd_set(double x) { return _mm256_set1_pd(x); }
INLINE vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
INLINE vd vd_sub(vd a, vd b) { return _mm256_sub_pd(a, b); }
INLINE vd vd_mul(vd a, vd b) { return _mm256_mul_pd(a, b); }
INLINE vd vd_div(vd a, vd b) { return _mm256_div_pd(a, b); }
INLINE vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
INLINE vd vd_sqrt(vd a) { return _mm256_sqrt_pd(a); }
INLINE vd vd_at_least(vd x, vd floor)
{
    return _mm256_blendv_pd(floor, x, _mm256_cmp_pd(x, floor, _CMP_NLE_UQ));
}
INLINE vd vd_first(double x) { return _mm256_set_pd(0.0, 0.0, 0.0, x); }
typedef __m256d vd_four;
INLINE vd_four vd_fold(const vd *x) { return vd_add(vd_add(vd_add(x[0], x[1]), x[2]), x[3]); }
INLINE void vd_transpose(const vd *x, vd *t)
{
    const vd a = _mm256_unpacklo_pd(x[0], x[1]), b = _mm256_unpackhi_pd(x[0], x[1]);
    const vd c = _mm256_unpacklo_pd(x[2], x[3]), d = _mm256_unpackhi_pd(x[2], x[3]);
    t[0] = _mm256_permute2f128_pd(a, c, 0x20);
    t[1] = _mm256_permute2f128_pd(b, d, 0x20);
    t[2] = _mm256_permute2f128_pd(a, c, 0x31);
    t[3] = _mm256_permute2f128_pd(b, d, 0x31);
}
INLINE vd vd_sums(const vd_four *x)
{
    vd t[4];
    vd_transpose(x, t);
    return vd_fold(t);
}
INLINE vd vd_abs(vd x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }
INLINE vd vd_neg(vd x) { return _mm256_xor_pd(_mm256_set1_pd(-0.0), x); }
INLINE vd vd_copysign(vd magnitude, vd sign)
{
    return _mm256_or_pd(magnitude, _mm256_and_pd(_mm256_set1_pd(-0.0), sign));
}
INLINE vd vd_less_select(vd a, vd b, vd yes, vd no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
INLINE bool vd_all_within(vd x, double low, double high)
{
    __m256d above = _mm256_cmp_pd(x, _mm256_set1_pd(low), _CMP_GE_OQ);
    __m256d below = _mm256_cmp_pd(x, _mm256_set1_pd(high), _CMP_LE_OQ);
    return _mm256_movemask_pd(_mm256_and_pd(above, below)) == 0xf;
}
INLINE vi vd_bits(vd x) { return _mm256_castpd_si256(x); }
INLINE vd vd_from_bits(vi x) { return _mm256_castsi256_pd(x); }
INLINE vi vi_set(int64_t x) { return _mm256_set1_epi64x(x); }
INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi64(a, b); }
INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
INLINE vi vi_right52(vi a) { return _mm256_srli_epi64(a, 52); }
INLINE vi vi_left52(vi a) { return _mm256_slli_epi64(a, 52); }

INLINE vd vd_load_float(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
INLINE void vd_store_float(float *p, vd x) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x)); }
INLINE vd vd_round_f32(vd x) { return _mm256_cvtps_pd(_mm256_cvtpd_ps(x)); }
/* p[index[i] * stride] in lane i */
INLINE vd vd_gather(const double *p, const int32_t *index, int64_t stride)
{
#define AT(i) p[index[i] * stride]
    return _mm256_set_pd(AT(3), AT(2), AT(1), AT(0));
}
INLINE vd vd_gather_float(const float *p, const int32_t *index, int64_t stride)
{
    return _mm256_cvtps_pd(_mm_set_ps(AT(3), AT(2), AT(1), AT(0)));
#undef AT
}
