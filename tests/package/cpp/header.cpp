/* usage: header MODEL NO_MODEL. libemulator.hpp against the C library: the same bits through every kind of array, nothing
 * allocated in a call, errors as status or exception. MODEL has 7 inputs and 2 outputs. */
#include <libemulator.hpp>

#include <cfenv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../c/check.h"
#include "count_allocations.hpp"
#include "views.hpp"

using libemulator::by_column;
using libemulator::by_sample;
using libemulator::Column;
using libemulator::Matrix;
using libemulator::Model;
using libemulator::ModelView;
using libemulator::Workspace;

enum { INPUTS = 7, OUTPUTS = 2, SAMPLES = 2500 };

template <class T> struct Case {
    std::vector<T> x, y; /* [sample][column], results of the C library */
};

static emu_status c_infer(const emu_model *m, std::int64_t n, const double *x, double *y)
{
    return emu_infer_f64(m, n, x, INPUTS, 1, y, OUTPUTS, 1, nullptr, 0);
}
static emu_status c_infer(const emu_model *m, std::int64_t n, const float *x, float *y)
{
    return emu_infer_f32(m, n, x, INPUTS, 1, y, OUTPUTS, 1, nullptr, 0);
}

template <class T> Case<T> make_case(const Model &model)
{
    Case<T> c;
    std::mt19937_64 random(1);
    c.x.resize(SAMPLES * INPUTS);
    c.y.resize(SAMPLES * OUTPUTS);
    for (std::size_t i = 0; i < c.x.size(); i++) {
        const double low = emu_input_min(model.get(), i % INPUTS), high = emu_input_max(model.get(), i % INPUTS);
        c.x[i] = static_cast<T>(low + (high - low) * std::uniform_real_distribution<double>(0.01, 0.99)(random));
    }
    CHECK(c_infer(model.get(), SAMPLES, c.x.data(), c.y.data()) == EMU_OK, "reference");
    return c;
}

template <class T> bool same_bits(T a, T b)
{
    return std::memcmp(&a, &b, sizeof a) == 0;
}

/* ---- views ---- */

template <class T, class Layout, bool samples_first> void check_views(const ModelView &model, const Case<T> &c)
{
    const std::size_t padding = 3;
    const std::size_t rows = samples_first ? SAMPLES : INPUTS, columns = samples_first ? INPUTS : SAMPLES;
    const std::size_t y_rows = samples_first ? SAMPLES : OUTPUTS, y_columns = samples_first ? OUTPUTS : SAMPLES;
    std::vector<T> x_values(View<T, Layout>::span(rows, columns, padding), std::numeric_limits<T>::signaling_NaN());
    std::vector<T> y_values(View<T, Layout>::span(y_rows, y_columns, padding), T(-77));
    const View<T, Layout> x(x_values.data(), rows, columns, padding);
    const View<const T, Layout> const_x(x_values.data(), rows, columns, padding);
    const View<T, Layout> y(y_values.data(), y_rows, y_columns, padding);
    for (std::size_t s = 0; s < SAMPLES; s++)
        for (std::size_t f = 0; f < INPUTS; f++)
            (samples_first ? x(s, f) : x(f, s)) = c.x[s * INPUTS + f];
    long wrong = 0;
    for (int constant = 0; constant < 2; constant++) {
        emu_status status;
        if (samples_first)
            status = constant ? model.infer(by_sample(const_x), by_sample(y)) : model.infer(by_sample(x), by_sample(y));
        else
            status = constant ? model.infer(by_column(const_x), by_column(y)) : model.infer(by_column(x), by_column(y));
        wrong += status != EMU_OK;
        for (std::size_t s = 0; s < SAMPLES; s++)
            for (std::size_t j = 0; j < OUTPUTS; j++) {
                T &value = samples_first ? y(s, j) : y(j, s);
                wrong += !same_bits(value, c.y[s * OUTPUTS + j]);
                value = T(-77);
            }
    }
    for (const T value : y_values) /* the padding, and what was put back */
        wrong += value != T(-77);
    CHECK(wrong == 0, "%ld wrong", wrong);
}

/* ---- fields that lie apart ---- */

