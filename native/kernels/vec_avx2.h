// Eight floats: AVX2, FMA, F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace codellama {
namespace {

struct Vec {
    using F = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kTileTokens = 3;   // a tile of 4 rows x 3 tokens fills 12 of 16 registers
    static constexpr int kScoreVectors = 2;

    static F zero() { return _mm256_setzero_ps(); }
    static F set1(float x) { return _mm256_set1_ps(x); }
    static F load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    // b where either is NaN, as on all x86.
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    // x, or 0 where x is tested smaller than the limit.
    static F zero_below(F tested, float limit, F x) {
        return _mm256_and_ps(_mm256_cmp_ps(tested, _mm256_set1_ps(limit), _CMP_NLT_UQ), x);
    }
    // 2^n where the float's lowest mantissa bits hold n.
    static F pow2_of_low_bits(F x) {
        const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(x), 23);
        return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
    }

    static void sum4(F a, F b, F c, F d, float* out) {
        const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd),
                                      _mm256_extractf128_ps(abcd, 1)));
    }

    static F load_f16(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static void store_f16(uint16_t* p, F x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static F load_bytes(const uint8_t* p) {
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static F load_bf16(const uint8_t* p) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
};

}  // namespace
}  // namespace codellama
