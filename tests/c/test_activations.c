/* Activations in float32 and operations in float64 against long double: errors in units of the last place, as stated in
 * kernel_math.h; the same bits on every instruction set; NaN goes through, and no exception but inexact and underflow. */
#define _GNU_SOURCE
#include "check.h"

#include <fenv.h>
#include <math.h>

#include "activation_values.h"
#include "model.h"

enum { POINTS = 20000 };
static const double A = 1.5, B = 1.25;

static long double sigmoid(long double x) { return 1.0L / (1.0L + expl(-x)); }
static long double gelu(long double x) { return 0.5L * x * erfcl(-x * sqrtl(0.5L)); }
static long double gelu_tanh(long double x) { return x * sigmoid(2.0L * sqrtl(2.0L / acosl(-1.0L)) * (x + 0.044715L * x * x * x)); }
static long double silu(long double x) { return x * sigmoid(x); }
static long double softplus(long double x) { return x > 0.0L ? x + log1pl(expl(-x)) : log1pl(expl(x)); }
static long double elu(long double x) { return x < 0.0L ? (long double)A * expm1l(x) : (long double)B * x; }
static long double leaky(long double x) { return x < 0.0L ? (long double)A * x : x; }
static long double hard_sigmoid(long double x) { return fminl(1.0L, fmaxl(0.0L, (long double)A * x + (long double)B)); }
static long double hard_swish(long double x) { return x * hard_sigmoid(x); }

typedef struct {
    const char *name;
    int activation, op; /* the same in float32 and in float64 */
    long double (*truth)(long double);
    double low, high; /* where it is tested in float32; in float64 it is the same */
    double single_ulp, double_ulp; /* largest error; 0: not made */
} function;

/* hard_sigmoid and hard_swish round twice, and lose bits where a x + b nears 0; gelu_tanh multiplies the rounding error of
 * its argument by it */
static const function functions[] = {
    {"sigmoid", ACT_SIGMOID, OP_SIGMOID, sigmoid, -80, 80, 3, 2.5},
    {"tanh", ACT_TANH, OP_TANH, tanhl, -12, 12, 3, 2},
    {"erf", ACT_NONE, OP_ERF, erfl, -7, 7, 0, 3},
    {"gelu", ACT_GELU, OP_GELU, gelu, -12, 12, 7, 7},
    {"gelu, near 0", ACT_GELU, OP_GELU, gelu, -0.1, 0.1, 7, 7},
    {"gelu_tanh", ACT_GELU_TANH, OP_GELU_TANH, gelu_tanh, -3, 6, 16, 16},
    {"silu", ACT_SILU, OP_SILU, silu, -80, 40, 4, 4},
    {"softplus", ACT_SOFTPLUS, OP_SOFTPLUS, softplus, -80, 80, 3, 3},
    {"elu", ACT_ELU, OP_ELU, elu, -40, 3, 3, 3},
    {"elu, near 0", ACT_ELU, OP_ELU, elu, -0.1, 0.1, 3, 3},
    {"leaky_relu", ACT_LEAKY_RELU, OP_LEAKY_RELU, leaky, -5, 5, 0.6, 0.6},
    {"hard_sigmoid", ACT_HARD_SIGMOID, OP_HARD_SIGMOID, hard_sigmoid, -0.5, 2, 2, 2},
    {"hard_swish", ACT_HARD_SWISH, OP_HARD_SWISH, hard_swish, -0.5, 2, 3, 3},
};
enum { FUNCTIONS = sizeof functions / sizeof functions[0] };

static double in_ulp(double error, double truth, int digits)
{
    int exponent;
    frexp(truth, &exponent);
    return error / ldexp(1.0, exponent - digits);
}

static void test_errors(const emu_values *values, const function *f)
{
    static float x[POINTS], y[POINTS];
    double worst = 0.0, worst_double = 0.0;
    for (int i = 0; i < POINTS; i++)
        x[i] = (float)(f->low + (f->high - f->low) * i / (POINTS - 1));
    values->activations(f->activation, (float)A, (float)B, POINTS, x, y);
    for (int i = 0; i < POINTS; i++) {
        const long double truth = f->truth((long double)x[i]);
        const double z = values->operation(f->op, A, B, (double)x[i]);
        const double error = in_ulp((double)fabsl((long double)y[i] - truth), (double)truth, 24);
        const double error_double = in_ulp((double)fabsl((long double)z - truth), (double)truth, 53);
        worst = error <= worst ? worst : error;
        worst_double = error_double <= worst_double ? worst_double : error_double;
    }
    CHECK(f->single_ulp == 0.0 || worst <= f->single_ulp, "%s in float32: %g ulp, at most %g stated", f->name, worst,
          f->single_ulp);
    CHECK(worst_double <= f->double_ulp, "%s in float64: %g ulp, at most %g stated", f->name, worst_double, f->double_ulp);
}

