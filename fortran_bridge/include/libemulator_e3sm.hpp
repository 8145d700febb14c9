/* An inference backend for E3SM's components/emulators: libemulator behind emulator::inference::InferenceBackend.
 *
 *     InferenceConfig config;
 *     config.model_path = "/.../model.onnx";
 *     config.set("inputs", "temperature [K], pressure [hPa]"); // refused if the model reads anything else
 *     libemulator::E3smBackend backend(config);                // or (config, bytes, size) after a broadcast
 *     backend.infer(inputs, outputs);                          // TensorMap; or (x, y, batch_size)
 *
 * Compiled by E3SM, beside its own headers (components/emulators/common/src/inference, as of commit
 * b814d610c308bb854fe4ac65da1170fd57ed7d27); fortran_bridge/E3SM.md has the lines that make it a choice of create_backend.
 *
 * Tensors. One tensor named "input" of shape [..., num_inputs] (what the flat-array call makes), columns in the model's
 * order; or one tensor for each input, by name and in any order: all of one size, each element a sample; or tensors of
 * several inputs: "tracer" of shape [..., 4] stands for tracer_1 to tracer_4. Outputs likewise ("output"). So a model is
 * evaluated on [ncol] or on [ncol, nlev] alike. Every input and output of the model must be there, and nothing else.
 *
 * Unlike the other backends, this one needs no FpeGuard (libemulator raises no trap within the training ranges), never
 * changes its results between calls, and may be called by several threads at a time. Inputs and outputs stay where they
 * are: what lies in one array is evaluated in place, fields of their own pass through a block of 32 KiB on the stack
 * (infer_columns in libemulator.hpp). Nothing is allocated in infer but by E3SM's own wrapper of the flat-array call when
 * it is called through the base class.
 *
 * Errors are InferenceError, thrown before anything is written, as the other backends' are.
 *
 * Options (config.options): inputs, outputs: names and units as above, in the model's order; precision: 32 (default) or 64,
 * bits of the layers; guard: none (default), count (samples outside the training ranges are counted) or clamp (and moved
 * to the nearest end). Any other option is refused. */
#ifndef LIBEMULATOR_E3SM_HPP
#define LIBEMULATOR_E3SM_HPP

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "inference_backend.hpp"
#include "inference_error.hpp"
#include "libemulator.hpp"

namespace libemulator {

class E3smBackend : public emulator::inference::InferenceBackend {
public:
    using Config = emulator::inference::InferenceConfig;
    using InferenceError = emulator::inference::InferenceError;
    using Tensor = emulator::inference::Tensor;
    using TensorMap = emulator::inference::TensorMap;

    explicit E3smBackend(const Config &config) : InferenceBackend(config)
    {
        const emu_options options = read_options();
        if (m_config.model_path.empty())
            throw InferenceError("libemulator: model_path is empty; it must name a model (model.onnx)");
        check(model_.load(m_config.model_path.c_str(), &options));
        check_model();
    }

    /* From the bytes of the file, which one rank has read and broadcast */
    E3smBackend(const Config &config, const void *bytes, std::size_t size) : InferenceBackend(config)
    {
        const emu_options options = read_options();
        check(model_.load_bytes(bytes, size, &options));
        check_model();
    }

    using InferenceBackend::infer;

    bool infer(const TensorMap &inputs, TensorMap &outputs) override
    {
        require_model();
        const std::int64_t num_inputs = model_.num_inputs(), num_outputs = model_.num_outputs();
        if (num_inputs + num_outputs > max_columns)
            throw InferenceError("libemulator: models of more than " + std::to_string(max_columns) +
                                 " inputs and outputs are evaluated by infer(x, y, batch_size)");
        std::array<Column<const double>, max_columns> x;
        std::array<Column<double>, max_columns> y;
        const std::int64_t samples = place(inputs, input_names(), x.data());
        const std::int64_t results = place(outputs, output_names(), y.data());
        if (samples != results)
            throw InferenceError("libemulator: the inputs hold " + std::to_string(samples) + " samples, the outputs " +
                                 std::to_string(results) + "; they must be as many");
        run([&](emu_guard *guard) { return model_.infer_columns(samples, x.data(), y.data(), {}, guard); });
        return true;
    }

