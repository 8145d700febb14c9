/* Against float64: whole networks, and log, exp and their kin, whose error is stated in libemulator.h. */
#define _GNU_SOURCE
#include "check.h"
#include "onnx_writer.h"

#include <float.h>
#include <math.h>

static void test_networks(void)
{
    static const int widths[] = {1, 3, 16, 17, 64, 65, 200};
    for (int c = 0; c < 20; c++) {
        uint64_t state = (uint64_t)c + 77;
        int shape[MAX_DEPTH + 1];
        const int depth = 1 + c % 8;
        for (int l = 0; l <= depth; l++)
            shape[l] = widths[random_bits(&state) % 7];
        net n = random_net((uint64_t)c, depth, shape, c % 3 == 0 ? "Tanh" : "Relu", c % 2 ? "Sigmoid" : "", c % 2);
        emu_model *m = load_net(&n);
        const int I = shape[0], O = shape[depth];
        double *x = malloc(60 * (size_t)I * sizeof *x), *y = malloc(60 * (size_t)O * sizeof *y);
        double *truth = malloc((size_t)O * sizeof *truth), worst = 0.0;
        random_inputs(&n, 3, 60, x);
        emu_infer_f64(m, 60, x, I, 1, y, O, 1, NULL, 0);
        for (int s = 0; s < 60; s++) {
            reference(&n, x + s * I, truth);
            for (int j = 0; j < O; j++) {
                /* an exponential output turns an absolute into a relative difference */
                const double scale = fmax(1.0, fabs(truth[j]));
                worst = fmax(worst, fabs(y[s * O + j] - truth[j]) / scale);
            }
        }
        /* eight float32 layers of at most 200 terms; normalised inputs reach a few units in the last place of 2^-24 */
        CHECK(worst < 2e-5, "net %d: worst difference %g", c, worst);
        free(x);
        free(y);
        free(truth);
        emu_free(m);
        free_net(&n);
    }
}

/* y = op(scale * x) in float64 after an identity layer: x must be a float32 number */
static emu_model *function_model(const char *op, double scale)
{
    bytes graph = {NULL, 0, 0};
    put_value_info(&graph, 11, "x", 11, 1);
    put_value_info(&graph, 12, "y", 11, 1);
    put_tensor(&graph, "W", 1, 2, (int64_t[]){1, 1}, (float[]){1.0f}, 4);
    put_tensor(&graph, "scale", 11, 0, NULL, &scale, 8);
    put_node(&graph, "Cast", "x", "x32", "to", 1);
    put_node(&graph, "Gemm", "x32 W", "s", NULL, 0);
    put_node(&graph, "Cast", "s", "s64", "to", 11);
    put_node(&graph, "Mul", "s64 scale", "t", NULL, 0);
    put_node(&graph, op, "t", "y", NULL, 0);
    bytes model = finish_model(&graph);
    emu_model *m = load_or_die(&model);
    free(model.data);
    return m;
}

static long double exact(const char *op, long double t)
{
    if (strcmp(op, "Log") == 0)
        return logl(t);
    if (strcmp(op, "Exp") == 0)
        return expl(t);
    if (strcmp(op, "Tanh") == 0)
        return tanhl(t);
    return 1.0L / (1.0L + expl(-t));
}

static void test_function(const char *op, double scale, double low, double high, int logarithmic, double most_ulp)
{
    enum { N = 20000 };
    static double x[N], y[N];
    emu_model *m = function_model(op, scale);
    uint64_t state = 11;
    for (int i = 0; i < N; i++) {
        const double u = low + uniform(&state) * (high - low);
        x[i] = (double)(float)(logarithmic ? exp(u) : u);
    }
    emu_infer_f64(m, N, x, 1, 1, y, 1, 1, NULL, 0);
    double worst = 0.0, at = 0.0;
    for (int i = 0; i < N; i++) {
        const long double truth = exact(op, (long double)(scale * x[i]));
        int exponent;
        frexpl(truth, &exponent);
        if (exponent < DBL_MIN_EXP)
            exponent = DBL_MIN_EXP; /* subnormal results have a fixed unit */
        const double ulp = (double)(fabsl((long double)y[i] - truth) / ldexpl(1.0L, exponent - DBL_MANT_DIG));
        if (!(ulp <= worst)) {
            worst = ulp;
            at = scale * x[i];
        }
    }
    CHECK(worst <= most_ulp, "%s: %g ulp at %a, at most %g stated", op, worst, at, most_ulp);
    emu_free(m);
}