template <class T> void check_columns(const ModelView &model, const Case<T> &c)
{
    /* x: fields of one column with strides of their own, two of them in one array; y: apart as well */
    std::vector<std::vector<T>> fields(INPUTS), results(OUTPUTS);
    std::vector<Column<const T>> x(INPUTS);
    std::vector<Column<T>> y(OUTPUTS);
    for (std::size_t f = 0; f < INPUTS; f++) {
        const std::size_t stride = f % 3 + 1;
        fields[f].assign(SAMPLES * stride + 100 * f, std::numeric_limits<T>::signaling_NaN());
        for (std::size_t s = 0; s < SAMPLES; s++)
            fields[f][s * stride] = c.x[s * INPUTS + f];
        x[f] = {fields[f].data(), static_cast<std::int64_t>(stride)};
    }
    std::vector<T> packed(SAMPLES * INPUTS), packed_y(SAMPLES * OUTPUTS);
    std::vector<Column<const T>> even(INPUTS);
    std::vector<Column<T>> even_y(OUTPUTS);
    packed = c.x;
    for (std::size_t f = 0; f < INPUTS; f++)
        even[f] = {packed.data() + f, INPUTS};
    for (std::size_t j = 0; j < OUTPUTS; j++) {
        even_y[j] = {packed_y.data() + j, OUTPUTS};
        results[j].resize(SAMPLES * (j + 1) + 1);
        y[j] = {results[j].data(), static_cast<std::int64_t>(j + 1)};
    }
    long wrong = 0;
    for (int how = 0; how < 4; how++) { /* each side in place or staged */
        for (const std::int64_t n : {0, 1, 5, 48, 431, 432, 433, 2017, int(SAMPLES)} /* blocks: 432, 2016 */) {
            for (std::size_t j = 0; j < OUTPUTS; j++)
                results[j].assign(results[j].size(), T(-77));
            packed_y.assign(packed_y.size(), T(-77));
            Column<T> *const to = how & 1 ? even_y.data() : y.data();
            wrong += model.infer_columns(n, how & 2 ? even.data() : x.data(), to) != EMU_OK;
            for (std::int64_t s = 0; s < SAMPLES; s++)
                for (std::size_t j = 0; j < OUTPUTS; j++) {
                    const T value = to[j].data[s * to[j].stride], expected = c.y[static_cast<std::size_t>(s) * OUTPUTS + j];
                    wrong += s < n ? !same_bits(value, expected) : value != T(-77);
                }
        }
    }
    for (std::size_t s = 0; s < SAMPLES; s++) /* between the values of the second field's results */
        wrong += results[1][2 * s + 1] != T(-77);
    CHECK(wrong == 0, "%ld wrong", wrong);

    /* one stride, but the columns in no order */
    std::swap(even[1], even[4]);
    for (std::size_t s = 0; s < SAMPLES; s++)
        std::swap(packed[s * INPUTS + 1], packed[s * INPUTS + 4]);
    CHECK(model.infer_columns(SAMPLES, even.data(), even_y.data()) == EMU_OK && packed_y == c.y, "in no order");

    /* the same guard, whole or in blocks */
    std::vector<T> far = c.x;
    far[3 * INPUTS + 2] = T(-1e30);
    far[700 * INPUTS] = T(1e30);
    far[701 * INPUTS + 6] = std::numeric_limits<T>::quiet_NaN();
    for (std::size_t f = 0; f < INPUTS; f++)
        for (std::size_t s = 0; s < SAMPLES; s++)
            fields[f][s * static_cast<std::size_t>(x[f].stride)] = far[s * INPUTS + f];
    std::vector<std::int32_t> outside[2];
    std::vector<std::int64_t> below[2];
    std::vector<T> whole_y(SAMPLES * OUTPUTS);
    emu_guard guard[2];
    for (int i = 0; i < 2; i++) {
        emu_guard_init(&guard[i]);
        outside[i].assign(SAMPLES, -1);
        below[i].assign(INPUTS, 0);
        guard[i].outside = outside[i].data();
        guard[i].below = below[i].data();
        guard[i].clamp = 1;
    }
    const View<const T, Right> whole(far.data(), SAMPLES, INPUTS);
    CHECK(model.infer(by_sample(whole), by_sample(View<T, Right>(whole_y.data(), SAMPLES, OUTPUTS)), {}, &guard[0]) == EMU_OK,
          "guarded");
    CHECK(model.infer_columns(SAMPLES, x.data(), y.data(), {}, &guard[1]) == EMU_OK, "guarded");
    CHECK(guard[0].num_outside == 3 && guard[1].num_outside == 3 && guard[1].num_samples == SAMPLES, "counters");
    CHECK(outside[0] == outside[1] && below[0] == below[1] && guard[1].outside == outside[1].data(), "the mask");
    wrong = 0;
    for (std::size_t s = 0; s < SAMPLES; s++)
        for (std::size_t j = 0; j < OUTPUTS; j++) {
            const T a = whole_y[s * OUTPUTS + j], b = results[j][s * (j + 1)];
            wrong += !same_bits(a, b) && !(std::isnan(a) && std::isnan(b));
        }
    CHECK(wrong == 0, "%ld wrong", wrong);
}

