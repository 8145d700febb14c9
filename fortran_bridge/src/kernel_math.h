/* log, exp, sigmoid and tanh on vectors: a fixed sequence of IEEE operations, so the same bits on every
 * instruction set. No exception but inexact and underflow for arguments within the function's domain; a quiet
 * NaN goes through. The polynomials are minimax fits (Remez exchange in 60-digit arithmetic); the errors given
 * are those of the fit. */

static const double DBL_SMALLEST_NORMAL = 0x1p-1022, DBL_LARGEST = 0x1.fffffffffffffp1023;
static const double ROUND_MAGIC = 0x1.8p52;     /* adding it leaves the nearest integer in the low bits */
static const double LN2_HIGH = 0x1.62e42fefa3800p-1; /* 42 bits: exact times any exponent */
static const double LN2_LOW = 0x1.ef35793c76730p-45;
static const double LOG2_E = 0x1.71547652b82fep+0;

/* Natural logarithm, error below 1 ulp. log(0) = -inf, log(negative) = NaN, both without an exception.
 * x = 2^k m with m in [sqrt(1/2), sqrt(2)); f = m - 1, s = f / (2 + f), z = s^2;
 * log(1 + f) = f - f^2/2 + s (f^2/2 + z L(z)),  L(z) = (log((1 + s)/(1 - s))/s - 2) / z on [0, 0.02944]. */
MATH vd vd_log(vd x)
{
    const int64_t sqrt_half = 0x3fe6a09e667f3bcd, one = 0x3ff0000000000000;
    const bool ordinary = vd_all_within(x, DBL_SMALLEST_NORMAL, DBL_LARGEST);
    vd scaled = x, scale_exponent = vd_set(0.0);
    if (!ordinary) { /* subnormal numbers are brought into the normal range */
        vd tiny = vd_less_select(vd_set(0.0), x, vd_set(0x1p54), vd_set(1.0));
        scaled = vd_mul(x, vd_less_select(x, vd_set(DBL_SMALLEST_NORMAL), tiny, vd_set(1.0)));
        scale_exponent = vd_less_select(x, vd_set(DBL_SMALLEST_NORMAL), vd_set(54.0), vd_set(0.0));
    }
    vi bits = vi_add(vd_bits(scaled), vi_set(one - sqrt_half));
    vd k = vd_sub(vd_from_bits(vi_or(vi_right52(bits), vi_set(0x4330000000000000))), vd_set(0x1p52 + 1023.0));
    vd m = vd_from_bits(vi_add(vi_and(bits, vi_set(0x000fffffffffffff)), vi_set(sqrt_half)));
    k = vd_sub(k, scale_exponent);
    vd f = vd_sub(m, vd_set(1.0));
    vd s = vd_div(f, vd_add(f, vd_set(2.0)));
    vd z = vd_mul(s, s);
    vd w = vd_mul(z, z);
    /* L(z) to 3.1e-16 */
    vd even = vd_fma(w, vd_set(0x1.2b5f0a34704e8p-3), vd_set(0x1.7462b9b6f6cdbp-3));
    even = vd_fma(w, even, vd_set(0x1.2492492e02a9cp-2));
    even = vd_fma(w, even, vd_set(0x1.5555555555558p-1));
    vd odd = vd_fma(w, vd_set(0x1.39fdc7ebbc5c6p-3), vd_set(0x1.c71c62d1ccb68p-3));
    odd = vd_fma(w, odd, vd_set(0x1.999999999522fp-2));
    vd tail = vd_mul(z, vd_fma(z, odd, even));
    vd half_square = vd_mul(vd_mul(f, vd_set(0.5)), f);
    vd correction = vd_fma(s, vd_add(half_square, tail), vd_mul(k, vd_set(LN2_LOW)));
    vd y = vd_fma(k, vd_set(LN2_HIGH), vd_sub(f, vd_sub(half_square, correction)));
    if (!ordinary) {
        y = vd_less_select(vd_set(0.0), x, y, vd_set(-(double)INFINITY)); /* 0 */
        y = vd_less_select(x, vd_set(0.0), vd_set((double)NAN), y);
        y = vd_less_select(x, vd_set((double)INFINITY), y, x);            /* inf and NaN: themselves */
    }
    return y;
}

/* x = n ln 2 + r + c: n an integer, |r| <= ln 2 / 2, c the rounding error of r. e^(r + c) - 1 = r + rest with
 * rest = c + r^2 q(r), q of degree 9 to 1e-16. */
typedef struct {
    vd n, r, rest;
} exp_parts;

MATH exp_parts vd_exp_reduced(vd x)
{
    exp_parts e;
    e.n = vd_sub(vd_fma(x, vd_set(LOG2_E), vd_set(ROUND_MAGIC)), vd_set(ROUND_MAGIC));
    const vd high = vd_fma(e.n, vd_set(-LN2_HIGH), x); /* exact */
    const vd low = vd_mul(e.n, vd_set(-LN2_LOW));
    const vd r = e.r = vd_add(high, low);
    const vd c = vd_add(vd_sub(high, r), low);
    vd q = vd_set(0x1.af631de8e150cp-26);
    q = vd_fma(q, r, vd_set(0x1.28917e1595396p-22));
    q = vd_fma(q, r, vd_set(0x1.71ddf6bacd0bcp-19));
    q = vd_fma(q, r, vd_set(0x1.a019b9132084cp-16));
    q = vd_fma(q, r, vd_set(0x1.a01a01b009bf8p-13));
    q = vd_fma(q, r, vd_set(0x1.6c16c1788a5fbp-10));
    q = vd_fma(q, r, vd_set(0x1.111111110f808p-7));
    q = vd_fma(q, r, vd_set(0x1.5555555553d66p-5));
    q = vd_fma(q, r, vd_set(0x1.5555555555558p-3));
    q = vd_fma(q, r, vd_set(0x1.0000000000001p-1));
    e.rest = vd_fma(vd_mul(r, r), q, c);
    return e;
}

