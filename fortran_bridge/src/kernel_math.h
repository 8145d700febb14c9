/* log, exp, erf and the activations on vectors: a fixed sequence of IEEE operations, so the same bits on every
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

/* c[0] + c[1] x + ... + c[n - 1] x^(n - 1) */
MATH vd vd_polynomial(const double *c, int n, vd x)
{
    vd y = vd_set(c[n - 1]);
    for (int i = n - 2; i >= 0; i--)
        y = vd_fma(y, x, vd_set(c[i]));
    return y;
}

/* e^(a^2) erfc(a) = t P(t), t = 1 / (1 + 0.3 a), for a in [0, 27.5]; the fit to 5e-18 */
MATH vd vd_erfc_scaled(vd a)
{
    static const double P[23] = { /* in t - 0.5625, the middle of its range */
        0x1.739b770292545p-2,  0x1.543a842b9ca31p-1,  0x1.fe108a00a6c1ep-1, 0x1.34562a4e92746p+0,
        0x1.21a36682b3413p+0,  0x1.81e56d62b9065p-1,  0x1.043c36493ed0fp-2, -0x1.7668175842d2ep-4,
        -0x1.2c5a0ac409527p-3, -0x1.ab0f0ba62de67p-6, 0x1.d2d5e0de8a3e1p-5, 0x1.ba6da99f05a64p-6,
        -0x1.8d20794cc6c81p-6, -0x1.1415d44f6ea8ap-6, 0x1.ab33097acafc6p-7, 0x1.3405674945bf7p-7,
        -0x1.1e8fa6f84862fp-7, -0x1.30922a98b1564p-8, 0x1.a5494f2585b48p-8, 0x1.c4e5f0624b7c5p-10,
        -0x1.172f8bac9a1f2p-8, -0x1.3f5fcd9c089e0p-12, 0x1.cd9d347ae3ed0p-10};
    const vd t = vd_div(vd_set(1.0), vd_fma(vd_set(0.3), a, vd_set(1.0)));
    return vd_mul(t, vd_polynomial(P, 23, vd_sub(t, vd_set(0.5625))));
}

/* e^-(p q), p q in [0, 746], with the rounding error of the product taken into account */
MATH vd vd_exp_minus_product(vd p, vd q)
{
    const vd product = vd_mul(p, q), error = vd_fma(p, q, vd_neg(product));
    const vd y = vd_exp_limited(vd_neg(product));
    return vd_fma(y, vd_neg(error), y);
}

/* Error function, 3 ulp: x P(x^2) below 0.75, else 1 - erfc */
MATH vd vd_erf(vd x)
{
    static const double P[11] = {0x1.20dd750429b6dp+0,   -0x1.812746b0379e0p-2, 0x1.ce2f21a0424c3p-4,
                                 -0x1.b82ce31257412p-6,  0x1.565bcd03657c0p-8,  -0x1.c02db1220cfe6p-11,
                                 0x1.f9a2afa3a8f86p-14,  -0x1.f4c5debf1228ap-17, 0x1.b90ecd4aeec12p-20,
                                 -0x1.564f71bbc0d35p-23, 0x1.8a312cb07e6ccp-27};
    vd a = vd_abs(x);
    a = vd_less_select(vd_set(6.0), a, vd_set(6.0), a); /* erf 6 rounds to 1 */
    const vd small = vd_mul(a, vd_polynomial(P, 11, vd_mul(a, a)));
    const vd large = vd_sub(vd_set(1.0), vd_mul(vd_exp_minus_product(a, a), vd_erfc_scaled(a)));
    return vd_copysign(vd_less_select(a, vd_set(0.75), small, large), x);
}

/* x (1 + erf(x / sqrt 2)) / 2 = x - tail for x >= 0, -tail for x < 0; tail = |x| erfc(|x| / sqrt 2) / 2. 7 ulp, but
 * where the result is subnormal. */
MATH vd vd_gelu(vd x)
{
    vd a = vd_abs(x);
    a = vd_less_select(vd_set(38.5), a, vd_set(38.5), a); /* tail(38.5) = 1e-322 */
    const vd half = vd_mul(vd_set(0.5), a);
    const vd erfc = vd_mul(vd_exp_minus_product(half, a), vd_erfc_scaled(vd_mul(a, vd_set(0x1.6a09e667f3bcdp-1))));
    const vd tail = vd_mul(half, erfc);
    return vd_less_select(x, vd_set(0.0), vd_neg(tail), vd_sub(x, tail));
}

