/* Stand-in for E3SM's inference_backend.hpp, written for these tests: the names and signatures of
 * components/emulators/common/src/inference at commit b814d610c308bb854fe4ac65da1170fd57ed7d27. */
#pragma once
#include <string>

#include "inference_config.hpp"
#include "tensor.hpp"

namespace emulator::inference {

enum class BackendType {
    STUB,
    LIBTORCH,
    PYTHON,
};

class InferenceBackend {
public:
    explicit InferenceBackend(const InferenceConfig &config) : m_config(config) {}
    virtual ~InferenceBackend() = default;

    virtual bool infer(const TensorMap &inputs, TensorMap &outputs) = 0;
    bool infer(const double *inputs, double *outputs, int batch_size = 1)
    {
        if (m_config.input_channels <= 0 || m_config.output_channels <= 0)
            throw InferenceError("flat arrays need input_channels and output_channels");
        TensorMap in, out;
        in.wrap("input", inputs, {batch_size, m_config.input_channels});
        out.wrap("output", outputs, {batch_size, m_config.output_channels});
        return infer(in, out);
    }
    virtual void finalize() = 0;
    virtual std::string name() const = 0;

protected:
    InferenceConfig m_config;
};

} // namespace emulator::inference
