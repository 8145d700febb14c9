/* Stand-in for E3SM's inference_config.hpp: the same names and signatures. */
#pragma once
#include <map>
#include <string>

namespace emulator::inference {

struct InferenceConfig {
    std::string model_path;
    int input_channels = 0;
    int output_channels = 0;
    bool verbose = false;
    std::map<std::string, std::string> options;

    void set(const std::string &key, const std::string &value) { options[key] = value; }
    std::string get(const std::string &key, const std::string &fallback = "") const
    {
        const auto found = options.find(key);
        return found == options.end() ? fallback : found->second;
    }
};

} // namespace emulator::inference
