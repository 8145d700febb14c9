// oneDNN: inner-product primitives with the activation fused, weights in the layout that the library prefers.
#include "bench.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using namespace dnnl;
using Format = memory::format_tag;

engine &cpu()
{
    static engine cpu_engine(engine::kind::cpu, 0);
    return cpu_engine;
}

// The network for one batch size. Shapes are fixed when a primitive is made, so each batch size has its own, made at
// its first call and kept.
struct Chain {
    std::vector<primitive> primitives;
    std::vector<std::unordered_map<int, memory>> arguments;
    memory input, output;
    stream queue{cpu()};
};

struct State {
    const bench_network *network;
    std::map<long, std::unique_ptr<Chain>> chains;
};

inner_product_forward::primitive_desc describe(const memory::desc &source, const memory::desc &weights,
                                               const memory::desc &bias, const memory::desc &result, bool last)
{
    post_ops activation;
    primitive_attr attributes;
    const auto kind = last ? algorithm::eltwise_logistic : algorithm::eltwise_relu;
#if DNNL_VERSION_MAJOR >= 3
    activation.append_eltwise(kind, 0.0f, 0.0f);
    attributes.set_post_ops(activation);
    return {cpu(), prop_kind::forward_inference, source, weights, bias, result, attributes};
#else
    activation.append_eltwise(1.0f, kind, 0.0f, 0.0f);
    attributes.set_post_ops(activation);
    return {{prop_kind::forward_inference, source, weights, bias, result}, attributes, cpu()};
#endif
}

std::unique_ptr<Chain> make_chain(const bench_network &network, long n)
{
    auto chain = std::make_unique<Chain>();
    const auto f32 = memory::data_type::f32;
    float *weights = network.weights;
    memory source({{n, network.width[0]}, f32, Format::nc}, cpu());
    chain->input = source;
    for (int k = 0; k < network.num_layers; k++) {
        const long from = network.width[k], to = network.width[k + 1];
        const bool last = k + 1 == network.num_layers;
        const auto chosen = describe(source.get_desc(), {{to, from}, f32, Format::any}, {{to}, f32, Format::x},
                                     {{n, to}, f32, last ? Format::nc : Format::any}, last);
        memory plain({{to, from}, f32, Format::oi}, cpu(), weights);
        memory packed(chosen.weights_desc(), cpu());
        reorder(plain, packed).execute(chain->queue, plain, packed);
        memory bias({{to}, f32, Format::x}, cpu(), weights + from * to);
        memory result(chosen.dst_desc(), cpu());
        chain->primitives.push_back(inner_product_forward(chosen));
        chain->arguments.push_back({{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_BIAS, bias},
                                    {DNNL_ARG_DST, result}});
        weights += from * to + to;
        source = result;
    }
    chain->output = source;
    chain->queue.wait();
    return chain;
}

void *load(const bench_network *network, char *message)
{
    try {
        auto state = std::make_unique<State>();
        state->network = network;
        state->chains[1] = make_chain(*network, 1);
        return state.release();
    } catch (const std::exception &error) {
        std::snprintf(message, BENCH_TEXT, "%s", error.what());
        return nullptr;
    }
}

int infer(void *opaque, long n, const double *x, double *y)
{
    try {
        State &state = *static_cast<State *>(opaque);
        auto &chain = state.chains[n];
        if (!chain)
            chain = make_chain(*state.network, n);
        bench_stage_in(state.network, n, x, static_cast<float *>(chain->input.get_data_handle()));
        for (size_t k = 0; k < chain->primitives.size(); k++)
            chain->primitives[k].execute(chain->queue, chain->arguments[k]);
        chain->queue.wait();
        bench_stage_out(state.network->width[state.network->num_layers], n,
                        static_cast<const float *>(chain->output.get_data_handle()), y);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "engine_bench: oneDNN: %s\n", error.what());
        return 1;
    }
}

void unload(void *opaque) { delete static_cast<State *>(opaque); }

const char *version()
{
    static const std::string text = std::to_string(dnnl_version()->major) + "." +
                                    std::to_string(dnnl_version()->minor) + "." +
                                    std::to_string(dnnl_version()->patch);
    return text.c_str();
}

} // namespace

extern "C" const bench_plugin *bench_open()
{
    static const bench_backend backends[] = {{"onednn", "", load, infer, unload, nullptr}};
    static const struct bench_plugin plugin = {1, backends, version};
    return &plugin;
}
