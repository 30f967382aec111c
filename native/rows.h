// Activations: rows of floats that start on cache lines.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "format.h"

namespace codellama {

// Columns behind the width, up to a whole block and a little further, are zero and stay so. The
// little keeps rows of a power of two from all falling into the same cache sets.
class Rows {
  public:
    explicit Rows(int64_t width)
        : width_(width), stride_((width + kBlock - 1) / kBlock * kBlock + 16) {}

    // Makes room for n rows; when it grows, what was there is lost.
    void reserve(int64_t n_rows) {
        if (n_rows <= n_rows_) return;
        data_.reset();
        n_rows_ = 0;
        const size_t n_bytes = static_cast<size_t>(n_rows * stride_) * sizeof(float);
        data_.reset(static_cast<float*>(std::aligned_alloc(64, n_bytes)));
        if (!data_) throw std::bad_alloc();
        std::memset(data_.get(), 0, n_bytes);
        n_rows_ = n_rows;
    }

    float* row(int64_t i) { return data_.get() + i * stride_; }
    int64_t width() const { return width_; }
    int64_t stride() const { return stride_; }

  private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };

    int64_t width_;
    int64_t stride_;  // a multiple of 16 floats, so of a cache line
    int64_t n_rows_ = 0;
    std::unique_ptr<float[], Free> data_;
};

}  // namespace codellama
