// How the numbers of a weight matrix are stored: GGUF's formats, in memory as on disk.
#pragma once

#include <cstddef>
#include <cstdint>

namespace codellama {

enum class Format {
    f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k
};

constexpr bool is_quantised(Format format) { return format >= Format::q8_0; }

// Columns that share a scale in the simplest block formats; also the unit the kernels work in.
constexpr int64_t kBlock = 32;

// A weight as it is stored, row after row, each row a whole number of blocks. The bytes belong to
// somebody else and may have any alignment.
struct Matrix {
    Format format = Format::f32;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t row_bytes = 0;
    const uint8_t* data = nullptr;
};

}  // namespace codellama
