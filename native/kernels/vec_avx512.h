// Sixteen floats: AVX-512 F, BW, DQ, VL.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace codellama {
namespace {

struct Vec {
    using F = __m512;
    static constexpr int kLanes = 16;
    static constexpr int kTileTokens = 6;   // a tile of 4 rows x 6 tokens fills 24 of 32 registers
    static constexpr int kScoreVectors = 4;

    static F zero() { return _mm512_setzero_ps(); }
    static F set1(float x) { return _mm512_set1_ps(x); }
    static F load(const void* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    // b where either is NaN, as on all x86.
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    // x, or 0 where x is tested smaller than the limit.
    static F zero_below(F tested, float limit, F x) {
        return _mm512_maskz_mov_ps(
            _mm512_cmp_ps_mask(tested, _mm512_set1_ps(limit), _CMP_NLT_UQ), x);
    }
    // 2^n where the float's lowest mantissa bits hold n.
    static F pow2_of_low_bits(F x) {
        const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(x), 23);
        return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)));
    }

    static void sum4(F a, F b, F c, F d, float* out) {
        const __m256 ab = _mm256_hadd_ps(fold(a), fold(b));
        const __m256 cd = _mm256_hadd_ps(fold(c), fold(d));
        const __m256 abcd = _mm256_hadd_ps(ab, cd);
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd),
                                      _mm256_extractf128_ps(abcd, 1)));
    }

    static F load_f16(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static void store_f16(uint16_t* p, F x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static F load_bytes(const uint8_t* p) {
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static F load_bf16(const uint8_t* p) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }

  private:
    static __m256 fold(F x) {
        return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    }
};

}  // namespace
}  // namespace codellama
