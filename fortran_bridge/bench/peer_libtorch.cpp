// LibTorch: the TorchScript module, frozen (or also through optimize_for_inference: faster for few samples only), in
// inference mode, one thread.
#include "bench.h"

#include <ATen/Parallel.h>
#include <torch/script.h>
#include <torch/version.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

struct State {
    const bench_network *network;
    bool bare; // float32 layers alone: normalised and converted here
    torch::jit::Module module;
    std::vector<float> rows_in;
};

void *load(const bench_network *network, char *message, bool bare, bool optimise)
{
    try {
        at::set_num_threads(1);
        auto state = std::make_unique<State>();
        state->network = network;
        state->bare = bare;
        const std::string path = std::string(network->folder) + (bare ? "/bare.pt" : "/model.pt");
        state->module = torch::jit::load(path);
        state->module.eval();
        state->module = optimise ? torch::jit::optimize_for_inference(state->module) : torch::jit::freeze(state->module);
        return state.release();
    } catch (const std::exception &error) {
        std::snprintf(message, BENCH_TEXT, "%s", error.what());
        return nullptr;
    }
}

void *load_module(const bench_network *network, char *message) { return load(network, message, false, false); }
void *load_bare(const bench_network *network, char *message) { return load(network, message, true, false); }
void *load_optimised(const bench_network *network, char *message) { return load(network, message, true, true); }

int infer(void *opaque, long n, const double *x, double *y)
{
    try {
        State &state = *static_cast<State *>(opaque);
        const bench_network &network = *state.network;
        const long num_inputs = network.width[0], num_outputs = network.width[network.num_layers];
        const c10::InferenceMode guard;
        std::vector<torch::jit::IValue> inputs;
        if (state.bare) {
            state.rows_in.resize(static_cast<size_t>(n * num_inputs));
            bench_stage_in(&network, n, x, state.rows_in.data());
            inputs.emplace_back(torch::from_blob(state.rows_in.data(), {n, num_inputs}, torch::kFloat32));
        } else { // LibTorch takes a host's columns as they are
            inputs.emplace_back(torch::from_blob(const_cast<double *>(x), {n, num_inputs}, {1, n}, torch::kFloat64));
        }
        const at::Tensor result = state.module.forward(std::move(inputs)).toTensor();
        if (state.bare && result.is_contiguous())
            bench_stage_out(static_cast<int>(num_outputs), n, result.const_data_ptr<float>(), y);
        else
            torch::from_blob(y, {n, num_outputs}, {1, n}, torch::kFloat64).copy_(result);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "engine_bench: LibTorch: %s\n", error.what());
        return 1;
    }
}

void unload(void *opaque) { delete static_cast<State *>(opaque); }
const char *version() { return TORCH_VERSION; }

} // namespace

extern "C" const bench_plugin *bench_open()
{
    static const bench_backend backends[] = {{"libtorch", "whole graph", load_module, infer, unload, nullptr},
                                             {"libtorch", "layers only", load_bare, infer, unload, nullptr},
                                             {"libtorch", "layers only, optimize_for_inference", load_optimised,
                                              infer, unload, nullptr}};
    static const struct bench_plugin plugin = {3, backends, version};
    return &plugin;
}