/* x / (1 + e^-x) */
MATH vd vd_silu(vd x)
{
    x = vd_less_select(x, vd_set(-708.0), vd_set(-708.0), x);
    return vd_mul(x, vd_sigmoid(x));
}

/* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)). For x < 0 the rounding error of the argument counts as often as the
 * argument is large: 16 ulp at -3. */
MATH vd vd_gelu_tanh(vd x)
{
    x = vd_less_select(x, vd_set(-22.0), vd_set(-22.0), x); /* gelu(-22) = -9e-321 */
    vd limited = vd_less_select(vd_set(22.0), x, vd_set(22.0), x);
    vd cube = vd_mul(vd_mul(limited, limited), limited);
    vd argument = vd_mul(vd_set(0x1.9884533d43651p+0), vd_fma(vd_set(0.044715), cube, limited));
    return vd_mul(x, vd_sigmoid(argument));
}

/* log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; the error of 1 + u is taken into account */
MATH vd vd_softplus(vd x)
{
    vd a = vd_abs(x);
    a = vd_less_select(vd_set(746.0), a, vd_set(746.0), a);
    const vd u = vd_exp_limited(vd_neg(a)), sum = vd_add(vd_set(1.0), u);
    const vd lost = vd_sub(u, vd_sub(sum, vd_set(1.0)));
    const vd positive = vd_less_select(x, vd_set(0.0), vd_set(0.0), x);
    return vd_add(positive, vd_add(vd_log(sum), vd_div(lost, sum)));
}

/* a (e^x - 1) for x < 0, else b x */
MATH vd vd_elu(vd x, vd a, vd b)
{
    vd negative = vd_less_select(x, vd_set(0.0), x, vd_set(0.0));
    negative = vd_less_select(negative, vd_set(-50.0), vd_set(-50.0), negative); /* e^-50 - 1 rounds to -1 */
    const exp_parts e = vd_exp_reduced(negative);
    const vd scale = vd_pow2(e.n);
    const vd t = vd_fma(scale, vd_add(e.r, e.rest), vd_sub(scale, vd_set(1.0)));
    const vd positive = vd_less_select(x, vd_set(0.0), vd_set(0.0), x);
    return vd_less_select(x, vd_set(0.0), vd_mul(a, t), vd_mul(b, positive));
}

INLINE vd vd_leaky_relu(vd x, vd a)
{
    return vd_less_select(x, vd_set(0.0), vd_mul(a, x), x);
}

INLINE vd vd_hard_sigmoid(vd x, vd a, vd b)
{
    const vd y = vd_add(vd_mul(a, x), b);
    const vd limited = vd_less_select(y, vd_set(0.0), vd_set(0.0), y);
    return vd_less_select(vd_set(1.0), limited, vd_set(1.0), limited);
}

/* t times what vd_hard_sigmoid gives. Where that is 0, -infinity must not meet it */
INLINE vd vd_hard_swish(vd x, vd a, vd b)
{
    const vd lowest = vd_set(-DBL_LARGEST), limited = vd_less_select(x, lowest, lowest, x);
    return vd_mul(limited, vd_hard_sigmoid(x, a, b));
}

static const float FLT_LARGEST = 0x1.fffffep127f;
static const float ROUND_MAGIC_F = 0x1.8p23f;

/* As vd_exp_reduced, q of degree 4 to 6e-8, in float32; *scale = 2^n. */
INLINE vf vf_exp_reduced(vf x, vf *scale)
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
    vf p = vf_exp_reduced(vf_sub(vf_set(0.0f), x), &scale);
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

