/* Vector operations of kernels.c in plain C11: 8 float32 or 4 float64 lanes, fused multiply-add by fma(). */
#include <math.h>
#include <string.h>

#define VW 8 /* float32 lanes */
#define VD 4 /* float64 lanes */
typedef struct { float v[VW]; } vf;
typedef struct { double v[VD]; } vd;
typedef struct { uint64_t v[VD]; } vi;

#define LANES_F(expression)                                                                                  \
    vf result;                                                                                               \
    for (int i = 0; i < VW; i++)                                                                             \
        result.v[i] = (expression);                                                                          \
    return result
#define LANES_D(expression)                                                                                  \
    vd result;                                                                                               \
    for (int i = 0; i < VD; i++)                                                                             \
        result.v[i] = (expression);                                                                          \
    return result
#define LANES_I(expression)                                                                                  \
    vi result;                                                                                               \
    for (int i = 0; i < VD; i++)                                                                             \
        result.v[i] = (expression);                                                                          \
    return result

/* a < b, false for NaN, without any exception: `<` raises "invalid" for a NaN, and compilers turn isless() into vector
 * instructions that do as well (gcc 12 into cmpnltpd). So the bits are compared: as sign-magnitude integers. */
INLINE bool less_double(double a, double b)
{
    int64_t p, q;
    a += 0.0; /* -0 becomes 0 */
    b += 0.0;
    memcpy(&p, &a, sizeof p);
    memcpy(&q, &b, sizeof q);
    const int64_t infinity = 0x7ff0000000000000;
    const bool numbers = (p & INT64_MAX) <= infinity && (q & INT64_MAX) <= infinity;
    return numbers && (p < 0 ? p ^ INT64_MAX : p) < (q < 0 ? q ^ INT64_MAX : q);
}
INLINE bool less_float(float a, float b) { return less_double((double)a, (double)b); }

INLINE vf vf_load(const float *p) { LANES_F(p[i]); }
INLINE void vf_store(float *p, vf x) { memcpy(p, x.v, sizeof x.v); }
INLINE vf vf_set(float x) { LANES_F(x); }
INLINE vf vf_zero(void) { LANES_F(0.0f); }
INLINE vf vf_fma(vf a, vf b, vf c) { LANES_F(fmaf(a.v[i], b.v[i], c.v[i])); }
INLINE vf vf_add(vf a, vf b) { LANES_F(a.v[i] + b.v[i]); }
INLINE vf vf_sub(vf a, vf b) { LANES_F(a.v[i] - b.v[i]); }
INLINE vf vf_mul(vf a, vf b) { LANES_F(a.v[i] * b.v[i]); }
INLINE vf vf_div(vf a, vf b) { LANES_F(a.v[i] / b.v[i]); }
INLINE vf vf_relu(vf x) { LANES_F(less_float(x.v[i], 0.0f) ? 0.0f : x.v[i]); }
INLINE vf vf_less_select(vf a, vf b, vf yes, vf no) { LANES_F(less_float(a.v[i], b.v[i]) ? yes.v[i] : no.v[i]); }
INLINE vf vf_abs(vf x) { LANES_F(fabsf(x.v[i])); }
INLINE vf vf_copysign(vf magnitude, vf sign) { LANES_F(copysignf(magnitude.v[i], sign.v[i])); }
/* 2^n where t = n + 1.5 * 2^23 */
INLINE vf vf_pow2(vf t)
{
    vf result;
    for (int i = 0; i < VW; i++) {
        uint32_t bits;
        memcpy(&bits, &t.v[i], sizeof bits);
        bits = (bits << 23) + 0x3f800000u;
        memcpy(&result.v[i], &bits, sizeof bits);
    }
    return result;
}
/* c + a[i] * x[i] in lanes below n, c elsewhere; nothing else of x is read */
INLINE vf vf_fma_part(const float *a, const float *x, vf c, int n)
{
    for (int i = 0; i < VW && i < n; i++)
        c.v[i] = fmaf(a[i], x[i], c.v[i]);
    return c;
}
/* lane r: sums[r] folded 8, 4, 2, 1, then + bias[r] */
typedef struct { float v[4]; } v4;
INLINE v4 fold4(vf sums[4][2], const float *bias)
{
    v4 result;
    for (int r = 0; r < 4; r++) {
        float s[8];
        for (int i = 0; i < 8; i++)
            s[i] = sums[r][0].v[i] + sums[r][1].v[i];
        for (int h = 4; h >= 1; h /= 2)
            for (int i = 0; i < h; i++)
                s[i] += s[i + h];
        result.v[r] = s[0] + bias[r];
    }
    return result;
}
INLINE void v4_store(float *p, v4 x) { memcpy(p, x.v, sizeof x.v); }
INLINE vf vf_from_v4(v4 x) { LANES_F(i < 4 ? x.v[i % 4] : 0.0f); }

