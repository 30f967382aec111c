// Weights in F32, F16 and BF16 times activations in float32, written over `Vec`.
//
// Every sum runs over the columns in order, column k in lane k mod kLanes of one accumulator, and
// the lanes are added in one fixed tree at the end. Widening to float32 is exact, so doing it first
// and multiplying later gives the same bits as doing both at once.
#pragma once

#include "kernels/kernels.h"

namespace codellama {
namespace {

constexpr int kVectors = kBlock / Vec::kLanes;  // vectors in 32 numbers

// 32 numbers in one of the formats, widened a vector at a time.
struct F32 {
    static constexpr Format kFormat = Format::f32;
    static constexpr int64_t kBytes = 128;
    const uint8_t* p;

    Vec::F vector(int v) const { return Vec::load(p + 4 * v * Vec::kLanes); }
};

struct F16 {
    static constexpr Format kFormat = Format::f16;
    static constexpr int64_t kBytes = 64;
    const uint8_t* p;

    Vec::F vector(int v) const { return Vec::load_f16(p + 2 * v * Vec::kLanes); }
};

struct BF16 {
    static constexpr Format kFormat = Format::bf16;
    static constexpr int64_t kBytes = 64;
    const uint8_t* p;

    Vec::F vector(int v) const { return Vec::load_bf16(p + 2 * v * Vec::kLanes); }
};

template <class Block>
constexpr int64_t kNumberBytes = Block::kBytes / kBlock;

// One block of R rows times T tokens, added to the accumulators.
template <class Block, int R, int T>
[[gnu::always_inline]] inline void add_block(const uint8_t* const* rows, int64_t offset,
                                             const float* x, int64_t x_stride,
                                             Vec::F (&acc)[R][T]) {
    Block blocks[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) blocks[r] = Block{rows[r] + offset};
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
        Vec::F in[T];
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) in[t] = Vec::load(x + t * x_stride + v * Vec::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Vec::F row = blocks[r].vector(v);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) acc[r][t] = Vec::fma(row, in[t], acc[r][t]);
        }
    }
}

// R rows times T tokens, lane by lane.
template <class Block, int R, int T>
[[gnu::always_inline]] inline void accumulate(const uint8_t* const* w, int64_t cols,
                                              const float* x, int64_t x_stride,
                                              Vec::F (&acc)[R][T]) {
    const uint8_t* rows[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        rows[r] = w[r];
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) acc[r][t] = Vec::zero();
    }
    const int64_t n_blocks = cols / kBlock, n_left = cols % kBlock;
    for (int64_t b = 0; b < n_blocks; ++b) {
        add_block<Block, R, T>(rows, b * Block::kBytes, x + b * kBlock, x_stride, acc);
    }
    if (n_left != 0) {
        uint8_t ends[R][Block::kBytes] = {};
        const uint8_t* end_rows[R];
        for (int r = 0; r < R; ++r) {
            std::memcpy(ends[r], rows[r] + n_blocks * Block::kBytes, n_left * kNumberBytes<Block>);
            end_rows[r] = ends[r];
        }
        add_block<Block, R, T>(end_rows, 0, x + n_blocks * kBlock, x_stride, acc);
    }
}

// The products of four rows and T tokens; the first n rows are written.
//
// Rows that come from memory are taken one by one, because processors recognise and prefetch one
// stream but not four short ones side by side. Rows that are in the cache already (`kCached`) are
// taken together, which needs fewer loads.
template <class Block, int T, bool kCached>
void tile(const uint8_t* const* rows, int n, int64_t cols, const float* x, int64_t x_stride,
          float* out, int64_t out_stride, bool add) {
    Vec::F acc[4][T];
    if constexpr (kCached) {
        accumulate<Block, 4, T>(rows, cols, x, x_stride, acc);
    } else {
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
            Vec::F one[1][T];
            accumulate<Block, 1, T>(rows + r, cols, x, x_stride, one);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) acc[r][t] = one[0][t];
        }
    }
    float sums[T][4];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) Vec::sum4(acc[0][t], acc[1][t], acc[2][t], acc[3][t], sums[t]);
    for (int t = 0; t < T; ++t) {
        float* row = out + t * out_stride;
        for (int r = 0; r < n; ++r) row[r] = add ? row[r] + sums[t][r] : sums[t][r];
    }
}

