// Numbers of the key/value cache, read and written a vector at a time, over `Vec`.
#pragma once

#include "kernels/kernels.h"

namespace codellama {
namespace {

struct CachedF32 {
    static constexpr int64_t kBytes = 4;
    static constexpr bool kScaled = false;
    static Vec::F load(const uint8_t* p) { return Vec::load(p); }
};

struct CachedF16 {
    static constexpr int64_t kBytes = 2;
    static constexpr bool kScaled = false;
    static Vec::F load(const uint8_t* p) { return Vec::load_f16(p); }
};

struct CachedQ8 {
    static constexpr int64_t kBytes = 1;
    static constexpr bool kScaled = true;
    static Vec::F load(const uint8_t* p) { return Vec::load_bytes(p); }
};

// Writes n numbers `step` bytes apart, converted by `convert(in, count, out)` a piece at a time.
template <class Number, class Convert>
void store_numbers(const float* x, int n, uint8_t* out, int64_t step, Convert convert) {
    constexpr int kPiece = 64;
    Number numbers[kPiece];
    for (int i = 0; i < n; i += kPiece) {
        const int count = n - i < kPiece ? n - i : kPiece;
        convert(x + i, count, numbers);
        for (int j = 0; j < count; ++j) {
            std::memcpy(out + (i + j) * step, numbers + j, sizeof(Number));
        }
    }
}

void to_halves(const float* x, int n, uint16_t* out) {
    for (int i = 0; i < n; i += Vec::kLanes) {
        const int count = n - i < Vec::kLanes ? n - i : Vec::kLanes;
        float in[Vec::kLanes] = {};
        uint16_t halves[Vec::kLanes];
        std::memcpy(in, x + i, count * sizeof(float));
        Vec::store_f16(halves, Vec::load(in));
        std::memcpy(out + i, halves, count * sizeof(uint16_t));
    }
}

// Rounds n numbers to 8 bits and writes them `step` bytes apart, and their scale. Numbers that are not
// all finite have a scale that is not.
inline void store_bytes(const float* x, int n, uint8_t* out, int64_t step, uint8_t* scale_at) {
    float most = 0, finite = 0;
    for (int i = 0; i < n; ++i) {
        const float size = __builtin_fabsf(x[i]);
        most = size > most ? size : most;
        finite += x[i] * 0.0f;
    }
    const float scale = most / 127.0f + finite;
    const bool is_usable = finite == 0.0f && most >= 0x1p-120f;
    const float inverse = is_usable ? 127.0f / most : 0.0f;
    for (int i = 0; i < n; ++i) {
        const float rounded = is_usable ? __builtin_rintf(x[i] * inverse) : 0.0f;
        out[i * step] = static_cast<uint8_t>(static_cast<int8_t>(rounded));
    }
    std::memcpy(scale_at, &scale, sizeof scale);
}

template <class Number, class Convert>
void store_both(const CacheLayout& cache, int offset, const float* key, const float* value,
                uint8_t* keys, uint8_t* values, Convert convert) {
    constexpr int64_t kSize = sizeof(Number);
    store_numbers<Number>(key, cache.head_dim, keys + kSize * offset, kSize * cache.block_size,
                          convert);
    store_numbers<Number>(value, cache.head_dim, values + kSize * offset * cache.value_stride(),
                          kSize, convert);
}

void store_head(const CacheLayout& cache, int offset, const float* key, const float* value,
                uint8_t* keys, uint8_t* values) {
    switch (cache.format) {
        case CacheFormat::f32:
            return store_both<float>(
                cache, offset, key, value, keys, values,
                [](const float* x, int n, float* out) { std::memcpy(out, x, n * sizeof(float)); });
        case CacheFormat::f16:
            return store_both<uint16_t>(cache, offset, key, value, keys, values, to_halves);
        case CacheFormat::q8_0:
            store_bytes(key, cache.head_dim, keys + offset, cache.block_size,
                        keys + cache.key_scales() + 4 * offset);
            store_bytes(value, cache.head_dim, values + offset * cache.value_stride(), 1,
                        values + cache.value_scales() + 4 * offset);
    }
}

}  // namespace
}  // namespace codellama
