// Sixteen rows of a panel, one after the other.
#pragma once

#include <cstdint>
#include <cstring>

#include "activations.h"
#include "kernels/round.h"

namespace codellama {
namespace {

struct Lanes {
    static constexpr int kTiles[] = {1, 4};  // tokens that a tile may have

    struct Bytes {  // 4 columns of 16 rows
        uint8_t at[64];
    };
    struct Ints {
        int32_t at[16];
    };
    struct Floats {
        float at[16];
    };

    static Bytes load(const uint8_t* p) {
        Bytes x;
        std::memcpy(x.at, p, 64);
        return x;
    }
    static Bytes low_nibbles(Bytes x) {
        for (uint8_t& b : x.at) b &= 15;
        return x;
    }
    static Bytes high_nibbles(Bytes x) {
        for (uint8_t& b : x.at) b >>= 4;
        return x;
    }
    // `codes` with the bits of `above`, moved right by `shift` and cut off by `mask`, above the nibble.
    template <int shift, int mask>
    static Bytes with_bits(Bytes codes, Bytes above) {
        for (int i = 0; i < 64; ++i) codes.at[i] |= (above.at[i] >> shift & mask) << 4;
        return codes;
    }

    // What a sum of products begins with, so that it ends as the sum of (code - zero) * activation.
    // `sum` is `times` the sum of the activations, with a minus.
    template <int zero, int times>
    static Ints begin(int32_t sum) {
        Ints x;
        for (int32_t& n : x.at) n = sum * (zero / times);
        return x;
    }
    // sum + 4 codes of each row times 4 activations.
    template <int zero>
    static Ints dot(Ints sum, Bytes codes, const int8_t* four) {
        for (int r = 0; r < 16; ++r) {
            for (int c = 0; c < 4; ++c) sum.at[r] += codes.at[4 * r + c] * four[c];
        }
        return sum;
    }

    static Floats zero() { return {}; }
    static Floats set1(float x) {
        Floats y;
        for (float& f : y.at) f = x;
        return y;
    }
    static Floats halves(const uint8_t* p) {
        Floats y;
        for (int i = 0; i < 16; ++i) {
            uint16_t bits;
            std::memcpy(&bits, p + 2 * i, 2);
            const uint32_t sign = uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7fffu;
            const uint32_t shifted = rest << 13;
            float size;
            std::memcpy(&size, &shifted, 4);
            size *= 0x1p112f;
            uint32_t whole;
            std::memcpy(&whole, &size, 4);
            whole |= sign | (rest >= 0x7c00u ? 0x7f800000u : 0u);
            std::memcpy(&y.at[i], &whole, 4);
        }
        return y;
    }
    static Floats signed_bytes(const uint8_t* p) {
        Floats y;
        for (int i = 0; i < 16; ++i) y.at[i] = static_cast<float>(static_cast<int8_t>(p[i]));
        return y;
    }
    static Floats convert(Ints x) {
        Floats y;
        for (int i = 0; i < 16; ++i) y.at[i] = static_cast<float>(x.at[i]);
        return y;
    }
    static Floats mul(Floats a, Floats b) {
        for (int i = 0; i < 16; ++i) a.at[i] *= b.at[i];
        return a;
    }
    static Floats fma(Floats a, Floats b, Floats c) {
        for (int i = 0; i < 16; ++i) c.at[i] += a.at[i] * b.at[i];
        return c;
    }
    static void store(float* p, Floats x) { std::memcpy(p, x.at, 64); }
    static Floats load_floats(const float* p) {
        Floats x;
        std::memcpy(x.at, p, 64);
        return x;
    }
    static Floats add(Floats a, Floats b) {
        for (int i = 0; i < 16; ++i) a.at[i] += b.at[i];
        return a;
    }

    static void round_group(const float* x, ActivationGroup& group) { round_plainly(x, group); }
};

}  // namespace
}  // namespace codellama
