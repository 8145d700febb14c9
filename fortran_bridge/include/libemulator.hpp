/* libemulator for C++17 hosts: a handle and views of host memory over libemulator.h, header only.
 *
 *     libemulator::Model model(path);                        // throws libemulator::Error; or, without exceptions:
 *     libemulator::Status status = model.load(path);         // status.ok(), status.message
 *     status = model.require_inputs({"tair", "pressure"}, {"K", "hPa"});
 *     model.infer(by_sample(x), by_sample(y));               // x(sample, input), y(sample, output)
 *
 * Views. Anything that has data(), extent(i) and stride(i) serves as an array, a Kokkos::View of rank 1 or 2 in memory
 * of the host among others, of any layout; this header includes no Kokkos. Nothing is copied: LayoutLeft and LayoutRight
 * are strides. A view whose type says that it lies elsewhere (its HostMirror has another memory space) does not compile.
 *
 * What libemulator.h promises holds here: no allocation in a call that is given a workspace, nothing printed, no trap,
 * the same bits for any batch, layout and thread. Nothing here throws but what says so, and those parts are absent where
 * exceptions are switched off (-fno-exceptions).
 *
 * Threads. Model owns and moves; ModelView is a pointer to it that may be copied into a lambda (Model converts to it).
 * Every call of infer is const and may run at the same time as any other of the same model. Not from device code. */
#ifndef LIBEMULATOR_HPP
#define LIBEMULATOR_HPP

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <utility>
#if defined(__cpp_exceptions)
#include <stdexcept>
#endif

#include "libemulator.h"

namespace libemulator {

/* ---- errors ---- */

/* What a call came to: its code and, on failure, one line of text. No memory of its own. */
struct Status {
    emu_status code = EMU_OK;
    char message[1024] = "";
    bool ok() const noexcept { return code == EMU_OK; }
};

#if defined(__cpp_exceptions)
/* Thrown by the constructors of Model, by nothing else. */
class Error : public std::runtime_error {
public:
    explicit Error(const Status &status) : std::runtime_error(status.message), code_(status.code) {}
    emu_status code() const noexcept { return code_; }

private:
    emu_status code_;
};
#endif

/* ---- arrays of the host ---- */

/* Numbers of samples and columns (inputs or outputs): column c of sample s is data[s * sample_stride + c *
 * column_stride]. T: double or float, const for inputs. */
template <class T> struct Matrix {
    T *data;
    std::int64_t samples, columns, sample_stride, column_stride;
};

/* One column: sample s is data[s * stride]. Fields that lie apart are an array of these. */
template <class T> struct Column {
    T *data;
    std::int64_t stride;
};

namespace detail {

template <class View, class = void> struct is_on_host : std::true_type {};
template <class View>
struct is_on_host<View, std::void_t<typename View::memory_space, typename View::HostMirror::memory_space>>
    : std::is_same<typename View::memory_space, typename View::HostMirror::memory_space> {};

template <class View> using value_of = std::remove_pointer_t<decltype(std::declval<const View &>().data())>;

template <class View, class Index> std::int64_t extent(const View &view, Index i)
{
    static_assert(is_on_host<View>::value, "libemulator reads and writes host memory: pass a host mirror of this view");
    return static_cast<std::int64_t>(view.extent(i));
}

template <class View, class Index> std::int64_t stride(const View &view, Index i)
{
    return static_cast<std::int64_t>(view.stride(i));
}

} // namespace detail

/* A view of rank 2 as view(sample, column), or as view(column, sample) */
template <class View> Matrix<detail::value_of<View>> by_sample(const View &view)
{
    return {view.data(), detail::extent(view, 0), detail::extent(view, 1), detail::stride(view, 0),
            detail::stride(view, 1)};
}
template <class View> Matrix<detail::value_of<View>> by_column(const View &view)
{
    return {view.data(), detail::extent(view, 1), detail::extent(view, 0), detail::stride(view, 1),
            detail::stride(view, 0)};
}

/* A view of rank 1 as one column */
template <class View> Column<detail::value_of<View>> column(const View &view)
{
    static_assert(detail::is_on_host<View>::value, "libemulator reads and writes host memory: pass a host mirror");
    return {view.data(), detail::stride(view, 0)};
}

/* Scratch memory of one call, any alignment: at least ModelView::workspace_size() bytes. None: the thread's own, which
 * libemulator allocates in the thread's first call. */
struct Workspace {
    void *data = nullptr;
    std::size_t size = 0;
};

/* ---- calls ---- */

namespace detail {

inline emu_status infer(const emu_model *model, std::int64_t n, const double *x, std::int64_t xs, std::int64_t xc,
                        double *y, std::int64_t ys, std::int64_t yc, Workspace scratch, emu_guard *guard) noexcept
{
    return emu_infer_guarded_f64(model, n, x, xs, xc, y, ys, yc, scratch.data, scratch.size, guard);
}
inline emu_status infer(const emu_model *model, std::int64_t n, const float *x, std::int64_t xs, std::int64_t xc,
                        float *y, std::int64_t ys, std::int64_t yc, Workspace scratch, emu_guard *guard) noexcept
{
    return emu_infer_guarded_f32(model, n, x, xs, xc, y, ys, yc, scratch.data, scratch.size, guard);
}

/* The distance, in elements, between neighbouring columns if it is the same for all of them and if they have one stride;
 * false if not. Addresses of one type are multiples of its size apart wherever they lie. */
template <class T> bool evenly_spaced(const Column<T> *columns, std::int64_t n, std::int64_t *distance) noexcept
{
    const auto address = [&](std::int64_t i) { return reinterpret_cast<std::uintptr_t>(columns[i].data); };
    const std::uintptr_t step = n > 1 ? address(1) - address(0) : sizeof(T);
    if (static_cast<std::intptr_t>(step) % static_cast<std::intptr_t>(sizeof(T)) != 0)
        return false;
    for (std::int64_t i = 1; i < n; i++)
        if (address(i) - address(i - 1) != step || columns[i].stride != columns[0].stride)
            return false;
    *distance = static_cast<std::int64_t>(static_cast<std::intptr_t>(step) / static_cast<std::intptr_t>(sizeof(T)));
    return true;
}

enum { block_values = 4096 }; /* on the stack: 32 KiB of doubles, what L1 holds */

} // namespace detail

/* A loaded model that somebody else owns. Copies cost nothing. */
class ModelView {
public:
    ModelView() noexcept = default;
    explicit ModelView(const emu_model *model) noexcept : model_(model) {}

