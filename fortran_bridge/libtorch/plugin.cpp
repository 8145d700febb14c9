// LibTorch behind the plain C table of backend_libtorch.h. No exception leaves this file.
//
// The host's settings: LibTorch sets the number of OpenMP threads by itself, on a thread's first use of it, and may be
// bound to the very OpenMP runtime that the host uses. Every call therefore puts back what it found.
// Same results at every call: TorchScript's profiling executor would optimise, and with that change, the graph after a
// few runs; it is switched off around each call, for this thread only.
#include <torch/script.h>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/version.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "backend_libtorch.h"

// Of the OpenMP runtime and the MKL that LibTorch is bound to, if it is.
extern "C" {
int omp_get_max_threads() __attribute__((weak));
void omp_set_num_threads(int) __attribute__((weak));
int MKL_Set_Num_Threads_Local(int) __attribute__((weak));
}

namespace {

class SilentWarnings : public c10::WarningHandler {
    void process(const c10::Warning &) override {}
};

// The number of threads of this thread's calls, as long as it lives.
class ThreadSettings {
  public:
    explicit ThreadSettings(int num_threads)
        : openmp_(omp_get_max_threads && omp_set_num_threads)
    {
        if (!openmp_) {
            if (at::get_num_threads() != num_threads)
                at::set_num_threads(num_threads);
            return;
        }
        before_ = omp_get_max_threads();
        at::get_num_threads(); // LibTorch's own initialisation of this thread, so that it does not come later
        omp_set_num_threads(num_threads);
        if (MKL_Set_Num_Threads_Local)
            mkl_before_ = MKL_Set_Num_Threads_Local(num_threads);
    }
    ~ThreadSettings()
    {
        if (!openmp_)
            return;
        if (MKL_Set_Num_Threads_Local)
            MKL_Set_Num_Threads_Local(mkl_before_);
        omp_set_num_threads(before_);
    }
    ThreadSettings(const ThreadSettings &) = delete;
    ThreadSettings &operator=(const ThreadSettings &) = delete;

  private:
    bool openmp_;
    int before_ = 0, mkl_before_ = 0;
};

// All that a call needs set, put back in reverse order when it ends.
struct Settings {
    explicit Settings(int num_threads) : threads(num_threads), quiet(&handler), optimizer(false) {}
    SilentWarnings handler;
    ThreadSettings threads;
    c10::WarningUtils::WarningHandlerGuard quiet;
    torch::jit::GraphOptimizerEnabledGuard optimizer;
    c10::InferenceMode inference;
};

// The caller's bytes as LibTorch's reader wants them: nothing is copied.
class Bytes : public caffe2::serialize::ReadAdapterInterface {
  public:
    Bytes(const void *data, size_t size) : data_(static_cast<const char *>(data)), size_(size) {}
    size_t size() const override { return size_; }
    size_t read(uint64_t pos, void *buffer, size_t n, const char * = "") const override
    {
        if (pos >= size_)
            return 0;
        n = std::min(n, size_ - static_cast<size_t>(pos));
        std::memcpy(buffer, data_ + pos, n);
        return n;
    }

  private:
    const char *data_;
    size_t size_;
};

struct Session {
    torch::jit::Module module;
    int num_threads = 1;
    int64_t num_inputs = 0, num_outputs = 0;
    torch::ScalarType in = torch::kDouble, out = torch::kDouble;
    std::vector<std::string> keys, values;
    std::vector<emu_torch_text> texts;

