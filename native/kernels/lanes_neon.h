// Sixteen rows of a panel in four registers: NEON with dot products.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "activations.h"
#include "kernels/round.h"

namespace codellama {
namespace {

struct Lanes {
    static constexpr int kTiles[] = {1, 2, 4};  // tokens that a tile may have

    struct Bytes {  // four rows each
        uint8x16_t at[4];
    };
    struct Ints {
        int32x4_t at[4];
    };
    struct Floats {
        float32x4_t at[4];
    };

    static Bytes load(const uint8_t* p) {
        return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
    }
    static Bytes low_nibbles(Bytes x) {
        for (uint8x16_t& v : x.at) v = vandq_u8(v, vdupq_n_u8(15));
        return x;
    }
    static Bytes high_nibbles(Bytes x) {
        for (uint8x16_t& v : x.at) v = vshrq_n_u8(v, 4);
        return x;
    }
    // `codes` with the bits of `above`, moved right by `shift` and cut off by `mask`, above the nibble.
    template <int shift, int mask>
    static Bytes with_bits(Bytes codes, Bytes above) {
        for (int i = 0; i < 4; ++i) {
            const uint8x16_t moved = vshlq_u8(above.at[i], vdupq_n_s8(4 - shift));
            codes.at[i] = vorrq_u8(codes.at[i], vandq_u8(moved, vdupq_n_u8(mask << 4)));
        }
        return codes;
    }

    // What a sum of products begins with, so that it ends as the sum of (code - zero) * activation.
    // `sum` is `times` the sum of the activations, with a minus. Whole bytes are taken as signed ones,
    // which moves their zero where it belongs.
    template <int zero, int times>
    static Ints begin(int32_t sum) {
        const int32x4_t x = vdupq_n_s32(zero == 128 ? 0 : sum * (zero / times));
        return {{x, x, x, x}};
    }
    // sum + 4 codes of each row times 4 activations.
    template <int zero>
    static Ints dot(Ints sum, Bytes codes, const int8_t* four) {
        int32_t bits;
        std::memcpy(&bits, four, 4);
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(bits));
        for (int i = 0; i < 4; ++i) {
            uint8x16_t w = codes.at[i];
            if constexpr (zero == 128) w = veorq_u8(w, vdupq_n_u8(0x80));
            sum.at[i] = vdotq_s32(sum.at[i], vreinterpretq_s8_u8(w), x);
        }
        return sum;
    }

    static Floats zero() { return set1(0); }
    static Floats set1(float x) {
        const float32x4_t v = vdupq_n_f32(x);
        return {{v, v, v, v}};
    }
    static Floats halves(const uint8_t* p) {
        Floats y;
        for (int i = 0; i < 4; ++i) {
            y.at[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i)));
        }
        return y;
    }
    static Floats signed_bytes(const uint8_t* p) {
        const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
        const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
        return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                 vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                 vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                 vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
    }
    static Floats convert(Ints x) {
        Floats y;
        for (int i = 0; i < 4; ++i) y.at[i] = vcvtq_f32_s32(x.at[i]);
        return y;
    }
    static Floats add(Floats a, Floats b) {
        for (int i = 0; i < 4; ++i) a.at[i] = vaddq_f32(a.at[i], b.at[i]);
        return a;
    }
    static Floats mul(Floats a, Floats b) {
        for (int i = 0; i < 4; ++i) a.at[i] = vmulq_f32(a.at[i], b.at[i]);
        return a;
    }
    static Floats fma(Floats a, Floats b, Floats c) {
        for (int i = 0; i < 4; ++i) c.at[i] = vfmaq_f32(c.at[i], a.at[i], b.at[i]);
        return c;
    }
    static void store(float* p, Floats x) {
        for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.at[i]);
    }
    static Floats load_floats(const float* p) {
        return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
    }

    static void round_group(const float* x, ActivationGroup& group) { round_plainly(x, group); }
};

}  // namespace
}  // namespace codellama