/* ---- memory ---- */

static void check_memory(const ModelView &model, const Case<double> &c)
{
    std::vector<double> y(SAMPLES * OUTPUTS), z(SAMPLES * OUTPUTS);
    std::vector<char> scratch(model.workspace_size());
    std::vector<Column<const double>> x(INPUTS);
    std::vector<Column<double>> apart(OUTPUTS);
    for (std::size_t f = 0; f < INPUTS; f++)
        x[f] = {c.x.data() + f, f == 3 ? INPUTS - 1 : INPUTS}; /* wrong numbers, but apart */
    for (std::size_t j = 0; j < OUTPUTS; j++)
        apart[j] = {z.data() + j, OUTPUTS};
    long made = 0;
    emu_status status[2] = {EMU_ERR_MEMORY, EMU_ERR_MEMORY};
    std::thread([&] { /* a thread that has no workspace of its own yet */
        const long before = allocations;
        const Workspace workspace{scratch.data(), scratch.size()};
        status[0] = model.infer(by_sample(View<const double, Right>(c.x.data(), SAMPLES, INPUTS)),
                                by_sample(View<double, Right>(y.data(), SAMPLES, OUTPUTS)), workspace);
        status[1] = model.infer_columns(SAMPLES - 6, x.data(), apart.data(), workspace);
        made = allocations - before;
    }).join();
    CHECK(status[0] == EMU_OK && status[1] == EMU_OK, "calls with a workspace");
    CHECK(made == 0, "%ld allocations", made);
    CHECK(y == c.y, "the same numbers");
    CHECK(model.infer(by_sample(View<const double, Right>(c.x.data(), SAMPLES, INPUTS)),
                      by_sample(View<double, Right>(y.data(), SAMPLES, OUTPUTS)), {scratch.data(), 8}) == EMU_ERR_ARGUMENT,
          "a workspace that is too small");
}

/* ---- misuse ---- */

static void check_refusals(const Model &model, const Case<double> &c)
{
    std::vector<double> y(SAMPLES * OUTPUTS, -77.0);
    const auto x_is = [&](std::size_t samples, std::size_t inputs) {
        return by_sample(View<const double, Right>(c.x.data(), samples, inputs));
    };
    const auto y_is = [&](std::size_t samples, std::size_t outputs) {
        return by_sample(View<double, Right>(y.data(), samples, outputs));
    };
    CHECK(model.infer(x_is(10, INPUTS - 1), y_is(10, OUTPUTS)) == EMU_ERR_ARGUMENT, "inputs");
    CHECK(model.infer(x_is(10, INPUTS), y_is(10, OUTPUTS - 1)) == EMU_ERR_ARGUMENT, "outputs");
    CHECK(model.infer(x_is(10, INPUTS), y_is(9, OUTPUTS)) == EMU_ERR_ARGUMENT, "samples");
    CHECK(ModelView().infer(x_is(10, INPUTS), y_is(10, OUTPUTS)) == EMU_ERR_ARGUMENT, "no model");
    std::vector<Column<const double>> x(INPUTS, {c.x.data(), INPUTS});
    std::vector<Column<double>> to(OUTPUTS, {y.data(), OUTPUTS});
    to[1].data = nullptr;
    CHECK(model.infer_columns(10, x.data(), to.data()) == EMU_ERR_ARGUMENT, "a column that is nowhere");
    to[1].data = y.data() + 1;
    CHECK(model.infer_columns(-1, x.data(), to.data()) == EMU_ERR_ARGUMENT, "fewer than no samples");
    CHECK(ModelView().infer_columns(1, x.data(), to.data()) == EMU_ERR_ARGUMENT, "no model");
    CHECK(y == std::vector<double>(y.size(), -77.0), "y is untouched");

    const char *names[INPUTS];
    const char *units[INPUTS];
    for (int i = 0; i < INPUTS; i++) {
        names[i] = emu_input_name(model.get(), i);
        units[i] = emu_input_unit(model.get(), i);
    }
    CHECK(model.require_inputs({names[0], names[1], names[2], names[3], names[4], names[5], names[6]},
                               {units[0], units[1], units[2], units[3], units[4], units[5], units[6]}).ok(), "as it is");
    const auto swapped = model.require_inputs({names[1], names[0], names[2], names[3], names[4], names[5], names[6]},
                                              {units[0], units[1], units[2], units[3], units[4], units[5], units[6]});
    CHECK(swapped.code == EMU_ERR_MISMATCH && std::strstr(swapped.message, names[1]) != nullptr, "%s", swapped.message);
    CHECK(model.require_outputs({"rate_1"}, {"s-1"}).code == EMU_ERR_MISMATCH, "one output of two");
    CHECK(model.require_outputs({"rate_1", "rate_2"}, {"s-1"}).code == EMU_ERR_ARGUMENT, "a unit is missing");
}

