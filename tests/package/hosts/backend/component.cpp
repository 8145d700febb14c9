// usage: component MODEL: what create_backend makes of the libemulator backend; the first output for inputs of 0.5
#include "create_inference_backend.hpp"

#include <cstdio>

int main(int argc, char **argv)
{
  using namespace emulator::inference;
  InferenceConfig config;
  config.model_path = argc > 1 ? argv[1] : "";
  config.input_channels = 7;
  config.output_channels = 2;
  try {
    const auto backend = create_backend(BackendType::LIBEMULATOR, config);
    const double x[7] = {.5, .5, .5, .5, .5, .5, .5};
    double y[2];
    backend->infer(x, y);
    std::printf("%s %.17g\n", backend->name().c_str(), y[0]);
  } catch (const InferenceError &error) {
    std::printf("%s\n", error.what());
  }
}
