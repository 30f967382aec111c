// Activations as the products of bytes take them: rounded to 8 bits, in tiles of tokens.
//
// A group of 32 numbers has one scale, its largest magnitude over 127. A tile holds a few tokens side
// by side, group after group, so that a product reads it from front to back.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "format.h"

namespace codellama {

// One token's share of a group. Sums of its codes are as products want them: negative, and those of
// all codes multiplied once here instead of in every tile of weights.
struct ActivationGroup {
    int8_t codes[kBlock];
    float scale;
    float minus_sum_scaled;  // of all codes, times the scale
    int32_t minus_sum_8;     // of all codes, times 8
    int32_t minus_sums[2];   // of the first 16 codes and of the last

    void set_sums(int32_t first, int32_t last) {
        const int32_t minus_sum = -first - last;
        minus_sum_scaled = scale * static_cast<float>(minus_sum);
        minus_sum_8 = 8 * minus_sum;
        minus_sums[0] = -first;
        minus_sums[1] = -last;
    }
};
static_assert(sizeof(ActivationGroup) == 52);

// How the numbers of one token lie: group g is at first + g * step.
struct ActivationRow {
    ActivationGroup* first;
    int64_t step;
};

class Activations {
  public:
    explicit Activations(int64_t width) : n_groups_((width + kBlock - 1) / kBlock) {}

    // Makes room for n tokens in tiles of `tile` tokens; what was there is lost.
    void arrange(int64_t n_tokens, int tile) {
        tile_ = tile;
        const int64_t n_tiles = (n_tokens + tile - 1) / tile;
        const int64_t n = n_tiles * tile * n_groups_;
        if (n <= capacity_) return;
        groups_.reset();
        capacity_ = 0;
        const size_t n_bytes = (static_cast<size_t>(n) * sizeof(ActivationGroup) + 63) / 64 * 64;
        groups_.reset(static_cast<ActivationGroup*>(std::aligned_alloc(64, n_bytes)));
        if (!groups_) throw std::bad_alloc();
        std::memset(static_cast<void*>(groups_.get()), 0, n_bytes);  // tiles are computed whole
        capacity_ = n;
    }

    int tile_tokens() const { return tile_; }
    int64_t n_groups() const { return n_groups_; }
    // Where the tile begins that holds token t.
    const ActivationGroup* tile(int64_t t) const {
        return groups_.get() + t / tile_ * tile_ * n_groups_;
    }
    ActivationRow row(int64_t t) {
        return {groups_.get() + t / tile_ * tile_ * n_groups_ + t % tile_, tile_};
    }

  private:
    struct Free {
        void operator()(ActivationGroup* p) const { std::free(p); }
    };

    int64_t n_groups_, capacity_ = 0;
    int tile_ = 1;
    std::unique_ptr<ActivationGroup[], Free> groups_;
};

}  // namespace codellama
