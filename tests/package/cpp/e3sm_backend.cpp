/* usage: e3sm_backend MODEL. The backend for E3SM's components/emulators against the C library, with the floating-point
 * traps of a debug build on: the same bits through every form of call, nothing allocated, everything that does not fit
 * refused by InferenceError with the outputs as they were. MODEL is conftest.py's described_model. */
#include <libemulator_e3sm.hpp>

#include <cfenv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <thread>

#include "../../c/check.h"
#include "count_allocations.hpp"

using namespace emulator::inference;
using libemulator::E3smBackend;

enum { INPUTS = 7, OUTPUTS = 2, COLUMNS = 13, LEVELS = 72, SAMPLES = COLUMNS * LEVELS };

static std::string path;
static std::vector<double> x(SAMPLES * INPUTS), expected(SAMPLES * OUTPUTS); /* [sample][column]: the C library's */

static InferenceConfig config(const std::map<std::string, std::string> &options = {})
{
    InferenceConfig c;
    c.model_path = path;
    c.options = options;
    return c;
}

static void make_expected(const emu_model *model)
{
    for (int s = 0; s < SAMPLES; s++)
        for (int f = 0; f < INPUTS; f++) {
            const double low = emu_input_min(model, f), high = emu_input_max(model, f);
            x[static_cast<std::size_t>(s * INPUTS + f)] = low + (high - low) * ((37 * s + 11 * f) % 101) / 101.0;
        }
    const emu_status status =
        emu_infer_f64(model, SAMPLES, x.data(), INPUTS, 1, expected.data(), OUTPUTS, 1, nullptr, 0);
    CHECK(status == EMU_OK, "reference");
}

/* Fields as a component has them: each of its own memory, [column][level]; the tracers in one array, [..][4] */
struct Fields {
    std::vector<double> temperature, pressure, wind, tracer, rate_1, rate_2, rate;
    Fields() : temperature(SAMPLES), pressure(SAMPLES), wind(SAMPLES), tracer(4 * SAMPLES), rate_1(SAMPLES, -77),
               rate_2(SAMPLES, -77), rate(2 * SAMPLES, -77)
    {
        for (std::size_t s = 0; s < SAMPLES; s++) {
            temperature[s] = x[s * INPUTS];
            pressure[s] = x[s * INPUTS + 1];
            wind[s] = x[s * INPUTS + 2];
            for (std::size_t k = 0; k < 4; k++)
                tracer[4 * s + k] = x[s * INPUTS + 3 + k];
        }
    }
    static const double *read(const std::vector<double> &field) { return field.data(); }
    TensorMap inputs(bool in_order = true) const
    {
        TensorMap map;
        if (!in_order)
            map.wrap("tracer", read(tracer), {COLUMNS, LEVELS, 4});
        map.wrap("temperature", read(temperature), {COLUMNS, LEVELS});
        map.wrap("pressure", read(pressure), {COLUMNS, LEVELS});
        map.wrap("wind", read(wind), {COLUMNS, LEVELS});
        if (in_order)
            map.wrap("tracer", read(tracer), {COLUMNS, LEVELS, 4});
        return map;
    }
    TensorMap outputs()
    {
        TensorMap map;
        map.wrap("rate_2", rate_2.data(), {COLUMNS, LEVELS});
        map.wrap("rate_1", rate_1.data(), {COLUMNS, LEVELS});
        return map;
    }
    long wrong() const
    {
        long n = 0;
        for (std::size_t s = 0; s < SAMPLES; s++)
            n += rate_1[s] != expected[2 * s] || rate_2[s] != expected[2 * s + 1];
        return n;
    }
    bool untouched() const
    {
        return rate_1 == std::vector<double>(SAMPLES, -77) && rate_2 == rate_1;
    }
};

/* ---- what it computes ---- */

static void check_named(E3smBackend &backend)
{
    for (const bool in_order : {true, false}) {
        Fields f;
        const TensorMap inputs = f.inputs(in_order);
        TensorMap outputs = f.outputs();
        InferenceBackend &base = backend;
        CHECK(base.infer(inputs, outputs) && f.wrong() == 0, "%ld wrong", f.wrong());
    }
    Fields f;
    const TensorMap inputs = f.inputs();
    TensorMap outputs;
    outputs.wrap("rate", f.rate.data(), {SAMPLES, 2}); /* outputs in one array */
    CHECK(backend.infer(inputs, outputs) && f.rate == expected, "grouped outputs");

    const std::vector<double> by_column = [] { /* fields that are sections of one array: used in place */
        std::vector<double> values(INPUTS * SAMPLES);
        for (std::size_t s = 0; s < SAMPLES; s++)
            for (std::size_t i = 0; i < INPUTS; i++)
                values[i * SAMPLES + s] = x[s * INPUTS + i];
        return values;
    }();
    TensorMap sections;
    for (std::size_t i = 0; i < INPUTS; i++)
        sections.wrap(emu_input_name(backend.model().get(), static_cast<std::int64_t>(i)), by_column.data() + i * SAMPLES,
                      {SAMPLES});
    f.rate.assign(f.rate.size(), -77);
    CHECK(backend.infer(sections, outputs) && f.rate == expected, "sections");

    TensorMap none, nothing; /* a rank without columns */
    for (const char *name : {"temperature", "pressure", "wind"})
        none.wrap(name, Fields::read(by_column) + SAMPLES, {0, LEVELS});
    none.wrap("tracer", static_cast<const double *>(nullptr), {0, LEVELS, 4});
    nothing.wrap("rate", static_cast<double *>(nullptr), {0, LEVELS, 2});
    CHECK(backend.infer(none, nothing), "no samples");
}

