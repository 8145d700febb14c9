/* Stand-in for E3SM's header of that name: written for these tests, the same names and signatures (see inference_backend.hpp). */
#pragma once
#include <stdexcept>
#include <string>

namespace emulator::inference {

class InferenceError : public std::runtime_error {
public:
    explicit InferenceError(const std::string &what) : std::runtime_error("[emulator::inference] " + what) {}
};

} // namespace emulator::inference