// `tile` for a number of tokens known at run time only, at most Vec::kTileTokens.
template <class Block, bool kCached, int T = Vec::kTileTokens>
void tile_of(int64_t n_tokens, const uint8_t* const* rows, int n, int64_t cols, const float* x,
             int64_t x_stride, float* out, int64_t out_stride, bool add) {
    if (n_tokens == T) {
        tile<Block, T, kCached>(rows, n, cols, x, x_stride, out, out_stride, add);
    } else if constexpr (T > 1) {
        tile_of<Block, kCached, T - 1>(n_tokens, rows, n, cols, x, x_stride, out, out_stride, add);
    }
}

// Pointers to four rows from `first` on; behind the end the last row stands in.
int rows_from(const uint8_t* data, int64_t row_bytes, int64_t first, int64_t end,
              const uint8_t* (&rows)[4]) {
    const int n = end - first < 4 ? static_cast<int>(end - first) : 4;
    for (int r = 0; r < 4; ++r) rows[r] = data + (first + (r < n ? r : n - 1)) * row_bytes;
    return n;
}

template <class Block>
void widen_row(const uint8_t* row, int64_t n, float* out) {
    int64_t b = 0;
    for (; b < n / kBlock; ++b) {
        const Block block{row + b * Block::kBytes};
        for (int v = 0; v < kVectors; ++v) {
            Vec::store(out + b * kBlock + v * Vec::kLanes, block.vector(v));
        }
    }
    if (n % kBlock != 0) {
        uint8_t end[Block::kBytes] = {};
        float numbers[kBlock];
        std::memcpy(end, row + b * Block::kBytes, n % kBlock * kNumberBytes<Block>);
        const Block block{end};
        for (int v = 0; v < kVectors; ++v) Vec::store(numbers + v * Vec::kLanes, block.vector(v));
        std::memcpy(out + b * kBlock, numbers, n % kBlock * sizeof(float));
    }
}

template <class Block>
void product(const Matrix& w, int64_t first, int64_t end, const float* x, int64_t x_stride,
             int64_t n_tokens, float* out, int64_t out_stride, bool add, float* panel) {
    const uint8_t* rows[4];
    if (n_tokens <= Vec::kTileTokens) {
        for (int64_t r = first; r < end; r += 4) {
            const int n = rows_from(w.data, w.row_bytes, r, end, rows);
            tile_of<Block, false>(n_tokens, rows, n, w.cols, x, x_stride, out + r, out_stride, add);
        }
        return;
    }
    // Many tokens: a panel of rows stays in the cache, as float32, while all tokens pass by.
    const int64_t panel_stride = (w.cols + kBlock - 1) / kBlock * kBlock;
    for (int64_t p = first; p < end; p += kPanelRows) {
        const int64_t p_end = p + kPanelRows < end ? p + kPanelRows : end;
        const uint8_t* data = w.data + p * w.row_bytes;
        int64_t row_bytes = w.row_bytes;
        if constexpr (Block::kFormat != Format::f32) {
            for (int64_t r = p; r < p_end; ++r) {
                widen_row<Block>(w.data + r * w.row_bytes, w.cols,
                                    panel + (r - p) * panel_stride);
            }
            data = reinterpret_cast<const uint8_t*>(panel);
            row_bytes = panel_stride * static_cast<int64_t>(sizeof(float));
        }
        const int64_t n_tiles = (n_tokens + Vec::kTileTokens - 1) / Vec::kTileTokens;
        int64_t t = 0;
        for (int64_t i = 0; i < n_tiles; ++i) {  // of nearly equal size
            const int64_t n_tile = (n_tokens - t) / (n_tiles - i);
            for (int64_t r = 0; r < p_end - p; r += 4) {
                const int n = rows_from(data, row_bytes, r, p_end - p, rows);
                tile_of<F32, true>(n_tile, rows, n, w.cols, x + t * x_stride, x_stride,
                                   out + t * out_stride + p + r, out_stride, add);
            }
            t += n_tile;
        }
    }
}

void matmul(const Matrix& w, int64_t first, int64_t end, const float* x, int64_t x_stride,
            int64_t n_tokens, float* out, int64_t out_stride, bool add, float* panel) {
    const auto body = w.format == Format::f32   ? product<F32>
                      : w.format == Format::f16 ? product<F16>
                                                : product<BF16>;
    body(w, first, end, x, x_stride, n_tokens, out, out_stride, add, panel);
}

void widen(Format format, const uint8_t* row, int64_t n, float* out) {
    const auto body = format == Format::f32   ? widen_row<F32>
                      : format == Format::f16 ? widen_row<F16>
                                              : widen_row<BF16>;
    body(row, n, out);
}

}  // namespace
}  // namespace codellama
