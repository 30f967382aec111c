// Matrix kernels against a plain loop in double, with weights that end where their memory ends.

#include <cmath>
#include <cstring>
#include <memory>

#include "activations.h"
#include "blocks.h"
#include "check.h"
#include "packed.h"
#include "rows.h"
#include "simd.h"
#include "weights.h"

namespace codellama::test {

namespace {

constexpr Format kScalars[] = {Format::f32, Format::f16, Format::bf16};
constexpr Format kBlocks[] = {Format::q8_0, Format::q4_0, Format::q4_1, Format::q5_0, Format::q5_1,
                              Format::q2_k, Format::q3_k, Format::q4_k, Format::q5_k, Format::q6_k};

double half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double size = exponent == 0 ? std::ldexp(mantissa, -24)
                                      : std::ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -size : size;
}

template <class T>
T read(const uint8_t* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

// Number i of a stored row.
double number(Format format, const uint8_t* row, int64_t i) {
    switch (format) {
        case Format::f32: return read<float>(row + 4 * i);
        case Format::f16: return half(read<uint16_t>(row + 2 * i));
        case Format::bf16: {
            const uint32_t bits = uint32_t{read<uint16_t>(row + 2 * i)} << 16;
            return read<float>(reinterpret_cast<const uint8_t*>(&bits));
        }
        default: return 0;
    }
}

// Random bytes whose numbers are finite and near 1.
void fill(std::mt19937& random, Format format, uint8_t* data, int64_t n_bytes) {
    for (int64_t i = 0; i < n_bytes; ++i) data[i] = static_cast<uint8_t>(random());
    // 0.5 to 2 and their negatives as halves
    const auto put_half = [&](uint8_t* at) {
        const uint16_t f16 = static_cast<uint16_t>((random() & 0x83ff) | (14 + random() % 2) << 10);
        std::memcpy(at, &f16, 2);
    };
    if (is_quantised(format)) {
        const int64_t step = block_layout(format).n_bytes;
        const int64_t at = format == Format::q2_k   ? 80
                           : format == Format::q3_k ? 108
                           : format == Format::q6_k ? 208
                                                    : 0;
        for (int64_t i = 0; i < n_bytes; i += step) {
            put_half(data + i + at);
            if (block_layout(format).has_low) put_half(data + i + at + 2);
        }
        return;
    }
    const int64_t step = format == Format::f32 ? 4 : 2;
    for (int64_t i = 0; i + step <= n_bytes; i += step) {
        const float x = static_cast<float>(static_cast<int>(random() % 4001) - 2000) / 1000.0f;
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        const uint16_t top = static_cast<uint16_t>(bits >> 16);
        if (format == Format::f32) std::memcpy(data + i, &x, 4);
        if (format == Format::bf16) std::memcpy(data + i, &top, 2);
        if (format == Format::f16) put_half(data + i);
    }
}

// One product at one shape. `shift` moves the weights off their alignment.
void check_product(const Kernels& kernels, std::mt19937& random, Format format, int64_t rows,
                   int64_t cols, int64_t n_tokens, int64_t shift) {
    const int64_t stride = row_bytes(format, cols), n_bytes = rows * stride;
    const std::unique_ptr<uint8_t[]> memory(new uint8_t[static_cast<size_t>(n_bytes + shift)]);
    fill(random, format, memory.get() + shift, n_bytes);
    const Matrix w{format, rows, cols, stride, memory.get() + shift};
    Rows x(cols), out(rows);
    x.reserve(n_tokens);
    out.reserve(n_tokens);
    for (int64_t t = 0; t < n_tokens; ++t) {
        const std::vector<float> values = normal(random, static_cast<size_t>(cols));
        std::copy(values.begin(), values.end(), x.row(t));
        std::fill(out.row(t), out.row(t) + rows, 0.5f);
    }
    std::vector<float> panel(static_cast<size_t>(kPanelRows * (cols + kBlock)));
    const int64_t first = rows / 3;  // a part of the rows, and added to what is there
    kernels.matmul(w, first, rows, x.row(0), x.stride(), n_tokens, out.row(0), out.stride(), true,
                   panel.data());
    for (int64_t t = 0; t < n_tokens; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
            double want = 0.5, size = 0.5;
            for (int64_t k = 0; k < cols && r >= first; ++k) {
                const double term = number(format, w.data + r * stride, k) * double{x.row(t)[k]};
                want += term;
                size += std::abs(term);
            }
            CHECK(std::abs(out.row(t)[r] - want) <= 1e-6 * size);
        }
    }
}

TEST(matmul_is_a_plain_loop) {
    std::mt19937 random(1);
    for (const Kernels* kernels : available_kernels()) {
        for (const Format format : kScalars) {
            for (const int64_t cols : {1, 31, 32, 33, 96, 160, 193}) {
                for (const int64_t rows : {1, 5, 31, 33}) {
                    for (const int64_t n_tokens : {1, 2, 3, 6, 7, 31, 33}) {
                        check_product(*kernels, random, format, rows, cols, n_tokens, 0);
                    }
                }
                check_product(*kernels, random, format, 17, cols, 9, 1);
                check_product(*kernels, random, format, 17, cols, 1, 3);
            }
        }
    }
}

// A packed product at one shape, from panel `first` on, added to what is there: rounded activations
// times expanded blocks.
void check_packed(const Kernels& kernels, std::mt19937& random, Format format, int64_t rows,
                  int64_t cols, int64_t n_tokens, int64_t first) {
    const int64_t stride = row_bytes(format, cols);
    const std::unique_ptr<uint8_t[]> memory(new uint8_t[static_cast<size_t>(rows * stride)]);
    fill(random, format, memory.get(), rows * stride);
    Arena arena;
    PackedMatrix packed(format, rows, cols, arena);
    packed.pack({format, rows, cols, stride, memory.get()}, 0, packed.n_panels());
    Activations x(cols);
    x.arrange(n_tokens, kernels.tile_tokens(n_tokens));
    for (int64_t t = 0; t < n_tokens; ++t) {
        const std::vector<float> values = normal(random, static_cast<size_t>(cols));
        kernels.round_row(values.data(), cols / kBlock, x.row(t));
    }
    std::vector<float> out(static_cast<size_t>(n_tokens * rows), 0.5f);
    kernels.multiply_panels(packed, first, packed.n_panels(), x, n_tokens, out.data(), rows, true);
    std::vector<float> wide(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
        expand_blocks(format, memory.get() + r * stride, cols, wide.data());
        for (int64_t t = 0; t < n_tokens; ++t) {
            const ActivationRow row = x.row(t);
            double want = 0.5, size = 0.5;
            for (int64_t k = 0; k < cols && r >= first * kPanelRows; ++k) {
                const ActivationGroup& group = row.first[k / kBlock * row.step];
                const double term = double{wide[static_cast<size_t>(k)]} * group.scale *
                                    group.codes[k % kBlock];
                want += term;
                // Codes cancel against their zero or low, whose sizes bound the rounding.
                size += 256 * std::abs(double{group.scale} * group.codes[k % kBlock]);
            }
            CHECK(std::abs(out[static_cast<size_t>(t * rows + r)] - want) <= 1e-6 * size);
        }
    }
}

TEST(packed_products_are_a_plain_loop) {
    std::mt19937 random(3);
    for (const Kernels* kernels : available_kernels()) {
        for (const Format format : kBlocks) {
            const int64_t block = block_layout(format).n_numbers;
            for (const int64_t rows : {1, 16, 33}) {
                for (const int64_t n_tokens : {1, 2, 3, 5, 9, 13}) {
                    check_packed(*kernels, random, format, rows, 3 * block, n_tokens, 0);
                }
            }
            check_packed(*kernels, random, format, 50, block, 31, 2);
        }
    }
}

TEST(numbers_are_widened_exactly) {
    std::mt19937 random(2);
    for (const Kernels* kernels : available_kernels()) {
        for (const Format format : kScalars) {
            const int64_t n = 77;
            const int64_t n_bytes = row_bytes(format, n);
            const std::unique_ptr<uint8_t[]> row(new uint8_t[static_cast<size_t>(n_bytes)]);
            fill(random, format, row.get(), n_bytes);
            const std::unique_ptr<float[]> out(new float[static_cast<size_t>(n)]);
            kernels->widen(format, row.get(), n, out.get());
            for (int64_t i = 0; i < n; ++i) {
                CHECK(double{out[static_cast<size_t>(i)]} == number(format, row.get(), i));
            }
        }
    }
}

}  // namespace

}  // namespace codellama::test