    /* [batch_size, num_inputs] to [batch_size, num_outputs]. Called through the base class, the arrays come as tensors. */
    bool infer(const double *inputs, double *outputs, int batch_size = 1)
    {
        require_model();
        if (batch_size < 0)
            throw InferenceError("libemulator: batch_size is " + std::to_string(batch_size) + "; it must not be negative");
        const std::int64_t n = batch_size, num_inputs = model_.num_inputs(), num_outputs = model_.num_outputs();
        run([&](emu_guard *guard) {
            return model_.infer(Matrix<const double>{inputs, n, num_inputs, num_inputs, 1},
                                Matrix<double>{outputs, n, num_outputs, num_outputs, 1}, {}, guard);
        });
        return true;
    }

    void finalize() override { model_.free(); }
    std::string name() const override { return "libemulator"; }

    ModelView model() const noexcept { return model_; }

    /* With guard: count or clamp, since the beginning, by all threads */
    std::int64_t num_samples() const noexcept { return num_samples_; }
    std::int64_t num_outside() const noexcept { return num_outside_; }

private:
    enum { max_columns = 512 };
    enum class Guard { none, count, clamp };

    Model model_;
    Guard guard_ = Guard::none;
    std::atomic<std::int64_t> num_samples_{0}, num_outside_{0};

    /* ---- at the start ---- */

    emu_options read_options()
    {
        emu_options options;
        emu_options_init(&options);
        for (const auto &option : m_config.options) {
            const std::string &key = option.first, &value = option.second;
            if (key == "precision" && (value == "32" || value == "64"))
                options.precision = value == "64" ? 64 : 32;
            else if (key == "guard" && (value == "none" || value == "count" || value == "clamp"))
                guard_ = value == "none" ? Guard::none : value == "count" ? Guard::count : Guard::clamp;
            else if (key != "inputs" && key != "outputs")
                throw InferenceError("libemulator: option " + key + " = '" + value +
                                     "' is not one of: inputs, outputs (\"name [unit], ...\"), precision (32, 64), guard "
                                     "(none, count, clamp)");
        }
        return options;
    }

    void check_model() const
    {
        require_channels("input_channels", m_config.input_channels, model_.num_inputs());
        require_channels("output_channels", m_config.output_channels, model_.num_outputs());
        require_names("inputs", emu_require_inputs);
        require_names("outputs", emu_require_outputs);
    }

    static void check(const Status &status)
    {
        if (!status.ok())
            throw InferenceError(std::string("libemulator: ") + status.message);
    }

    static void require_channels(const char *what, int given, std::int64_t expected)
    {
        if (given != 0 && given != expected)
            throw InferenceError(std::string("libemulator: ") + what + " is " + std::to_string(given) + ", but the model has " +
                                 std::to_string(expected));
    }

    /* "name [unit], name [unit]" of the option, against the model */
    template <class Require> void require_names(const char *key, Require require) const
    {
        const std::string list = m_config.get(key);
        if (list.empty())
            return;
        std::vector<std::string> names, units;
        for (std::size_t at = 0; at <= list.size();) {
            const std::size_t comma = std::min(list.find(',', at), list.size());
            const std::string item = list.substr(at, comma - at);
            const std::size_t open = item.find('['), close = item.rfind(']');
            const std::size_t first = item.find_first_not_of(' '), last = item.find_last_not_of(" ", open - 1);
            if (open == std::string::npos || close == std::string::npos || close < open || first >= open)
                throw InferenceError(std::string("libemulator: option ") + key + " has '" + item +
                                     "'; it must be a list of \"name [unit]\" with commas between them");
            names.push_back(item.substr(first, last - first + 1));
            units.push_back(item.substr(open + 1, close - open - 1));
            at = comma + 1;
        }
        std::vector<const char *> c_names, c_units;
        for (std::size_t i = 0; i < names.size(); i++) {
            c_names.push_back(names[i].c_str());
            c_units.push_back(units[i].c_str());
        }
        Status status;
        status.code = require(model_.get(), static_cast<std::int64_t>(names.size()), c_names.data(), c_units.data(),
                              status.message, sizeof status.message);
        check(status);
    }

    /* ---- at every call ---- */

    struct Names { /* of the model's inputs or outputs */
        const char *what, *packed;
        std::int64_t number;
        const char *(*name)(const emu_model *, std::int64_t);
        std::int64_t (*index)(const emu_model *, const char *);
    };
    Names input_names() const { return {"input", "input", model_.num_inputs(), emu_input_name, emu_input_index}; }
    Names output_names() const { return {"output", "output", model_.num_outputs(), emu_output_name, emu_output_index}; }