static void check_handles(const char *path, const char *no_path)
{
    static_assert(!std::is_copy_constructible<Model>::value && !std::is_copy_assignable<Model>::value, "owns its memory");
    static_assert(std::is_nothrow_move_constructible<Model>::value && std::is_nothrow_move_assignable<Model>::value, "");
    static_assert(std::is_trivially_copyable<ModelView>::value, "may go into a lambda");
    Model a, b;
    CHECK(!a.is_loaded() && a.num_inputs() == 0 && a.load(path).ok() && a.is_loaded(), "load");
    const emu_model *const loaded = a.get();
    b = std::move(a);
    CHECK(b.get() == loaded && !a.is_loaded(), "assigned");
    Model c(std::move(b));
    CHECK(c.get() == loaded && !b.is_loaded() && c.num_inputs() == INPUTS && c.num_outputs() == OUTPUTS, "moved");
    const ModelView view = c;
    CHECK(view.get() == loaded, "a view of it");
    const auto failed = c.load(no_path);
    CHECK(failed.code == EMU_ERR_FILE && std::strstr(failed.message, no_path) != nullptr, "%s", failed.message);
    CHECK(!c.is_loaded(), "nothing is left of the old one");
    CHECK(c.load_bytes("no model", 8).code == EMU_ERR_FORMAT, "bytes");
    emu_options options;
    emu_options_init(&options);
    options.precision = 64;
    CHECK(c.load(path, &options).ok() && emu_precision(c.get()) == 64, "options");
#if defined(__cpp_exceptions)
    const Model d(path, &options);
    CHECK(d.is_loaded(), "constructed");
    std::string said;
    emu_status code = EMU_OK;
    try {
        const Model e(no_path);
    } catch (const libemulator::Error &error) {
        said = error.what();
        code = error.code();
    }
    CHECK(code == EMU_ERR_FILE && said == failed.message, "%s", said.c_str());
    try {
        const Model e("no model", 8);
    } catch (const std::runtime_error &error) {
        said = error.what();
    }
    CHECK(said != failed.message, "%s", said.c_str());
#endif
}

static void check_threads(const Model &model, const Case<double> &c)
{
    std::vector<std::thread> threads;
    long wrong = 0;
    const ModelView view = model;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([view, &c, &wrong] {
            std::vector<double> y(SAMPLES * OUTPUTS);
            for (int round = 0; round < 20; round++) {
                const emu_status status = view.infer(by_sample(View<const double, Right>(c.x.data(), SAMPLES, INPUTS)),
                                                     by_sample(View<double, Right>(y.data(), SAMPLES, OUTPUTS)));
                if (status != EMU_OK || y != c.y)
                    __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    CHECK(wrong == 0, "%ld wrong", wrong);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW); /* as a host's debug build does */
    check_handles(argv[1], argv[2]);
    Model model;
    CHECK(model.load(argv[1]).ok(), "load");
    const Case<double> c = make_case<double>(model);
    const Case<float> f = make_case<float>(model);
    check_views<double, Left, true>(model, c);
    check_views<double, Left, false>(model, c);
    check_views<double, Right, true>(model, c);
    check_views<double, Right, false>(model, c);
    check_views<float, Left, true>(model, f);
    check_views<float, Right, false>(model, f);
    check_columns<double>(model, c);
    check_columns<float>(model, f);
    check_memory(model, c);
    check_refusals(model, c);
    check_threads(model, c);
#if defined(__cpp_exceptions)
    FINISH(51);
#else
    FINISH(48);
#endif
}
