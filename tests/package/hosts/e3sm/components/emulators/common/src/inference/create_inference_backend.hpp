/* Stand-in for E3SM's header of that name */
#pragma once
#include <memory>

#include "inference_backend.hpp"

namespace emulator::inference {

std::shared_ptr<InferenceBackend> create_backend(BackendType type, const InferenceConfig &config);

} // namespace emulator::inference
