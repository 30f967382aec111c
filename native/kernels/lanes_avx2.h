// Sixteen rows of a panel in two registers: AVX2, FMA, F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "activations.h"

namespace codellama {
namespace {

struct Lanes {
    static constexpr int kTiles[] = {1, 2, 4};  // tokens that a tile may have

    struct Bytes {  // rows 0 to 7, rows 8 to 15
        __m256i a, b;
    };
    using Ints = Bytes;
    struct Floats {
        __m256 a, b;
    };

    static Bytes load(const uint8_t* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
    }
    static Bytes low_nibbles(Bytes x) {
        const __m256i mask = _mm256_set1_epi8(15);
        return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
    }
    static Bytes high_nibbles(Bytes x) {
        return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
    }
    // `codes` with the bits of `above`, moved right by `shift` and cut off by `mask`, above the nibble.
    template <int shift, int mask>
    static Bytes with_bits(Bytes codes, Bytes above) {
        return {with_bits_half<shift, mask>(codes.a, above.a),
                with_bits_half<shift, mask>(codes.b, above.b)};
    }

    // What a sum of products begins with, so that it ends as the sum of (code - zero) * activation.
    // `sum` is `times` the sum of the activations, with a minus.
    template <int zero, int times>
    static Ints begin(int32_t sum) {
        __m256i x = _mm256_setzero_si256();
        if constexpr (zero != 0 && zero != 128) x = _mm256_set1_epi32(sum * (zero / times));
        return {x, x};
    }
    // sum + 4 codes of each row times 4 activations.
    template <int zero>
    static Ints dot(Ints sum, Bytes codes, const int8_t* four) {
        int32_t bits;
        std::memcpy(&bits, four, 4);
        const __m256i x = _mm256_set1_epi32(bits);
        return {dot_half<zero>(sum.a, codes.a, x), dot_half<zero>(sum.b, codes.b, x)};
    }

    static Floats zero() { return set1(0); }
    static Floats set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static Floats halves(const uint8_t* p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))};
    }
    static Floats signed_bytes(const uint8_t* p) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
    }
    static Floats convert(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
    static Floats add(Floats x, Floats y) {
        return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
    }
    static Floats mul(Floats x, Floats y) {
        return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
    }
    static Floats fma(Floats x, Floats y, Floats z) {
        return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
    }
    static void store(float* p, Floats x) {
        _mm256_storeu_ps(p, x.a);
        _mm256_storeu_ps(p + 8, x.b);
    }
    static Floats load_floats(const float* p) {
        return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
    }

    // Rounds 32 numbers. A group that holds a NaN or an infinity has the scale NaN or infinity.
    static void round_group(const float* x, ActivationGroup& group) {
        const __m256 sign = _mm256_set1_ps(-0.0f), none = _mm256_setzero_ps();
        __m256 in[4], most = none, finite = none;
        for (int i = 0; i < 4; ++i) {
            in[i] = _mm256_loadu_ps(x + 8 * i);
            most = _mm256_max_ps(most, _mm256_andnot_ps(sign, in[i]));
            finite = _mm256_fmadd_ps(in[i], none, finite);
        }
        float largest[8], rest[8], top = 0, nothing = 0;
        _mm256_storeu_ps(largest, most);
        _mm256_storeu_ps(rest, finite);
        for (int i = 0; i < 8; ++i) {
            top = largest[i] > top ? largest[i] : top;
            nothing += rest[i];
        }
        group.scale = top / 127.0f + nothing;
        const bool usable = nothing == 0.0f && top >= 0x1p-120f;
        const __m256 factor = _mm256_set1_ps(usable ? 127.0f / top : 0.0f);
        int32_t sums[2] = {0, 0};
        for (int i = 0; i < 4; ++i) {
            const __m256 scaled = usable ? _mm256_mul_ps(in[i], factor) : none;
            int32_t codes[8];
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_cvtps_epi32(scaled));
            for (int j = 0; j < 8; ++j) {
                group.codes[8 * i + j] = static_cast<int8_t>(codes[j]);
                sums[i / 2] += codes[j];
            }
        }
        group.set_sums(sums[0], sums[1]);
    }

  private:
    template <int shift, int mask>
    static __m256i with_bits_half(__m256i codes, __m256i above) {
        const __m256i moved = shift < 4 ? _mm256_slli_epi16(above, 4 - shift)
                                        : _mm256_srli_epi16(above, shift - 4);
        return _mm256_or_si256(codes, _mm256_and_si256(moved, _mm256_set1_epi8(mask << 4)));
    }
    template <int zero>
    static __m256i dot_half(__m256i sum, __m256i codes, __m256i x) {
        if constexpr (zero == 128) {
            // Products of whole bytes would overflow the 16 bits they are summed in, those of
            // magnitudes up to 128 and 127 do not: the code's sign is given to the activation.
            const __m256i whole = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            x = _mm256_sign_epi8(x, whole);
            codes = _mm256_abs_epi8(whole);
        }
        return _mm256_add_epi32(
            sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
    }
};

}  // namespace
}  // namespace codellama