/* As vd_gelu; the fit to 2.5e-8, 7 ulp */
MATH vf vf_gelu(vf x)
{
    static const float P[9] = {0x1.a270b6p-2f, 0x1.9bcf1ep-1f, 0x1.401e78p+0f,  0x1.849768p+0f, 0x1.618698p+0f,
                               0x1.ad8c42p-1f, 0x1.90e7a2p-3f, -0x1.4b9cc6p-3f, -0x1.0bd19ap-3f};
    vf a = vf_abs(x);
    a = vf_less_select(vf_set(13.0f), a, vf_set(13.0f), a); /* tail(13) = 8e-38 */
    const vf half = vf_mul(vf_set(0.5f), a);
    const vf product = vf_mul(half, a), error = vf_fma(half, a, vf_sub(vf_set(0.0f), product));
    vf scale;
    const vf p = vf_exp_reduced(vf_sub(vf_set(0.0f), product), &scale);
    vf e = vf_fma(scale, p, scale);
    e = vf_fma(e, vf_sub(vf_set(0.0f), error), e);
    const vf t = vf_div(vf_set(1.0f), vf_fma(vf_set(0x1.b27248p-3f), a, vf_set(1.0f))); /* 0.3 / sqrt 2 */
    const vf u = vf_sub(t, vf_set(0.625f)); /* the middle of its range */
    vf q = vf_set(P[8]);
    UNROLL
    for (int i = 7; i >= 0; i--)
        q = vf_fma(q, u, vf_set(P[i]));
    const vf tail = vf_mul(half, vf_mul(e, vf_mul(t, q)));
    return vf_less_select(x, vf_set(0.0f), vf_sub(vf_set(0.0f), tail), vf_sub(x, tail));
}

MATH vf vf_silu(vf x)
{
    x = vf_less_select(x, vf_set(-87.0f), vf_set(-87.0f), x);
    return vf_mul(x, vf_sigmoid(x));
}

MATH vf vf_gelu_tanh(vf x)
{
    x = vf_less_select(x, vf_set(-10.0f), vf_set(-10.0f), x); /* gelu(-10) = -1e-37 */
    vf limited = vf_less_select(vf_set(10.0f), x, vf_set(10.0f), x);
    vf cube = vf_mul(vf_mul(limited, limited), limited);
    vf argument = vf_mul(vf_set(0x1.988454p+0f), vf_fma(vf_set(0.044715f), cube, limited));
    return vf_mul(x, vf_sigmoid(argument));
}

/* max(x, 0) + u P(u), u = e^-|x|; log(1 + u) = u P(u) to 5e-9 */
MATH vf vf_softplus(vf x)
{
    static const float P[10] = {0x1.000000p+0f,  -0x1.ffffb8p-2f, 0x1.554bd6p-2f,  -0x1.ff0254p-3f, 0x1.92b430p-3f,
                                -0x1.38b908p-3f, 0x1.afdde8p-4f,  -0x1.cdd008p-5f, 0x1.402f4cp-6f,  -0x1.a04acap-9f};
    vf a = vf_abs(x);
    a = vf_less_select(vf_set(87.0f), a, vf_set(87.0f), a);
    vf scale;
    const vf p = vf_exp_reduced(vf_sub(vf_set(0.0f), a), &scale);
    const vf u = vf_fma(scale, p, scale);
    vf q = vf_set(P[9]);
    UNROLL
    for (int i = 8; i >= 0; i--)
        q = vf_fma(q, u, vf_set(P[i]));
    return vf_fma(u, q, vf_less_select(x, vf_set(0.0f), vf_set(0.0f), x));
}

MATH vf vf_elu(vf x, vf a, vf b)
{
    vf negative = vf_less_select(x, vf_set(0.0f), x, vf_set(0.0f));
    negative = vf_less_select(negative, vf_set(-30.0f), vf_set(-30.0f), negative);
    vf scale;
    const vf p = vf_exp_reduced(negative, &scale);
    const vf t = vf_fma(scale, p, vf_sub(scale, vf_set(1.0f)));
    const vf positive = vf_less_select(x, vf_set(0.0f), vf_set(0.0f), x);
    return vf_less_select(x, vf_set(0.0f), vf_mul(a, t), vf_mul(b, positive));
}

INLINE vf vf_leaky_relu(vf x, vf a)
{
    return vf_less_select(x, vf_set(0.0f), vf_mul(a, x), x);
}

INLINE vf vf_hard_sigmoid(vf x, vf a, vf b)
{
    const vf y = vf_add(vf_mul(a, x), b);
    const vf limited = vf_less_select(y, vf_set(0.0f), vf_set(0.0f), y);
    return vf_less_select(vf_set(1.0f), limited, vf_set(1.0f), limited);
}

/* t times what vf_hard_sigmoid gives. Where that is 0, -infinity must not meet it */
INLINE vf vf_hard_swish(vf x, vf a, vf b)
{
    const vf lowest = vf_set(-FLT_LARGEST), limited = vf_less_select(x, lowest, lowest, x);
    return vf_mul(limited, vf_hard_sigmoid(x, a, b));
}