/* 2^n, integer n in [-1022, 1023] */
INLINE vd vd_pow2(vd n)
{
    vi bits = vd_bits(vd_add(n, vd_set(ROUND_MAGIC)));
    return vd_from_bits(vi_add(vi_left52(bits), vi_set(0x3ff0000000000000)));
}

/* e^x for |x| <= 746: 1 + r + rest in two parts, then 2^n as two factors, so that a subnormal result is rounded once */
MATH vd vd_exp_limited(vd x)
{
    const exp_parts e = vd_exp_reduced(x);
    const vd sum = vd_add(vd_set(1.0), e.r);
    const vd lost = vd_add(vd_sub(vd_set(1.0), sum), e.r); /* exact */
    const vd y = vd_add(sum, vd_add(lost, e.rest));
    const vd half = vd_sub(vd_fma(e.n, vd_set(0.5), vd_set(ROUND_MAGIC)), vd_set(ROUND_MAGIC));
    return vd_mul(vd_mul(y, vd_pow2(half)), vd_pow2(vd_sub(e.n, half)));
}

/* Exponential, error below 1 ulp */
MATH vd vd_exp(vd x)
{
    x = vd_less_select(x, vd_set(-746.0), vd_set(-746.0), x); /* e^-745.2 rounds to 0 */
    x = vd_less_select(vd_set(710.0), x, vd_set(710.0), x);   /* e^709.8 overflows */
    return vd_exp_limited(x);
}

/* 1 / (1 + e^-x). Limited to |x| <= 708, where e^-x neither overflows nor loses bits. */
MATH vd vd_sigmoid(vd x)
{
    x = vd_less_select(x, vd_set(-708.0), vd_set(-708.0), x);
    x = vd_less_select(vd_set(708.0), x, vd_set(708.0), x);
    return vd_div(vd_set(1.0), vd_add(vd_set(1.0), vd_exp_limited(vd_neg(x))));
}

/* t / (t + 2) with t = e^(2|x|) - 1, which loses nothing near 0; 1 beyond |x| = 20. */
MATH vd vd_tanh(vd x)
{
    vd a = vd_abs(x);
    a = vd_less_select(vd_set(20.0), a, vd_set(20.0), a);
    const exp_parts e = vd_exp_reduced(vd_add(a, a));
    const vd scale = vd_pow2(e.n);
    const vd t = vd_fma(scale, vd_add(e.r, e.rest), vd_sub(scale, vd_set(1.0)));
    return vd_copysign(vd_div(t, vd_add(t, vd_set(2.0))), x);
}

static const float ROUND_MAGIC_F = 0x1.8p23f;

/* As vd_exp_reduced, q of degree 4 to 6e-8, in float32; *scale = 2^n. */
MATH vf vf_exp_reduced(vf x, vf *scale)
{
    vf t = vf_fma(x, vf_set(0x1.715476p+0f), vf_set(ROUND_MAGIC_F));
    *scale = vf_pow2(t);
    vf n = vf_sub(t, vf_set(ROUND_MAGIC_F));
    vf r = vf_fma(n, vf_set(-0x1.62e4p-1f), x); /* ln 2 in 15 bits, and the rest */
    r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), r);
    vf q = vf_set(0x1.6d753cp-10f);
    q = vf_fma(q, r, vf_set(0x1.120b66p-7f));
    q = vf_fma(q, r, vf_set(0x1.5554b8p-5f));
    q = vf_fma(q, r, vf_set(0x1.5554dcp-3f));
    q = vf_fma(q, r, vf_set(0.5f));
    return vf_fma(vf_mul(r, r), q, r);
}

/* 1 / (1 + e^-x), about 2 ulp. Limited to |x| <= 87, where e^-x does not overflow. */
MATH vf vf_sigmoid(vf x)
{
    x = vf_less_select(x, vf_set(-87.0f), vf_set(-87.0f), x);
    x = vf_less_select(vf_set(87.0f), x, vf_set(87.0f), x);
    vf scale;
    vf p = vf_exp_reduced(vf_sub(vf_zero(), x), &scale);
    return vf_div(vf_set(1.0f), vf_add(vf_set(1.0f), vf_fma(scale, p, scale)));
}

/* As vd_tanh; 1 beyond |x| = 10. */
MATH vf vf_tanh(vf x)
{
    vf a = vf_abs(x);
    a = vf_less_select(vf_set(10.0f), a, vf_set(10.0f), a);
    vf scale;
    vf p = vf_exp_reduced(vf_add(a, a), &scale);
    vf t = vf_fma(scale, p, vf_sub(scale, vf_set(1.0f)));
    return vf_copysign(vf_div(t, vf_add(t, vf_set(2.0f))), x);
}