    torch::Tensor evaluate(torch::Tensor x)
    {
        c10::IValue y = module.get_method("forward")({std::move(x)});
        TORCH_CHECK(y.isTensor(), "the module gives a ", y.tagKind(), ", expected one tensor [ncol, num_outputs]");
        return y.toTensor();
    }
};

struct Refusal {
    int status;
    std::string why;
};

// TorchScript wraps the reason into a traceback: what stands last is what matters.
std::string reason(std::string text)
{
    const size_t last = text.rfind("Error: ");
    if (last != std::string::npos) {
        const size_t start = text.find_last_of(" \n", last);
        text.erase(0, start == std::string::npos ? 0 : start + 1);
    }
    return text;
}

void say(char *message, size_t size, const std::string &text)
{
    if (size == 0)
        return;
    const size_t n = std::min(size - 1, text.size());
    for (size_t i = 0; i < n; i++)
        message[i] = static_cast<unsigned char>(text[i]) < ' ' ? ' ' : text[i];
    message[n] = '\0';
}

int64_t count_lines(const std::string &text)
{
    return text.empty() ? 0 : std::count(text.begin(), text.end(), '\n') + (text.back() != '\n');
}

void read_extra_files(Session &session, const std::shared_ptr<Bytes> &bytes)
{
    caffe2::serialize::PyTorchStreamReader reader(bytes);
    const std::string prefix = "extra/";
    for (const std::string &name : reader.getAllRecords()) {
        if (name.compare(0, prefix.size(), prefix) != 0)
            continue;
        auto [data, size] = reader.getRecord(name);
        session.keys.push_back(name.substr(prefix.size()));
        session.values.emplace_back(static_cast<const char *>(data.get()), size);
    }
    for (size_t i = 0; i < session.keys.size(); i++)
        session.texts.push_back({session.keys[i].c_str(), session.values[i].data(), session.values[i].size()});
}

void check_forward(const Session &session)
{
    const auto method = session.module.find_method("forward");
    if (!method)
        throw Refusal{EMU_TORCH_UNSUPPORTED, "the module has no method 'forward'"};
    size_t wanted = 0;
    const auto &arguments = method->function().getSchema().arguments();
    for (size_t i = 1; i < arguments.size(); i++) // 0 is self
        wanted += arguments[i].default_value() ? 0 : 1;
    if (wanted != 1 || arguments.size() < 2)
        throw Refusal{EMU_TORCH_UNSUPPORTED, "the module's forward takes " + std::to_string(wanted) +
                                                 " inputs, libemulator gives one: a tensor [ncol, num_inputs]"};
}

// The number of inputs is that of the names in the file; without names, the columns of the first weight matrix.
int64_t find_num_inputs(const Session &session)
{
    for (size_t i = 0; i < session.keys.size(); i++) {
        if (session.keys[i] == "libemulator.input_names")
            return count_lines(session.values[i]);
    }
    for (const torch::Tensor &parameter : session.module.parameters()) {
        if (parameter.dim() == 2)
            return parameter.size(1);
    }
    throw Refusal{EMU_TORCH_UNSUPPORTED,
                  "the file does not say how many inputs the module takes; save it with _extra_files that hold "
                  "'libemulator.input_names', one name a line"};
}

// TorchScript states neither types nor shapes: a run with zeros shows them. float64 first, since a module that
// converts by itself gives the better results for float64 inputs.
void try_out(Session &session)
{
    constexpr int64_t rows = 2;
    torch::Tensor y;
    std::string why;
    for (const torch::ScalarType type : {torch::kDouble, torch::kFloat}) {
        try {
            y = session.evaluate(torch::zeros({rows, session.num_inputs}, type));
            session.in = type;
            break;
        } catch (const c10::Error &error) {
            why = error.what_without_backtrace();
        } catch (const std::bad_alloc &) {
            throw;
        } catch (const std::exception &error) {
            why = error.what();
        }
    }
    const std::string shape = "[" + std::to_string(rows) + ", " + std::to_string(session.num_inputs) + "]";
    if (!y.defined())
        throw Refusal{EMU_TORCH_UNSUPPORTED, "a trial run with zeros of shape " + shape + " failed: " + reason(why)};
    session.out = y.scalar_type();
    if (y.dim() != 2 || y.size(0) != rows || y.size(1) < 1 || y.size(1) > INT32_MAX || y.numel() > INT32_MAX ||
        (session.out != torch::kDouble && session.out != torch::kFloat)) {
        std::string found = c10::toString(session.out);
        for (const int64_t d : y.sizes())
            found += " " + std::to_string(d);
        throw Refusal{EMU_TORCH_UNSUPPORTED, "for an input of shape " + shape +
                                                 " the module gives a tensor of type and shape " + found +
                                                 ", expected float or double [2, num_outputs]"};
    }
    session.num_outputs = y.size(1);
}

// What `body` comes to, exceptions included.
template <class Body> int guarded(char *message, size_t message_size, Body body) noexcept
{
    int status = EMU_TORCH_FAILED;
    try {
        try {
            body();
            return EMU_TORCH_OK;
        } catch (const Refusal &refusal) {
            status = refusal.status;
            say(message, message_size, refusal.why);
        } catch (const c10::Error &error) {
            status = EMU_TORCH_FORMAT;
            say(message, message_size, reason(error.what_without_backtrace()));
        } catch (const std::bad_alloc &) {
            status = EMU_TORCH_MEMORY;
            say(message, message_size, "out of memory");
        } catch (const std::exception &error) {
            status = EMU_TORCH_FORMAT;
            say(message, message_size, reason(error.what()));
        }
    } catch (...) { // of the texts above
    }
    return status;
}

int open_session(const void *bytes, size_t size, int num_threads, emu_torch_model *model, char *message,
                 size_t message_size) noexcept
{
    return guarded(message, message_size, [&] {
        const Settings settings(num_threads);
        auto session = std::make_unique<Session>();
        const auto adapter = std::make_shared<Bytes>(bytes, size);
        session->num_threads = num_threads;
        session->module = torch::jit::load(adapter, torch::Device(torch::kCPU), /*load_debug_files=*/false);
        session->module.eval();
        read_extra_files(*session, adapter);
        check_forward(*session);
        session->num_inputs = find_num_inputs(*session);
        if (session->num_inputs < 1 || session->num_inputs > INT32_MAX)
            throw Refusal{EMU_TORCH_FORMAT, "the file names no inputs"};
        try_out(*session);
        model->num_inputs = session->num_inputs;
        model->num_outputs = session->num_outputs;
        model->in_double = session->in == torch::kDouble;
        model->out_double = session->out == torch::kDouble;
        model->num_texts = static_cast<int>(session->texts.size());
        model->texts = session->texts.data();
        model->session = session.release();
    });
}

int run(void *handle, int64_t rows, const void *x, void *y) noexcept
{
    return guarded(nullptr, 0, [&] {
        auto *session = static_cast<Session *>(handle);
        const Settings settings(session->num_threads);
        // only read: LibTorch has no tensor of const
        const torch::Tensor result =
            session->evaluate(torch::from_blob(const_cast<void *>(x), {rows, session->num_inputs}, session->in));
        TORCH_CHECK(result.dim() == 2 && result.size(0) == rows && result.size(1) == session->num_outputs &&
                    result.scalar_type() == session->out);
        const torch::Tensor packed = result.contiguous();
        std::memcpy(y, packed.const_data_ptr(), packed.nbytes());
    });
}

void close_session(void *handle) noexcept
{
    guarded(nullptr, 0, [&] { delete static_cast<Session *>(handle); });
}

} // namespace

extern "C" __attribute__((visibility("default"))) const emu_torch_plugin_table *emu_torch_plugin(void)
{
    static const emu_torch_plugin_table table = {EMU_TORCH_PLUGIN_VERSION, TORCH_VERSION, open_session, run,
                                                 close_session};
    return &table;
}
