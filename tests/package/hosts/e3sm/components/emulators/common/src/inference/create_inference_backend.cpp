/* Stand-in for E3SM's file of that name: of its backends, none is built here. */
#include "create_inference_backend.hpp"

namespace emulator {
namespace inference {

std::shared_ptr<InferenceBackend> create_backend(BackendType type, const InferenceConfig &config)
{
  (void)config;
  switch (type) {
  case BackendType::STUB:
  case BackendType::LIBTORCH:
  case BackendType::PYTHON:
    throw InferenceError("not built");
  }
  throw InferenceError("no such backend");
}

} // namespace inference
} // namespace emulator
