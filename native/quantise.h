// Numbers to GGUF's block formats, for whole models: what `codellama.quant.formats.quantise` computes,
// bit for bit, faster and on several threads.
#pragma once

#include <cstdint>
#include <string>

namespace codellama {

// One block: numbers in, bytes out. False, with the bytes undefined, when the numbers are not all
// finite or are too large for the format.
using EncodeBlock = bool (*)(const float* x, uint8_t* out);

struct Encoder {
    const char* name;
    int64_t block_size, block_bytes;
    EncodeBlock encode;
};

// The fastest encoder of this CPU, or with simd "generic" the one for any. Throws std::invalid_argument
// when the format is not one that is written in blocks.
const Encoder& find_encoder(const std::string& format, const std::string& simd = "auto");

// Encodes n_blocks blocks. Returns the first block that cannot be stored, or -1; the bytes behind such
// a block are undefined.
int64_t quantise(const Encoder& encoder, const float* x, int64_t n_blocks, uint8_t* out,
                 int n_threads);

}  // namespace codellama
