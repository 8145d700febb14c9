/* usage: kokkos MODEL SMALL_MODEL. Views of Kokkos in both layouts, and a loop over columns as EAMxx has them: the bits of
 * the C library. page.inc is the example of fortran_bridge/E3SM.md; SMALL_MODEL has its 3 inputs and 1 output. */
#include <Kokkos_Core.hpp>
#include <libemulator.hpp>

#include <atomic>
#include <vector>

#include "../../c/check.h"

using libemulator::by_column;
using libemulator::by_sample;
using libemulator::Column;
using libemulator::column;
using libemulator::ModelView;

enum { INPUTS = 7, OUTPUTS = 2, COLUMNS = 12, LEVELS = 72, SAMPLES = COLUMNS * LEVELS };

template <class Layout> using Matrix = Kokkos::View<double **, Layout, Kokkos::HostSpace>;
using Field = Kokkos::View<double **, Kokkos::LayoutRight, Kokkos::HostSpace>; /* (column, level), as in EAMxx */

static double input(const ModelView &model, int s, int f)
{
    const double low = emu_input_min(model.get(), f), high = emu_input_max(model.get(), f);
    return low + (high - low) * ((37 * s + 11 * f) % 101) / 101.0;
}

template <class Layout> void check_layout(const ModelView &model, const std::vector<double> &expected)
{
    const Matrix<Layout> x("x", SAMPLES, INPUTS), y("y", SAMPLES, OUTPUTS), yt("yt", OUTPUTS, SAMPLES);
    for (int s = 0; s < SAMPLES; s++)
        for (int f = 0; f < INPUTS; f++)
            x(s, f) = input(model, s, f);
    const Kokkos::View<const double **, Layout, Kokkos::HostSpace> read_only = x;
    CHECK(model.infer(by_sample(read_only), by_sample(y)) == EMU_OK, "y(sample, output)");
    CHECK(model.infer(by_sample(x), by_column(yt)) == EMU_OK, "y(output, sample)");
    const auto half = Kokkos::subview(y, Kokkos::make_pair(0, SAMPLES / 2), Kokkos::ALL);
    CHECK(model.infer(by_sample(Kokkos::subview(x, Kokkos::make_pair(0, SAMPLES / 2), Kokkos::ALL)), by_sample(half)) == EMU_OK,
          "a part of it");
    long wrong = 0;
    for (int s = 0; s < SAMPLES; s++)
        for (int j = 0; j < OUTPUTS; j++) {
            const double value = expected[static_cast<std::size_t>(s * OUTPUTS + j)];
            wrong += y(s, j) != value || yt(j, s) != value;
        }
    CHECK(wrong == 0, "%ld wrong", wrong);
}

/* Fields of their own, a column of levels at a time, from a parallel loop on the host */
static void check_fields(const ModelView &model, const std::vector<double> &expected)
{
    std::vector<Field> x, y;
    for (int f = 0; f < INPUTS; f++) {
        x.emplace_back("x", COLUMNS, LEVELS);
        for (int s = 0; s < SAMPLES; s++)
            x.back()(s / LEVELS, s % LEVELS) = input(model, s, f);
    }
    for (int j = 0; j < OUTPUTS; j++)
        y.emplace_back("y", COLUMNS, LEVELS);
    std::atomic<long> failed{0};
    Kokkos::parallel_for(
        Kokkos::RangePolicy<Kokkos::DefaultHostExecutionSpace>(0, COLUMNS), [=, &x, &y, &failed](const int i) {
            Column<const double> from[INPUTS];
            Column<double> to[OUTPUTS];
            for (std::size_t f = 0; f < INPUTS; f++) {
                const auto levels = column(Kokkos::subview(x[f], i, Kokkos::ALL));
                from[f] = {levels.data, levels.stride};
            }
            for (std::size_t j = 0; j < OUTPUTS; j++)
                to[j] = column(Kokkos::subview(y[j], i, Kokkos::ALL));
            failed += model.infer_columns(LEVELS, from, to) != EMU_OK;
        });
    Kokkos::fence();
    long wrong = failed;
    for (int s = 0; s < SAMPLES; s++)
        for (std::size_t j = 0; j < OUTPUTS; j++)
            wrong += y[j](s / LEVELS, s % LEVELS) != expected[static_cast<std::size_t>(s) * OUTPUTS + j];
    CHECK(wrong == 0, "%ld wrong", wrong);
}

/* The lines of the page, with the fields that they name */
#define EKAT_REQUIRE_MSG(condition, text) CHECK(condition, "%s", text)
static void check_the_page(const char *path)
{
    const int num_levels = LEVELS;
    const Field T("T", COLUMNS, LEVELS), p("p", COLUMNS, LEVELS), w("w", COLUMNS, LEVELS), fn("fn", COLUMNS, LEVELS);
    for (int s = 0; s < SAMPLES; s++) {
        T(s / LEVELS, s % LEVELS) = 0.1 + s % 7;
        p(s / LEVELS, s % LEVELS) = 0.1 + s % 11;
        w(s / LEVELS, s % LEVELS) = 0.1 + s % 13;
    }
    const Kokkos::RangePolicy<Kokkos::DefaultHostExecutionSpace> host_policy(0, COLUMNS);
#include "page.inc"
    long wrong = 0;
    for (int s = 0; s < SAMPLES; s++) {
        const double x[3] = {0.1 + s % 7, 0.1 + s % 11, 0.1 + s % 13};
        double y = 0;
        wrong += emu_infer_f64(model.get(), 1, x, 1, 1, &y, 1, 1, nullptr, 0) != EMU_OK;
        wrong += y != fn(s / LEVELS, s % LEVELS);
    }
    CHECK(wrong == 0, "%ld wrong", wrong);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    Kokkos::ScopeGuard kokkos(argc, argv);
    libemulator::Model model(argv[1]);
    std::vector<double> x(SAMPLES * INPUTS), expected(SAMPLES * OUTPUTS);
    for (int s = 0; s < SAMPLES; s++)
        for (int f = 0; f < INPUTS; f++)
            x[static_cast<std::size_t>(s * INPUTS + f)] = input(model, s, f);
    CHECK(emu_infer_f64(model.get(), SAMPLES, x.data(), INPUTS, 1, expected.data(), OUTPUTS, 1, nullptr, 0) == EMU_OK, "reference");
    check_layout<Kokkos::LayoutLeft>(model, expected);
    check_layout<Kokkos::LayoutRight>(model, expected);
    check_fields(model, expected);
    check_the_page(argv[2]);
    FINISH(12);
}