    const emu_model *get() const noexcept { return model_; }
    bool is_loaded() const noexcept { return model_ != nullptr; }
    std::int64_t num_inputs() const noexcept { return emu_num_inputs(model_); }
    std::int64_t num_outputs() const noexcept { return emu_num_outputs(model_); }
    std::size_t workspace_size() const noexcept { return emu_workspace_size(model_); }

    /* The host's names, in the order of its columns, with their units: EMU_ERR_MISMATCH names the first difference. */
    Status require_inputs(std::initializer_list<const char *> names, std::initializer_list<const char *> units) const noexcept
    {
        return require(emu_require_inputs, names, units);
    }
    Status require_outputs(std::initializer_list<const char *> names, std::initializer_list<const char *> units) const noexcept
    {
        return require(emu_require_outputs, names, units);
    }

    /* Evaluate x.samples samples. EMU_ERR_ARGUMENT also if the numbers of samples or columns do not fit, with y untouched.
     * guard: see libemulator.h; one for each thread. */
    template <class X, class Y>
    emu_status infer(Matrix<X> x, Matrix<Y> y, Workspace scratch = {}, emu_guard *guard = nullptr) const noexcept
    {
        static_assert(std::is_same<std::remove_const_t<X>, Y>::value, "x and y are both double or both float");
        if (x.samples != y.samples || x.columns != num_inputs() || y.columns != num_outputs())
            return EMU_ERR_ARGUMENT;
        return detail::infer(model_, x.samples, x.data, x.sample_stride, x.column_stride, y.data, y.sample_stride,
                             y.column_stride, scratch, guard);
    }

