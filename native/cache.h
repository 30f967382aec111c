// The paged key/value cache: memory that is reserved at once and costs nothing until it is used.
#pragma once

#include <cstddef>
#include <cstdint>

namespace codellama {

// Zeroed memory straight from the system, which backs a page when it is first touched.
class Reservation {
  public:
    enum class Pages { small, large };  // large ones where the system has them

    explicit Reservation(size_t n_bytes, Pages pages = Pages::small);  // throws std::bad_alloc
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    void* data() const { return data_; }

  private:
    void* data_;
    size_t n_bytes_;
};

// Keys and values of every layer in numbered blocks of `block_size` positions. Within a block and a
// head, keys are stored [head_dim][block_size] and values [block_size][value_stride], which is how
// attention reads them.
template <class Number>
class PagedCache {
  public:
    PagedCache(int n_layers, int n_blocks, int block_size, int n_heads, int head_dim)
        : block_size_(block_size),
          n_heads_(n_heads),
          head_dim_(head_dim),
          value_stride_((head_dim + 15) / 16 * 16),
          key_layer_(n_blocks * key_block()),
          value_layer_(n_blocks * value_block()),
          // Attention reads whole vectors, so the last block's keys may be overrun by one.
          keys_(bytes(n_layers * key_layer_)),
          values_(bytes(n_layers * value_layer_)) {}

    int64_t value_stride() const { return value_stride_; }
    int64_t key_block() const { return int64_t{n_heads_} * head_dim_ * block_size_; }
    int64_t value_block() const { return n_heads_ * value_stride_ * block_size_; }

    // A head in block 0 of a layer.
    Number* keys(int layer, int head) {
        return static_cast<Number*>(keys_.data()) + layer * key_layer_ +
               int64_t{head} * head_dim_ * block_size_;
    }
    Number* values(int layer, int head) {
        return static_cast<Number*>(values_.data()) + layer * value_layer_ +
               head * value_stride_ * block_size_;
    }

    // Stores one head's key and value at a position of a block.
    void store(int layer, int head, int block, int offset, const float* key, const float* value) {
        Number* k = keys(layer, head) + block * key_block() + offset;
        Number* v = values(layer, head) + block * value_block() + offset * value_stride_;
        for (int d = 0; d < head_dim_; ++d) k[int64_t{d} * block_size_] = static_cast<Number>(key[d]);
        for (int d = 0; d < head_dim_; ++d) v[d] = static_cast<Number>(value[d]);
    }

  private:
    static size_t bytes(int64_t n) { return (static_cast<size_t>(n) + 32) * sizeof(Number); }

    int block_size_, n_heads_, head_dim_;
    int64_t value_stride_;
    int64_t key_layer_, value_layer_;
    Reservation keys_, values_;
};

}  // namespace codellama
