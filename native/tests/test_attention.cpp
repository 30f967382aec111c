// Attention over scattered blocks against softmax written out in double.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "cache.h"
#include "check.h"
#include "simd.h"

namespace codellama::test {

namespace {

struct Shape {
    CacheFormat format;
    int head_dim, n_heads, block_size, n_rows, first_position;
};

void check_attention(const Kernels& kernels, std::mt19937& random, const Shape& shape) {
    const auto [format, head_dim, n_heads, block_size, n_rows, first_position] = shape;
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const int n_positions = first_position + n_rows;
    const int n_blocks = (n_positions + block_size - 1) / block_size + 2;
    std::vector<int32_t> table(static_cast<size_t>(n_blocks));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), random);

    PagedCache cache({format, block_size, head_dim}, 2, n_blocks, 2);
    std::vector<std::vector<float>> keys, values;
    for (int p = 0; p < n_positions; ++p) {
        keys.push_back(normal(random, static_cast<size_t>(head_dim)));
        values.push_back(normal(random, static_cast<size_t>(head_dim)));
        const int64_t block = table[static_cast<size_t>(p / block_size)];
        kernels.store_head(cache.layout(), p % block_size, keys.back().data(), values.back().data(),
                           cache.keys(1, 1) + block * cache.key_block(),
                           cache.values(1, 1) + block * cache.value_block());
    }
    const int64_t stride = int64_t{n_heads} * head_dim + 3;
    const std::vector<float> q = normal(random, static_cast<size_t>(n_rows * stride));
    std::vector<float> out(q.size(), 7.0f);
    std::vector<float> scratch(static_cast<size_t>(kMaxQueries * (2 * cache.layout().value_stride() + 16)));
    kernels.attend({
        .q = q.data(),
        .q_stride = stride,
        .out = out.data(),
        .out_stride = stride,
        .n_rows = n_rows,
        .n_heads = n_heads,
        .first_position = first_position,
        .scale = scale,
        .block_table = table.data(),
        .cache = cache.layout(),
        .keys = cache.keys(1, 1),
        .values = cache.values(1, 1),
        .key_block_stride = cache.key_block(),
        .value_block_stride = cache.value_block(),
        .scratch = scratch.data(),
    });
    for (int row = 0; row < n_rows; ++row) {
        for (int head = 0; head < n_heads; ++head) {
            const int64_t at = row * stride + head * head_dim;
            std::vector<double> want(static_cast<size_t>(head_dim));
            double total = 0;
            for (int p = 0; p <= first_position + row; ++p) {
                double score = 0;
                for (int d = 0; d < head_dim; ++d) score += double{q[at + d]} * keys[p][d];
                const double weight = std::exp(scale * score);
                total += weight;
                for (int d = 0; d < head_dim; ++d) want[d] += weight * values[p][d];
            }
            for (int d = 0; d < head_dim; ++d) {
                // Halves are off by 2^-11 of their size, bytes by half a hundredth of the largest.
                const double bound = format == CacheFormat::f32   ? 1e-5
                                     : format == CacheFormat::f16 ? 4e-3
                                                                  : 0.06;
                CHECK(std::abs(out[at + d] - want[d] / total) < bound);
            }
        }
        for (int64_t i = row * stride + n_heads * head_dim; i < (row + 1) * stride; ++i) {
            CHECK(out[i] == 7.0f);  // what lies between the rows is left alone
        }
    }
}

TEST(attention_is_softmax_written_out) {
    std::mt19937 random(6);
    for (const Kernels* kernels : available_kernels()) {
        for (const CacheFormat format : {CacheFormat::f32, CacheFormat::f16, CacheFormat::q8_0}) {
            for (const int head_dim : {2, 10, 16, 64, 80, 128}) {
                for (const int block_size : {1, 3, 16, 40, 128}) {
                    check_attention(*kernels, random, {format, head_dim, 1, block_size, 1, 0});
                    check_attention(*kernels, random, {format, head_dim, 1, block_size, 1, 200});
                    check_attention(*kernels, random, {format, head_dim, 3, block_size, 5, 61});
                    check_attention(*kernels, random, {format, head_dim, 1, block_size, 33, 31});
                    check_attention(*kernels, random, {format, head_dim, 8, block_size, 8, 120});
                }
            }
        }
    }
}

TEST(halves_are_rounded_as_the_processor_rounds) {
    std::mt19937 random(7);
    std::vector<float> x(4096);
    for (size_t i = 0; i < x.size(); ++i) {  // every exponent, ties among them
        const uint32_t bits = static_cast<uint32_t>(random()) & (i % 3 == 0 ? 0xfffff000u : ~0u);
        std::memcpy(&x[i], &bits, sizeof bits);
        if (std::isnan(x[i])) x[i] = 0x1p-25f;
    }
    const CacheLayout layout{CacheFormat::f16, 1, static_cast<int>(x.size())};
    std::vector<uint8_t> first(x.size() * 2), keys(first), values(first);
    for (const Kernels* kernels : available_kernels()) {
        kernels->store_head(layout, 0, x.data(), x.data(), keys.data(), values.data());
        if (kernels == &generic_kernels) first = keys;
        CHECK(keys == first && values == first);
    }
}

}  // namespace

}  // namespace codellama::test