static void check_flat(E3smBackend &backend)
{
    InferenceBackend &base = backend; /* through E3SM's wrapper, and without it */
    std::vector<double> y(expected.size(), -77), z(expected.size(), -77);
    CHECK(base.infer(x.data(), y.data(), SAMPLES) && y == expected, "through the base class");
    CHECK(backend.infer(x.data(), z.data(), SAMPLES) && z == expected, "directly");
    for (int s = 0; s < SAMPLES; s++) /* one at a time, the default */
        backend.infer(x.data() + s * INPUTS, z.data() + s * OUTPUTS);
    CHECK(z == expected, "one at a time");
    TensorMap inputs, outputs; /* as tensors, [columns, levels, channels] */
    inputs.wrap("input", Fields::read(x), {COLUMNS, LEVELS, INPUTS});
    y.assign(y.size(), -77);
    outputs.wrap("output", y.data(), {COLUMNS, LEVELS, OUTPUTS});
    CHECK(base.infer(inputs, outputs) && y == expected, "packed tensors");
    CHECK(backend.infer(nullptr, nullptr, 0), "no samples");
}

static void check_memory(E3smBackend &backend)
{
    Fields f;
    const TensorMap inputs = f.inputs(false);
    TensorMap outputs = f.outputs();
    std::vector<double> y(expected.size());
    backend.infer(inputs, outputs); /* this thread has its workspace now */
    const long before = allocations;
    bool good = true;
    for (int round = 0; round < 100; round++)
        good = good && backend.infer(inputs, outputs) && backend.infer(x.data(), y.data(), SAMPLES);
    const long made = allocations - before;
    CHECK(good && made == 0, "%ld allocations", made);
}

