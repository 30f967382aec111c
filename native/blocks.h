// What the bytes of GGUF's block formats mean: the one place that takes a block apart.
//
// A number is scale * (code - zero) - low, where a scale is d times a whole number in the K formats,
// and a low is dmin times one. Everything is exact in float32.
#pragma once

#include <cstdint>

#include "format.h"

namespace codellama {

constexpr int kMostNumbers = 256;  // in a block
constexpr int kMostParts = 16;     // of a block, each with a scale of its own

// The facts of one block format.
struct BlockLayout {
    int n_numbers;   // in a block
    int n_bytes;     // of a block
    int n_bits;      // of a code, as packed panels keep it: 4, 5, 6 or 8
    int part;        // numbers that share a scale: 16 or 32
    int zero;        // the code of 0, where numbers have no low
    bool has_low;
    bool has_parts;  // whether scales are d times a whole number for each part
};

// Of a quantised format.
constexpr BlockLayout block_layout(Format format) {
    switch (format) {
        //                       numbers, bytes, bits, part, zero, low, parts
        case Format::q8_0: return {32, 34, 8, 32, 128, false, false};
        case Format::q4_0: return {32, 18, 4, 32, 8, false, false};
        case Format::q4_1: return {32, 20, 4, 32, 0, true, false};
        case Format::q5_0: return {32, 22, 5, 32, 16, false, false};
        case Format::q5_1: return {32, 24, 5, 32, 0, true, false};
        case Format::q2_k: return {256, 84, 4, 16, 0, true, true};
        case Format::q3_k: return {256, 110, 4, 16, 4, false, true};
        case Format::q4_k: return {256, 144, 4, 32, 0, true, true};
        case Format::q5_k: return {256, 176, 5, 32, 0, true, true};
        case Format::q6_k: return {256, 210, 6, 16, 32, false, true};
        case Format::f32:
        case Format::f16:
        case Format::bf16: break;
    }
    return {};
}

// One block taken apart.
struct Block {
    uint8_t codes[kMostNumbers];
    uint16_t d, low;               // halves; `low` is 0 where there is none
    int8_t scales[kMostParts];     // by which d is multiplied; 1 where there are no parts
    uint8_t lows[kMostParts];      // by which `low` is multiplied
};

// Takes the block at `bytes` apart.
void take_apart(Format format, const uint8_t* bytes, Block& block);

// The n numbers of a stored row; n is a whole number of blocks.
void expand_blocks(Format format, const uint8_t* row, int64_t n, float* out);

}  // namespace codellama
