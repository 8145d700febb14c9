/* Stand-in for E3SM's tensor.hpp: doubles in row-major order, owned or a view of the host's memory; the same names and
 * signatures. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "inference_error.hpp"

namespace emulator::inference {

class Tensor {
public:
    Tensor(std::string name, std::vector<std::int64_t> dims) : Tensor(std::move(name), nullptr, std::move(dims), true)
    {
        m_storage.resize(static_cast<std::size_t>(m_size));
        m_data = m_storage.data();
    }
    static Tensor view(std::string name, double *data, std::vector<std::int64_t> dims)
    {
        return Tensor(std::move(name), data, std::move(dims), true);
    }
    static Tensor const_view(std::string name, const double *data, std::vector<std::int64_t> dims)
    {
        return Tensor(std::move(name), data, std::move(dims), false);
    }
    Tensor(const Tensor &) = delete;
    Tensor &operator=(const Tensor &) = delete;
    Tensor(Tensor &&) = default;
    Tensor &operator=(Tensor &&) = default;

    const std::string &name() const { return m_name; }
    const std::vector<std::int64_t> &dims() const { return m_dims; }
    std::int64_t size() const { return m_size; }
    bool writable() const { return m_writable; }
    double *data()
    {
        if (!m_writable)
            throw InferenceError(m_name + " is read-only");
        return const_cast<double *>(m_data);
    }
    const double *cdata() const { return m_data; }
    std::string to_string() const
    {
        std::string text = m_name + "[";
        for (std::size_t i = 0; i < m_dims.size(); i++)
            text += (i == 0 ? "" : ",") + std::to_string(m_dims[i]);
        return text + "]";
    }

private:
    Tensor(std::string name, const double *data, std::vector<std::int64_t> dims, bool writable)
        : m_name(std::move(name)), m_dims(std::move(dims)), m_data(data), m_writable(writable)
    {
        for (const std::int64_t dim : m_dims)
            m_size *= dim;
    }

    std::string m_name;
    std::vector<std::int64_t> m_dims;
    std::int64_t m_size = 1;
    std::vector<double> m_storage;
    const double *m_data;
    bool m_writable;
};

class TensorMap {
public:
    void add(Tensor tensor)
    {
        for (const Tensor &other : m_tensors)
            if (other.name() == tensor.name())
                throw InferenceError("two tensors are named " + tensor.name());
        m_tensors.push_back(std::move(tensor));
    }
    void wrap(const std::string &name, double *data, std::vector<std::int64_t> dims)
    {
        add(Tensor::view(name, data, std::move(dims)));
    }
    void wrap(const std::string &name, const double *data, std::vector<std::int64_t> dims)
    {
        add(Tensor::const_view(name, data, std::move(dims)));
    }
    std::size_t size() const { return m_tensors.size(); }
    std::vector<Tensor>::iterator begin() { return m_tensors.begin(); }
    std::vector<Tensor>::iterator end() { return m_tensors.end(); }
    std::vector<Tensor>::const_iterator begin() const { return m_tensors.begin(); }
    std::vector<Tensor>::const_iterator end() const { return m_tensors.end(); }

private:
    std::vector<Tensor> m_tensors;
};

} // namespace emulator::inference
