// The arithmetic of the model, once per instruction set.
//
// A kernel's result for one row and one token does not depend on the tile it was computed in: sums
// over columns run in the same order, in the same vector lanes, whatever stands beside them. That is
// what makes a packed batch equal to each sequence alone, bit for bit.
//
// The files that implement this table are compiled with instructions that the machine may lack, so
// they define nothing with external linkage but the table itself.
#pragma once

#include "activations.h"
#include "cache.h"
#include "format.h"
#include "packed.h"

namespace codellama {

// Positions whose scores attention holds at once. Counted from position 0, so that the order of
// summation depends on a token's position only.
constexpr int kScoreChunk = 64;

// Query vectors (rows times heads) that one attention task may have.
constexpr int kMaxQueries = 64;

// Attention of a few consecutive query rows of one sequence, for the query heads that share one
// key/value head.
struct AttentionTask {
    const float* q;     // first row's first head; the heads of a row follow each other
    int64_t q_stride;   // floats between rows
    float* out;         // laid out like q
    int64_t out_stride;
    int n_rows;
    int n_heads;        // that share the key/value head; n_rows * n_heads <= kMaxQueries
    int first_position; // of the first row; row i attends to positions 0..first_position + i
    float scale;
    const int32_t* block_table;
    CacheLayout cache;
    const uint8_t* keys;    // this head in block 0
    const uint8_t* values;
    int64_t key_block_stride;    // bytes from one block to the next
    int64_t value_block_stride;
    float* scratch;  // kMaxQueries * (2 * cache.value_stride() + 16) floats
};

struct Kernels {
    const char* name;

    // out[t][r] = sum over k of w[r][k] * x[t][k], or += it, for rows [first, end) of w, in F32, F16 or
    // BF16, and n_tokens rows of x. x is zero from column w.cols to the next multiple of kBlock. `panel`
    // holds kPanelRows rows of w.cols numbers, rounded up to kBlock.
    void (*matmul)(const Matrix& w, int64_t first, int64_t end, const float* x, int64_t x_stride,
                   int64_t n_tokens, float* out, int64_t out_stride, bool add, float* panel);

    // The same for panels [first, end) of a packed matrix and rounded activations.
    void (*multiply_panels)(const PackedMatrix& w, int64_t first, int64_t end, const Activations& x,
                            int64_t n_tokens, float* out, int64_t out_stride, bool add);

    // Tokens to a tile that suit a product of n_tokens tokens.
    int (*tile_tokens)(int64_t n_tokens);

    // Rounds n_groups groups of 32 numbers to 8 bits. A group that is not all finite has a scale that
    // is not, so that what it touches is no number either.
    void (*round_row)(const float* x, int64_t n_groups, ActivationRow out);

    // The n numbers of a stored row in F32, F16 or BF16.
    void (*widen)(Format format, const uint8_t* row, int64_t n, float* out);

    // out = x / sqrt(mean(x^2) + eps) * weight
    void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);

    // Turns the pairs (i, i + n) of a head of 2n numbers by the angles whose cosines and sines are
    // given.
    void (*rotate)(float* head, const float* cos, const float* sin, int64_t n);

    // gate = gate / (1 + exp(-gate)) * up
    void (*silu_multiply)(float* gate, const float* up, int64_t n);

    void (*attend)(const AttentionTask& task);

    // Stores one head's key and value at a position of a block, whose keys and values are given.
    void (*store_head)(const CacheLayout& cache, int offset, const float* key, const float* value,
                       uint8_t* keys, uint8_t* values);

    // out = exp((x - shift) / temperature)
    void (*exp_scaled)(const float* x, int64_t n, float shift, float temperature, float* out);
};

extern const Kernels generic_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512vnni_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

}  // namespace codellama