INLINE vd vd_load(const double *p) { LANES_D(p[i]); }
INLINE void vd_store(double *p, vd x) { memcpy(p, x.v, sizeof x.v); }
INLINE vd vd_set(double x) { LANES_D(x); }
INLINE vd vd_add(vd a, vd b) { LANES_D(a.v[i] + b.v[i]); }
INLINE vd vd_sub(vd a, vd b) { LANES_D(a.v[i] - b.v[i]); }
INLINE vd vd_mul(vd a, vd b) { LANES_D(a.v[i] * b.v[i]); }
INLINE vd vd_div(vd a, vd b) { LANES_D(a.v[i] / b.v[i]); }
INLINE vd vd_fma(vd a, vd b, vd c) { LANES_D(fma(a.v[i], b.v[i], c.v[i])); }
INLINE vd vd_sqrt(vd a) { LANES_D(sqrt(a.v[i])); }
INLINE vd vd_abs(vd x) { LANES_D(fabs(x.v[i])); }
INLINE vd vd_neg(vd x) { LANES_D(-x.v[i]); }
INLINE vd vd_copysign(vd magnitude, vd sign) { LANES_D(copysign(magnitude.v[i], sign.v[i])); }
INLINE vd vd_less_select(vd a, vd b, vd yes, vd no) { LANES_D(less_double(a.v[i], b.v[i]) ? yes.v[i] : no.v[i]); }
INLINE bool vd_all_within(vd x, double low, double high)
{
    bool within = true;
    for (int i = 0; i < VD; i++)
        within = within && !less_double(x.v[i], low) && !less_double(high, x.v[i]) &&
                 less_double(x.v[i], (double)INFINITY); /* not NaN */
    return within;
}
INLINE vi vd_bits(vd x)
{
    vi result;
    memcpy(result.v, x.v, sizeof x.v);
    return result;
}
INLINE vd vd_from_bits(vi x)
{
    vd result;
    memcpy(result.v, x.v, sizeof x.v);
    return result;
}
INLINE vi vi_set(int64_t x) { LANES_I((uint64_t)x); }
INLINE vi vi_add(vi a, vi b) { LANES_I(a.v[i] + b.v[i]); }
INLINE vi vi_and(vi a, vi b) { LANES_I(a.v[i] & b.v[i]); }
INLINE vi vi_or(vi a, vi b) { LANES_I(a.v[i] | b.v[i]); }
INLINE vi vi_right52(vi a) { LANES_I(a.v[i] >> 52); }
INLINE vi vi_left52(vi a) { LANES_I(a.v[i] << 52); }

INLINE vd vd_low_half(vf x) { LANES_D((double)x.v[i]); }
INLINE vd vd_high_half(vf x) { LANES_D((double)x.v[i + VD]); }
INLINE vf vf_round(vd low, vd high) { LANES_F((float)(i < VD ? low.v[i % VD] : high.v[i % VD])); }
INLINE vd vd_load_float(const float *p) { LANES_D((double)p[i]); }
INLINE void vd_store_float(float *p, vd x)
{
    for (int i = 0; i < VD; i++)
        p[i] = (float)x.v[i];
}
INLINE vd vd_round_f32(vd x) { LANES_D((double)(float)x.v[i]); }
/* p[index[i] * stride] in lane i */
INLINE vd vd_gather(const double *p, const int32_t *index, int64_t stride) { LANES_D(p[index[i] * stride]); }
INLINE vd vd_gather_float(const float *p, const int32_t *index, int64_t stride)
{
    LANES_D((double)p[index[i] * stride]);
}