static void check_threads(E3smBackend &backend)
{
    std::vector<std::thread> threads;
    std::atomic<long> wrong{0};
    const std::int64_t before = backend.num_samples();
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&] {
            Fields f;
            const TensorMap inputs = f.inputs();
            TensorMap outputs = f.outputs();
            for (int round = 0; round < 10; round++) {
                f.rate_1.assign(SAMPLES, -77);
                wrong += !backend.infer(inputs, outputs) || f.wrong() != 0;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    CHECK(wrong == 0, "%ld wrong", wrong.load());
    CHECK(backend.num_samples() - before == 40 * SAMPLES, "counted by all threads");
}

static void check_guard()
{
    std::vector<double> far = x, y(expected.size()), clamped = x;
    far[5 * INPUTS] = 1e9;
    E3smBackend none(config()), count(config({{"guard", "count"}})), clamp(config({{"guard", "clamp"}}));
    clamped[5 * INPUTS] = emu_input_max(none.model().get(), 0);
    std::vector<double> at_the_end(expected.size());
    none.infer(clamped.data(), at_the_end.data(), SAMPLES);
    none.infer(far.data(), y.data(), SAMPLES);
    CHECK(none.num_samples() == 0, "off by default");
    count.infer(far.data(), y.data(), SAMPLES);
    CHECK(count.num_samples() == SAMPLES && count.num_outside() == 1 && y != at_the_end, "counted");
    clamp.infer(far.data(), y.data(), SAMPLES);
    CHECK(clamp.num_outside() == 1 && y == at_the_end, "at the end of the range");
}

/* ---- what it refuses ---- */

template <class Call> std::string refusal(Call call)
{
    try {
        call();
    } catch (const InferenceError &error) {
        return error.what();
    }
    return "nothing was refused";
}

static void expect(const std::string &said, std::initializer_list<const char *> parts)
{
    bool good = said.rfind("[emulator::inference] ", 0) == 0;
    for (const char *part : parts)
        good = good && said.find(part) != std::string::npos;
    CHECK(good, "%s", said.c_str());
}

static std::string construct(const InferenceConfig &c)
{
    return refusal([&] { E3smBackend backend(c); });
}

static void check_refused_at_start()
{
    const char *const inputs = "temperature [K], pressure [hPa], wind [m s-1], tracer_1 [cm-3], tracer_2 [cm-3], "
                               "tracer_3 [cm-3], tracer_4 [cm-3]";
    E3smBackend good(config({{"inputs", inputs}, {"outputs", "rate_1 [s-1], rate_2 [s-1]"}}));
    CHECK(good.name() == "libemulator", "as the model has it");
    std::string wrong = inputs;
    expect(construct(config({{"inputs", wrong.replace(wrong.find("hPa"), 3, "Pa")}})), {"pressure", "'hPa'", "'Pa'"});
    wrong = inputs;
    expect(construct(config({{"inputs", wrong.replace(wrong.find("wind"), 4, "wund")}})), {"wind", "wund"});
    expect(construct(config({{"outputs", "rate_1 [s-1]"}})), {"1", "2"});
    expect(construct(config({{"outputs", "rate_1, rate_2"}})), {"'rate_1'", "name [unit]"});
    expect(construct(config({{"device", "cuda"}})), {"device", "precision"});
    expect(construct(config({{"precision", "16"}})), {"precision", "'16'"});
    InferenceConfig c;
    expect(construct(c), {"model_path"});
    c.model_path = "nowhere.onnx";
    expect(construct(c), {"nowhere.onnx"});
    c = config();
    c.input_channels = 8;
    expect(construct(c), {"input_channels", "8", "7"});
    expect(refusal([] { E3smBackend backend(config(), "no model", 8); }), {"libemulator"});
}

static std::string infer(E3smBackend &backend, const TensorMap &inputs, TensorMap outputs)
{
    return refusal([&] { backend.infer(inputs, outputs); });
}

static void check_refused_in_calls(E3smBackend &backend)
{
    Fields f;
    TensorMap map = f.inputs();
    map.wrap("humidity", Fields::read(f.wind), {COLUMNS, LEVELS});
    expect(infer(backend, map, f.outputs()), {"humidity[13,72]", "temperature, pressure"});
    TensorMap missing;
    missing.wrap("temperature", Fields::read(f.temperature), {COLUMNS, LEVELS});
    missing.wrap("tracer", Fields::read(f.tracer), {COLUMNS, LEVELS, 4});
    expect(infer(backend, missing, f.outputs()), {"no tensor gives input 'pressure'"});
    missing.wrap("pressure", Fields::read(f.pressure), {SAMPLES / 2});
    expect(infer(backend, missing, f.outputs()), {"pressure[468]", "468", "936"});
    TensorMap twice = f.inputs();
    twice.wrap("tracer_3", Fields::read(f.wind), {COLUMNS, LEVELS});
    expect(infer(backend, twice, f.outputs()), {"tracer_3", "a second time"});
    for (const std::int64_t members : {3, 5}) {
        TensorMap group;
        group.wrap("tracer", Fields::read(f.tracer), {COLUMNS, LEVELS, members});
        expect(infer(backend, group, f.outputs()), {members == 3 ? "no tensor gives" : "fits no input"});
    }
    TensorMap packed;
    packed.wrap("input", Fields::read(x), {SAMPLES, INPUTS - 1});
    expect(infer(backend, packed, f.outputs()), {"input[936,6]", "input[..., 7]"});
    TensorMap outputs;
    outputs.wrap("rate", f.rate.data(), {SAMPLES - 1, 2});
    expect(infer(backend, f.inputs(), std::move(outputs)), {"936", "935"});
    TensorMap read_only;
    read_only.wrap("rate", Fields::read(f.rate), {SAMPLES, 2});
    expect(infer(backend, f.inputs(), std::move(read_only)), {"read-only"});
    expect(infer(backend, f.inputs(), TensorMap()), {"no tensor gives output 'rate_1'"});
    expect(infer(backend, TensorMap(), f.outputs()), {"no tensor gives input 'temperature'"});
    expect(refusal([&] { backend.infer(x.data(), f.rate.data(), -1); }), {"batch_size", "-1"});
    CHECK(f.untouched(), "nothing was written");
    backend.finalize();
    backend.finalize();
    expect(infer(backend, f.inputs(), f.outputs()), {"finalize"});
    expect(refusal([&] { backend.infer(x.data(), f.rate.data()); }), {"finalize"});
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    path = argv[1];
    feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
    InferenceConfig c = config({{"guard", "count"}});
    c.input_channels = INPUTS;
    c.output_channels = OUTPUTS;
    E3smBackend backend(c);
    make_expected(backend.model().get());
    check_named(backend);
    check_flat(backend);
    check_memory(backend);
    check_threads(backend);
    check_guard();
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    std::vector<double> y(expected.size());
    E3smBackend broadcast(InferenceConfig(), bytes.data(), bytes.size());
    CHECK(broadcast.infer(x.data(), y.data(), SAMPLES) && y == expected, "from bytes");
    E3smBackend in_double(config({{"precision", "64"}}));
    CHECK(in_double.infer(x.data(), y.data(), SAMPLES) && y != expected, "in float64");
    check_refused_at_start();
    check_refused_in_calls(backend);
    CHECK(fegetexcept() == (FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW), "the host's traps");
    FINISH(46);
}
