#include "blocks.h"

#include <bit>
#include <cstring>

namespace codellama {

namespace {

uint16_t half_at(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

// Half precision to single, exactly.
float single(uint16_t half) {
    const uint32_t sign = uint32_t{half & 0x8000u} << 16;
    const uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    const float size = std::bit_cast<float>(rest << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// Nibbles of n bytes: the low ones, then the high ones.
void nibbles(const uint8_t* p, int n, uint8_t* codes) {
    for (int i = 0; i < n; ++i) {
        codes[i] = p[i] & 15;
        codes[n + i] = p[i] >> 4;
    }
}

// Bit i of a little-endian word is the fifth bit of code i.
void fifth_bits(const uint8_t* p, uint8_t* codes) {
    for (int i = 0; i < 32; ++i) codes[i] |= (p[i / 8] >> i % 8 & 1) << 4;
}

// Eight scales and eight lows of six bits each, in twelve bytes: the first four of each whole in a
// byte's lower six bits, the last four with their upper two bits above those.
void six_bit_pairs(const uint8_t* p, Block& block) {
    for (int i = 0; i < 4; ++i) {
        block.scales[i] = static_cast<int8_t>(p[i] & 63);
        block.lows[i] = p[4 + i] & 63;
        block.scales[4 + i] = static_cast<int8_t>((p[8 + i] & 15) | p[i] >> 6 << 4);
        block.lows[4 + i] = static_cast<uint8_t>(p[8 + i] >> 4 | p[4 + i] >> 6 << 4);
    }
}

void q2_k(const uint8_t* p, Block& block) {
    for (int i = 0; i < 16; ++i) {
        block.scales[i] = static_cast<int8_t>(p[i] & 15);
        block.lows[i] = p[i] >> 4;
    }
    for (int i = 0; i < 256; ++i) {
        block.codes[i] = p[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
    }
    block.d = half_at(p + 80);
    block.low = half_at(p + 82);
}

void q3_k(const uint8_t* p, Block& block) {
    // 32 bytes of third bits, 64 bytes of two bits, 16 six-bit scales in 12 bytes, d.
    const uint8_t *third = p, *twos = p + 32, *scales = p + 96;
    for (int i = 0; i < 16; ++i) {
        const int lower = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
        const int upper = scales[8 + i % 4] >> i / 4 * 2 & 3;
        block.scales[i] = static_cast<int8_t>((lower | upper << 4) - 32);
    }
    for (int i = 0; i < 256; ++i) {
        const int two = twos[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        block.codes[i] = static_cast<uint8_t>(two | (third[i % 32] >> i / 32 & 1) << 2);
    }
    block.d = half_at(p + 108);
}

void q4_k(const uint8_t* p, Block& block) {
    block.d = half_at(p);
    block.low = half_at(p + 2);
    six_bit_pairs(p + 4, block);
    for (int i = 0; i < 4; ++i) nibbles(p + 16 + 32 * i, 32, block.codes + 64 * i);
}

void q5_k(const uint8_t* p, Block& block) {
    block.d = half_at(p);
    block.low = half_at(p + 2);
    six_bit_pairs(p + 4, block);
    for (int i = 0; i < 4; ++i) nibbles(p + 48 + 32 * i, 32, block.codes + 64 * i);
    for (int i = 0; i < 256; ++i) block.codes[i] |= (p[16 + i % 32] >> i / 32 & 1) << 4;
}

void q6_k(const uint8_t* p, Block& block) {
    const uint8_t *fours = p, *twos = p + 128;
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 128; ++i) {
            const uint8_t pair = fours[64 * half + i % 64];
            const int four = i < 64 ? pair & 15 : pair >> 4;
            const int two = twos[32 * half + i % 32] >> i / 32 * 2 & 3;
            block.codes[128 * half + i] = static_cast<uint8_t>(four | two << 4);
        }
    }
    std::memcpy(block.scales, p + 192, 16);
    block.d = half_at(p + 208);
}

}  // namespace

void take_apart(Format format, const uint8_t* p, Block& block) {
    std::memset(block.scales, 1, sizeof block.scales);
    std::memset(block.lows, 1, sizeof block.lows);
    block.d = half_at(p);
    block.low = 0;
    switch (format) {
        case Format::q8_0:
            for (int i = 0; i < 32; ++i) block.codes[i] = p[2 + i] ^ 0x80;
            break;
        case Format::q4_0: nibbles(p + 2, 16, block.codes); break;
        case Format::q4_1:
            block.low = half_at(p + 2) ^ 0x8000;  // stored as what is added
            nibbles(p + 4, 16, block.codes);
            break;
        case Format::q5_0:
            nibbles(p + 6, 16, block.codes);
            fifth_bits(p + 2, block.codes);
            break;
        case Format::q5_1:
            block.low = half_at(p + 2) ^ 0x8000;
            nibbles(p + 8, 16, block.codes);
            fifth_bits(p + 4, block.codes);
            break;
        case Format::q2_k: q2_k(p, block); break;
        case Format::q3_k: q3_k(p, block); break;
        case Format::q4_k: q4_k(p, block); break;
        case Format::q5_k: q5_k(p, block); break;
        case Format::q6_k: q6_k(p, block); break;
        case Format::f32:
        case Format::f16:
        case Format::bf16: break;
    }
}

void expand_blocks(Format format, const uint8_t* row, int64_t n, float* out) {
    const BlockLayout layout = block_layout(format);
    Block block;
    for (int64_t i = 0; i < n; i += layout.n_numbers, row += layout.n_bytes) {
        take_apart(format, row, block);
        const float d = single(block.d), low = single(block.low);
        for (int j = 0; j < layout.n_numbers; ++j) {
            const int part = j / layout.part;
            const float whole = static_cast<float>(block.codes[j] - layout.zero);
            const float scaled = d * static_cast<float>(block.scales[part]) * whole;
            out[i + j] =
                layout.has_low ? scaled - low * static_cast<float>(block.lows[part]) : scaled;
        }
    }
}

}  // namespace codellama
