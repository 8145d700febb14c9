/* A stand-in for Kokkos::View: rank 1 or 2, both layouts, padding between rows; and an array that must stay as it is. */
#ifndef VIEWS_HPP
#define VIEWS_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

struct Left {};  /* the first index runs fastest: LayoutLeft */
struct Right {}; /* the last index does: LayoutRight */
struct HostSpace {};
struct DeviceSpace {};

template <class T, class Layout, class Space = HostSpace> class View {
public:
    using memory_space = Space;
    using HostMirror = View<T, Layout, HostSpace>;

    View(T *data, std::size_t rows, std::size_t columns, std::size_t padding = 0) : data_(data), extents_{rows, columns}
    {
        if (std::is_same<Layout, Left>::value)
            strides_ = {1, rows + padding};
        else
            strides_ = {columns + padding, 1};
    }
    T *data() const { return data_; }
    std::size_t extent(int i) const { return extents_[static_cast<std::size_t>(i)]; }
    std::size_t stride(int i) const { return strides_[static_cast<std::size_t>(i)]; }
    T &operator()(std::size_t i, std::size_t j) const { return data_[i * strides_[0] + j * strides_[1]]; }
    static std::size_t span(std::size_t rows, std::size_t columns, std::size_t padding)
    {
        return std::is_same<Layout, Left>::value ? (rows + padding) * columns : rows * (columns + padding);
    }

private:
    T *data_;
    std::array<std::size_t, 2> extents_, strides_;
};

#endif