static void test_same_bits(const emu_values *values, const emu_values *expected, const function *f)
{
    static float x[POINTS], y[POINTS], z[POINTS];
    long wrong = 0;
    for (int i = 0; i < POINTS; i++)
        x[i] = (float)(2.0 * f->low + 2.0 * (f->high - f->low) * i / (POINTS - 1));
    values->activations(f->activation, (float)A, (float)B, POINTS, x, y);
    expected->activations(f->activation, (float)A, (float)B, POINTS, x, z);
    for (int i = 0; i < POINTS; i++) {
        const double p = values->operation(f->op, A, B, (double)x[i]), q = expected->operation(f->op, A, B, (double)x[i]);
        wrong += memcmp(&p, &q, sizeof p) != 0 || memcmp(&y[i], &z[i], sizeof *y) != 0;
    }
    CHECK(wrong == 0, "%s, %s against %s: %ld values", f->name, values->isa, expected->isa, wrong);
}

static void test_quiet(const emu_values *values, const function *f)
{
    static const float points[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 1e30f, -1e30f, 88.0f, -88.0f, 750.0f, -750.0f};
    enum { N = sizeof points / sizeof points[0] };
    float y[N], nan = NAN, from_nan;
    feclearexcept(FE_ALL_EXCEPT);
    values->activations(f->activation, (float)A, (float)B, N, points, y);
    values->activations(f->activation, (float)A, (float)B, 1, &nan, &from_nan);
    long wrong = !isnan(from_nan) + !isnan(values->operation(f->op, A, B, (double)NAN));
    for (int i = 0; i < N; i++)
        wrong += isnan(y[i]) + isnan(values->operation(f->op, A, B, (double)points[i]));
    const int raised = fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
    CHECK(wrong == 0 && raised == 0, "%s, %s: %ld results wrong, exceptions %x", f->name, values->isa, wrong,
          (unsigned)raised);
}

/* hard_swish is 0 far below: -infinity must not be multiplied by that 0, which would be NaN and raise "invalid" */
static void test_hard_swish_of_infinities(const emu_values *values)
{
    static const float points[] = {-INFINITY, INFINITY};
    float y[2];
    double z[2];
    feclearexcept(FE_ALL_EXCEPT);
    values->activations(ACT_HARD_SWISH, (float)A, (float)B, 2, points, y);
    for (int i = 0; i < 2; i++)
        z[i] = values->operation(OP_HARD_SWISH, A, B, (double)points[i]);
    const int raised = fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
    CHECK(y[0] == 0.0f && z[0] == 0.0, "hard_swish(-inf), %s: %g in float32, %g in float64", values->isa, (double)y[0], z[0]);
    CHECK(isinf(y[1]) && isinf(z[1]), "hard_swish(inf), %s: %g in float32, %g in float64", values->isa, (double)y[1], z[1]);
    CHECK(raised == 0, "hard_swish of infinities, %s: exceptions %x", values->isa, (unsigned)raised);
}

int main(void)
{
    const emu_values *all[3];
    int n = 0;
#if EMU_WITH_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        all[n++] = &emu_values_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        all[n++] = &emu_values_avx2;
#elif EMU_WITH_NEON
    all[n++] = &emu_values_neon;
#endif
    all[n++] = &emu_values_portable;
    for (int c = 0; c < FUNCTIONS; c++) {
        test_errors(all[0], &functions[c]);
        for (int i = 0; i < n; i++) {
            test_quiet(all[i], &functions[c]);
            test_same_bits(all[i], all[0], &functions[c]);
        }
    }
    for (int i = 0; i < n; i++)
        test_hard_swish_of_infinities(all[i]);
    FINISH(FUNCTIONS * (2 + 2 * n) + 3 * n);
}
