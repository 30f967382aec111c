// Four floats in the compiler's own vector type: SSE2, NEON, or whatever there is.
#pragma once

#include <cstdint>
#include <cstring>

namespace codellama {
namespace {

struct Vec {
    typedef float F __attribute__((vector_size(16)));
    static constexpr int kLanes = 4;
    static constexpr int kTileTokens = 2;
    static constexpr int kScoreVectors = 2;

    static F zero() { return F{}; }
    static F set1(float x) { return F{x, x, x, x}; }
    static F load(const void* p) { return read<F>(p); }
    static void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
    static F add(F a, F b) { return a + b; }
    static F sub(F a, F b) { return a - b; }
    static F mul(F a, F b) { return a * b; }
    static F div(F a, F b) { return a / b; }
    static F fma(F a, F b, F c) { return a * b + c; }
    // b where either is NaN, as the other instruction sets do.
    static F max(F a, F b) { return a > b ? a : b; }
    static F min(F a, F b) { return a < b ? a : b; }
    // x, or 0 where x is tested smaller than the limit.
    static F zero_below(F tested, float limit, F x) { return tested < set1(limit) ? F{} : x; }
    // 2^n where the float's lowest mantissa bits hold n.
    static F pow2_of_low_bits(F x) { return F(((U)x << 23) + 0x3f800000u); }

    static void sum4(F a, F b, F c, F d, float* out) {
        out[0] = (a[0] + a[1]) + (a[2] + a[3]);
        out[1] = (b[0] + b[1]) + (b[2] + b[3]);
        out[2] = (c[0] + c[1]) + (c[2] + c[3]);
        out[3] = (d[0] + d[1]) + (d[2] + d[3]);
    }

    static F load_f16(const uint8_t* p) { return halves(__builtin_convertvector(read<H>(p), U)); }
    static F load_bytes(const uint8_t* p) {
        return __builtin_convertvector(__builtin_convertvector(read<B>(p), I), F);
    }
    static void store_f16(uint16_t* p, F x) {
        for (int i = 0; i < 4; ++i) p[i] = half(x[i]);
    }
    static F load_bf16(const uint8_t* p) { return F(__builtin_convertvector(read<H>(p), U) << 16); }

  private:
    typedef uint32_t U __attribute__((vector_size(16)));
    typedef int32_t I __attribute__((vector_size(16)));
    typedef uint16_t H __attribute__((vector_size(8)));
    typedef int8_t B __attribute__((vector_size(4)));

    template <class T>
    static T read(const void* p) {
        T x;
        std::memcpy(&x, p, sizeof x);
        return x;
    }
    // Single precision to half, to nearest, ties to even: adding a number whose unit in the last place
    // is that of the half lets the processor round.
    static uint16_t half(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
        if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);  // NaN
        if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
        if (size < 0x38800000u) {  // a subnormal half, in units of 2^-24
            float positive;
            std::memcpy(&positive, &size, 4);
            const float shifted = positive + 0.5f;
            uint32_t rounded;
            std::memcpy(&rounded, &shifted, 4);
            return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
        }
        const uint32_t even = size >> 13 & 1;
        return static_cast<uint16_t>(sign | ((size - 0x38000000u + 0xfffu + even) >> 13));
    }
    // Half precision to single, exactly: the multiplication moves the exponent's bias and makes
    // subnormal halves normal; infinities and NaN need their exponent filled up.
    static F halves(U bits) {
        const U sign = (bits & 0x8000u) << 16;
        const F scaled = F((bits & 0x7fffu) << 13) * set1(0x1p112f);
        const U special = (bits & 0x7c00u) == 0x7c00u ? U{} + 0x7f800000u : U{};
        return F(U(scaled) | special | sign);
    }
};

}  // namespace
}  // namespace codellama