static void test_special(const char *op, double x, double expected)
{
    emu_model *m = function_model(op, 1.0);
    double y = -7.0;
    emu_infer_f64(m, 1, &x, 1, 1, &y, 1, 1, NULL, 0);
    CHECK(isnan(expected) ? isnan(y) : y == expected, "%s(%g) = %g, expected %g", op, x, y, expected);
    emu_free(m);
}

/* Division by a constant is a multiplication, unless the reciprocal is no ordinary number. */
static void test_division(void)
{
    static const double divisors[4] = {3.0, 1e-310, 1e308, 0x1p-1022}, x[4] = {6.0, 2e-310, 1e308, 0x1p-1000};
    for (int i = 0; i < 4; i++) {
        bytes graph = {NULL, 0, 0};
        put_value_info(&graph, 11, "x", 11, 1);
        put_value_info(&graph, 12, "y", 1, 1);
        put_tensor(&graph, "d", 11, 0, NULL, &divisors[i], 8);
        put_tensor(&graph, "W", 1, 2, (int64_t[]){1, 1}, (float[]){1.0f}, 4);
        put_node(&graph, "Div", "x d", "q", NULL, 0);
        put_node(&graph, "Cast", "q", "q32", "to", 1);
        put_node(&graph, "MatMul", "q32 W", "y", NULL, 0);
        bytes model = finish_model(&graph);
        emu_model *m = load_or_die(&model);
        double y = -1.0;
        emu_infer_f64(m, 1, &x[i], 1, 1, &y, 1, 1, NULL, 0);
        CHECK(fabs(y - x[i] / divisors[i]) <= 1e-7 * x[i] / divisors[i], "%g / %g = %g", x[i], divisors[i], y);
        emu_free(m);
        free(model.data);
    }
}

int main(void)
{
    const char *isas[3];
    const int num_isas = available_isas(isas);
    for (int i = 0; i < num_isas; i++) {
        setenv("LIBEMULATOR_ISA", isas[i], 1);
        test_function("Log", 1.0, -80.0, 80.0, 1, 1.0);
        test_function("Log", 1.0, 0.5, 2.0, 0, 1.0); /* around 1, where the result is small */
        test_function("Log", 0x1p-1060, -20.0, 20.0, 1, 1.0); /* subnormal arguments */
        test_function("Exp", 1.0, -1.0, 1.0, 0, 1.0);
        test_function("Exp", 1.0, -700.0, 700.0, 0, 1.0);
        test_function("Exp", 1.0, -745.0, -708.0, 0, 1.0); /* subnormal results */
        test_function("Sigmoid", 1.0, -40.0, 40.0, 0, 3.0);
        test_function("Sigmoid", 1.0, -700.0, 700.0, 0, 3.0);
        test_function("Tanh", 1.0, -25.0, 25.0, 0, 3.0);
        test_function("Tanh", 1.0, -30.0, 0.0, 1, 3.0); /* close to 0: relative, not absolute */
        test_special("Log", 0.0, -(double)INFINITY);
        test_special("Log", -1.0, (double)NAN);
        test_special("Log", (double)INFINITY, (double)INFINITY);
        test_special("Log", (double)NAN, (double)NAN);
        test_special("Log", 1.0, 0.0);
        test_special("Exp", -(double)INFINITY, 0.0);
        test_special("Exp", (double)INFINITY, (double)INFINITY);
        test_special("Exp", (double)NAN, (double)NAN);
        test_special("Exp", 0.0, 1.0);
        test_special("Sigmoid", (double)INFINITY, 1.0);
        test_special("Sigmoid", 0.0, 0.5);
        test_special("Sigmoid", (double)NAN, (double)NAN);
        test_special("Tanh", -(double)INFINITY, -1.0);
        test_special("Tanh", (double)NAN, (double)NAN);
        test_special("Tanh", -0.0, -0.0);
        test_special("Sqrt", 9.0, 3.0);
        test_special("Relu", (double)NAN, (double)NAN);
        test_special("Relu", -3.0, 0.0);
        test_networks();
        test_division();
    }
    unsetenv("LIBEMULATOR_ISA");
    FINISH(num_isas * (10 + 18 + 20 + 4));
}