    /* The same for fields that lie apart: x[num_inputs()], y[num_outputs()]. Where the columns of x (of y) lie at even
     * distances, they are used in place. Otherwise they pass, some samples at a time, through a block of 32 KiB on the
     * stack: nothing is allocated, the bits are the same. EMU_ERR_LIMIT if such columns are more than 4096 in all. */
    template <class T>
    emu_status infer_columns(std::int64_t samples, const Column<const T> *x, const Column<T> *y, Workspace scratch = {},
                             emu_guard *guard = nullptr) const noexcept
    {
        const std::int64_t inputs = num_inputs(), outputs = num_outputs();
        if (samples < 0 || model_ == nullptr || x == nullptr || y == nullptr || any_null(samples, x, inputs) ||
            any_null(samples, y, outputs))
            return EMU_ERR_ARGUMENT;
        std::int64_t x_distance = 0, y_distance = 0;
        const bool x_there = detail::evenly_spaced(x, inputs, &x_distance);
        const bool y_there = detail::evenly_spaced(y, outputs, &y_distance);
        if (x_there && y_there)
            return detail::infer(model_, samples, x[0].data, x[0].stride, x_distance, y[0].data, y[0].stride, y_distance,
                                 scratch, guard);
        const std::int64_t staged = (x_there ? 0 : inputs) + (y_there ? 0 : outputs);
        if (staged > detail::block_values)
            return EMU_ERR_LIMIT;
        T block[detail::block_values];
        std::int64_t size = detail::block_values / staged;
        if (size > 48) /* whole tiles of the kernels */
            size -= size % 48;
        T *const y_block = block + (x_there ? 0 : inputs * size);
        std::int32_t *const outside = guard != nullptr ? guard->outside : nullptr;
        emu_status status = EMU_OK;
        for (std::int64_t done = 0; done < samples && status == EMU_OK; done += size) {
            const std::int64_t n = samples - done < size ? samples - done : size;
            for (std::int64_t f = 0; f < inputs && !x_there; f++)
                for (std::int64_t s = 0; s < n; s++)
                    std::memcpy(block + f * size + s, x[f].data + (done + s) * x[f].stride, sizeof(T)); /* NaNs as they are */
            if (outside != nullptr)
                guard->outside = outside + done;
            status = detail::infer(model_, n, x_there ? x[0].data + done * x[0].stride : block, x_there ? x[0].stride : 1,
                                   x_there ? x_distance : size, y_there ? y[0].data + done * y[0].stride : y_block,
                                   y_there ? y[0].stride : 1, y_there ? y_distance : size, scratch, guard);
            for (std::int64_t j = 0; j < outputs && !y_there && status == EMU_OK; j++)
                for (std::int64_t s = 0; s < n; s++)
                    std::memcpy(y[j].data + (done + s) * y[j].stride, y_block + j * size + s, sizeof(T));
        }
        if (guard != nullptr)
            guard->outside = outside;
        return status;
    }

protected:
    const emu_model *model_ = nullptr;

private:
    template <class T> static bool any_null(std::int64_t samples, const Column<T> *columns, std::int64_t n) noexcept
    {
        for (std::int64_t i = 0; i < n && samples > 0; i++)
            if (columns[i].data == nullptr)
                return true;
        return false;
    }

    template <class Function>
    Status require(Function check, std::initializer_list<const char *> names,
                   std::initializer_list<const char *> units) const noexcept
    {
        Status status;
        if (names.size() != units.size()) {
            static const char text[] = "as many units as names are needed";
            status.code = EMU_ERR_ARGUMENT;
            std::memcpy(status.message, text, sizeof text);
        } else {
            status.code = check(model_, static_cast<std::int64_t>(names.size()), names.begin(), units.begin(),
                                status.message, sizeof status.message);
        }
        return status;
    }
};

/* A model and its memory. Moves, does not copy. No thread may use it, or a ModelView of it, while it is loaded anew, moved
 * from or destroyed. */
class Model : public ModelView {
public:
    Model() noexcept = default;
#if defined(__cpp_exceptions)
    explicit Model(const char *path, const emu_options *options = nullptr) { throw_unless(load(path, options)); }
    Model(const void *bytes, std::size_t size, const emu_options *options = nullptr)
    {
        throw_unless(load_bytes(bytes, size, options));
    }
#endif
    ~Model() { free(); }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;
    Model(Model &&from) noexcept : ModelView(from.model_) { from.model_ = nullptr; }
    Model &operator=(Model &&from) noexcept
    {
        std::swap(model_, from.model_); /* what was ours goes with `from` */
        return *this;
    }

    /* As emu_load_with and emu_load_bytes_with; what was loaded before is given back first. */
    Status load(const char *path, const emu_options *options = nullptr) noexcept
    {
        Status status;
        free();
        emu_model *model = nullptr;
        status.code = emu_load_with(path, options, &model, status.message, sizeof status.message);
        model_ = model;
        return status;
    }
    Status load_bytes(const void *bytes, std::size_t size, const emu_options *options = nullptr) noexcept
    {
        Status status;
        free();
        emu_model *model = nullptr;
        status.code = emu_load_bytes_with(bytes, size, options, &model, status.message, sizeof status.message);
        model_ = model;
        return status;
    }

    void free() noexcept
    {
        emu_free(const_cast<emu_model *>(model_)); /* ours: it came from emu_load_*, not const */
        model_ = nullptr;
    }

private:
#if defined(__cpp_exceptions)
    static void throw_unless(const Status &status)
    {
        if (!status.ok())
            throw Error(status);
    }
#endif
};

} // namespace libemulator
#endif
