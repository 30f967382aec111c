// Sixteen rows of a panel in one register: AVX-512 F, BW, DQ, VL, and VNNI where the compiler is told.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "activations.h"

namespace codellama {
namespace {

struct Lanes {
    static constexpr int kTiles[] = {1, 2, 4, 8, 12};  // tokens that a tile may have

    using Bytes = __m512i;
    using Ints = __m512i;
    using Floats = __m512;

    static Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static Bytes low_nibbles(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
    static Bytes high_nibbles(Bytes x) {
        return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
    }
    // `codes` with the bits of `above`, moved right by `shift` and cut off by `mask`, above the nibble.
    template <int shift, int mask>
    static Bytes with_bits(Bytes codes, Bytes above) {
        const Bytes moved = shift < 4 ? _mm512_slli_epi16(above, 4 - shift)
                                      : _mm512_srli_epi16(above, shift - 4);
        // codes | (moved & mask)
        return _mm512_ternarylogic_epi32(codes, moved, _mm512_set1_epi8(mask << 4), 0xf8);
    }

#if defined(__AVX512VNNI__)
    // What a sum of products begins with, so that it ends as the sum of (code - zero) * activation.
    // `sum` is `times` the sum of the activations, with a minus.
    template <int zero, int times>
    static Ints begin(int32_t sum) {
        return zero == 0 ? _mm512_setzero_si512() : scaled<zero / times>(sum);
    }
    // sum + 4 codes of each row times 4 activations.
    template <int zero>
    static Ints dot(Ints sum, Bytes codes, const int8_t* four) {
        return _mm512_dpbusd_epi32(sum, codes, broadcast(four));
    }
#else
    template <int zero, int times>
    static Ints begin(int32_t sum) {
        return zero == 0 || zero == 128 ? _mm512_setzero_si512() : scaled<zero / times>(sum);
    }
    template <int zero>
    static Ints dot(Ints sum, Bytes codes, const int8_t* four) {
        __m512i x = broadcast(four);
        if constexpr (zero == 128) {
            // Products of whole bytes would overflow the 16 bits they are summed in, those of
            // magnitudes up to 128 and 127 do not: the code's sign is given to the activation.
            const __m512i whole = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
            x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(whole), _mm512_setzero_si512(), x);
            codes = _mm512_abs_epi8(whole);
        }
        return _mm512_add_epi32(
            sum, _mm512_madd_epi16(_mm512_maddubs_epi16(codes, x), _mm512_set1_epi16(1)));
    }
#endif

    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats set1(float x) { return _mm512_set1_ps(x); }
    static Floats halves(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static Floats signed_bytes(const uint8_t* p) {
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats convert(Ints x) { return _mm512_cvtepi32_ps(x); }
    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
    static Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }

    // Rounds 32 numbers. A group that holds a NaN or an infinity has the scale NaN or infinity.
    static void round_group(const float* x, ActivationGroup& group) {
        const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
        const float most =
            _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        const __m512 exponent = _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000));
        const bool finite =
            (_mm512_cmp_ps_mask(_mm512_abs_ps(a), exponent, _CMP_NLT_UQ) |
             _mm512_cmp_ps_mask(_mm512_abs_ps(b), exponent, _CMP_NLT_UQ)) == 0;
        group.scale = finite ? most / 127.0f : __builtin_nanf("");
        const float inverse = finite && most >= 0x1p-120f ? 127.0f / most : 0.0f;
        const __m512 factor = _mm512_set1_ps(inverse);
        const __m512i low = _mm512_cvtps_epi32(finite ? _mm512_mul_ps(a, factor) : zero());
        const __m512i high = _mm512_cvtps_epi32(finite ? _mm512_mul_ps(b, factor) : zero());
        _mm_storeu_si128(reinterpret_cast<__m128i*>(group.codes), _mm512_cvtsepi32_epi8(low));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(group.codes + 16), _mm512_cvtsepi32_epi8(high));
        group.set_sums(_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high));
    }

  private:
    template <int by>  // a power of two
    static Ints scaled(int32_t sum) {
        return _mm512_slli_epi32(_mm512_set1_epi32(sum), __builtin_ctz(by | 1 << 30));
    }
    static __m512i broadcast(const int8_t* four) {
        int32_t bits;
        std::memcpy(&bits, four, 4);
        return _mm512_set1_epi32(bits);
    }
};

}  // namespace
}  // namespace codellama