    void require_model() const
    {
        if (!model_.is_loaded())
            throw InferenceError("libemulator: infer was called after finalize");
    }

    template <class Call> void run(Call call)
    {
        emu_guard guard;
        emu_guard_init(&guard);
        guard.clamp = guard_ == Guard::clamp;
        const emu_status status = call(guard_ == Guard::none ? nullptr : &guard);
        if (status != EMU_OK)
            throw InferenceError(std::string("libemulator: infer failed with ") + emu_status_name(status));
        if (guard_ != Guard::none) {
            num_samples_ += guard.num_samples;
            num_outside_ += guard.num_outside;
        }
    }

    /* Column of that name; most hosts give their tensors in the model's order, so the next one is tried first. */
    std::int64_t find(const Names &names, const char *name, std::int64_t next) const
    {
        if (next < names.number && std::strcmp(names.name(model_.get(), next), name) == 0)
            return next;
        return names.index(model_.get(), name);
    }

    static const double *start_of(const Tensor &tensor) { return tensor.cdata(); }
    static double *start_of(Tensor &tensor) { return tensor.data(); } /* throws if it may not be written */

    /* Where each of the model's columns is; the number of samples */
    template <class Map, class T> std::int64_t place(Map &tensors, const Names &names, Column<T> *columns) const
    {
        std::int64_t samples = -1, placed = 0;
        for (std::int64_t i = 0; i < names.number; i++)
            columns[i] = {nullptr, 0};
        for (auto &tensor : tensors) {
            const auto &dims = tensor.dims();
            const std::int64_t last = dims.empty() ? 1 : dims.back();
            const bool packed = tensors.size() == 1 && tensor.name() == names.packed;
            std::int64_t first = packed ? 0 : find(names, tensor.name().c_str(), placed), width = 1;
            if (packed)
                width = names.number;
            else if (first < 0) {
                first = find_member(names, tensor, 1, placed);
                width = last;
            }
            if (first < 0 || width < 1 || (width > 1 && last != width))
                refuse(tensor, names);
            /* a sample for each element, or for each row of `width` elements */
            const std::int64_t n = tensor.size() / width;
            if (samples >= 0 && n != samples)
                throw InferenceError("libemulator: " + tensor.to_string() + " holds " + std::to_string(n) +
                                     " samples, the tensors before it " + std::to_string(samples));
            samples = n;
            T *const data = start_of(tensor);
            for (std::int64_t k = 0; k < width; k++) {
                const std::int64_t at = packed || k == 0 ? first + k : find_member(names, tensor, k + 1, first + k);
                if (at < 0)
                    refuse(tensor, names);
                if (columns[at].stride != 0)
                    throw InferenceError("libemulator: " + tensor.to_string() + " gives " + names.what + " '" +
                                         names.name(model_.get(), at) + "' a second time");
                columns[at] = {n == 0 ? nullptr : data + k, width};
                placed++;
            }
        }
        if (placed != names.number)
            refuse_missing(names, columns);
        return samples;
    }

    /* Column "tensor_k" */
    std::int64_t find_member(const Names &names, const Tensor &tensor, std::int64_t k, std::int64_t next) const
    {
        char name[256];
        const int length = std::snprintf(name, sizeof name, "%s_%lld", tensor.name().c_str(), static_cast<long long>(k));
        return length < 0 || static_cast<std::size_t>(length) >= sizeof name ? -1 : find(names, name, next);
    }

    [[noreturn]] void refuse(const Tensor &tensor, const Names &names) const
    {
        throw InferenceError("libemulator: " + tensor.to_string() + " fits no " + names.what + " of the model, which has " +
                             list(names) + "; a tensor is one of them, or several (name_1 to name_n as name[..., n]), or all "
                             "of them (" + names.packed + "[..., " + std::to_string(names.number) + "])");
    }

    template <class T> [[noreturn]] void refuse_missing(const Names &names, const Column<T> *columns) const
    {
        std::int64_t i = 0;
        while (columns[i].stride != 0)
            i++;
        throw InferenceError(std::string("libemulator: no tensor gives ") + names.what + " '" + names.name(model_.get(), i) +
                             "'; the model has " + list(names));
    }

    std::string list(const Names &names) const
    {
        std::string text;
        for (std::int64_t i = 0; i < names.number; i++)
            text += std::string(i > 0 ? ", " : "") + names.name(model_.get(), i);
        return text;
    }
};

} // namespace libemulator
#endif
