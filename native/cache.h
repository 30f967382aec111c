// The paged key/value cache: memory that is reserved at once and costs nothing until it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "memory.h"

namespace codellama {

// How keys and values are kept: as they are, as halves, or rounded to 8 bits with a scale for each
// position of a head.
enum class CacheFormat { f32, f16, q8_0 };

// Throws std::invalid_argument when there is no such format.
CacheFormat parse_cache_format(const std::string& name);

// One head of one block, in bytes. Keys are stored [head_dim][block_size], so that a vector holds
// neighbouring positions, values [block_size][value_stride], and behind each, at 8 bits, the scales of
// its positions as floats.
struct CacheLayout {
    CacheFormat format;
    int block_size, head_dim;

    int64_t number() const {
        return format == CacheFormat::f32 ? 4 : format == CacheFormat::f16 ? 2 : 1;
    }
    int64_t value_stride() const { return (head_dim + 15) / 16 * 16; }  // numbers
    int64_t key_scales() const { return number() * head_dim * block_size; }
    int64_t value_scales() const { return number() * value_stride() * block_size; }
    int64_t keys() const { return key_scales() + scales(); }
    int64_t values() const { return value_scales() + scales(); }

  private:
    int64_t scales() const { return format == CacheFormat::q8_0 ? int64_t{4} * block_size : 0; }
};

// Keys and values of every layer in numbered blocks.
class PagedCache {
  public:
    PagedCache(const CacheLayout& layout, int n_layers, int n_blocks, int n_heads)
        : layout_(layout),
          key_block_(n_heads * layout.keys()),
          value_block_(n_heads * layout.values()),
          n_blocks_(n_blocks),
          keys_(bytes(n_layers * n_blocks_ * key_block_)),
          values_(bytes(n_layers * n_blocks_ * value_block_)) {}

    const CacheLayout& layout() const { return layout_; }
    int64_t key_block() const { return key_block_; }  // bytes from one block to the next
    int64_t value_block() const { return value_block_; }

    // A head in block 0 of a layer.
    uint8_t* keys(int layer, int head) {
        return static_cast<uint8_t*>(keys_.data()) + layer * n_blocks_ * key_block_ +
               head * layout_.keys();
    }
    uint8_t* values(int layer, int head) {
        return static_cast<uint8_t*>(values_.data()) + layer * n_blocks_ * value_block_ +
               head * layout_.values();
    }

  private:
    // Attention reads whole vectors, so the last block may be overrun by one.
    static size_t bytes(int64_t n) { return static_cast<size_t>(n) + 128; }

    CacheLayout layout_;
    int64_t key_block_, value_block_, n_blocks_;
    Reservation keys_, values_;
};

}  // namespace codellama
