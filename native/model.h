// The Code Llama decoder over a flat batch and a paged cache.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "activations.h"
#include "batch.h"
#include "cache.h"
#include "kernels/kernels.h"
#include "rows.h"
#include "threads.h"
#include "weights.h"

namespace codellama {

// Weights, cache and threads of one model.
class Model {
  public:
    // Throws std::invalid_argument for sizes that are out of range or contradict each other.
    Model(const Sizes& sizes, CacheFormat cache, int n_blocks, int block_size, int n_threads,
          const std::string& simd);

    // Gives a tensor its numbers, packing them where the format asks for it. Whether the bytes are used
    // where they lie, and so must outlive the model. Throws as `Weights::set` does.
    bool set_tensor(const std::string& name, const std::string& format, int64_t rows, int64_t cols,
                    std::span<const uint8_t> data);

    // Throws std::invalid_argument, naming them, when tensors are missing.
    void finish() { weights_.finish(); }

    // Stores the batch's keys and values and writes logits [R, vocab_size]. Waits for its turn
    // when another thread is in a step. Throws std::invalid_argument as `check` does, and when
    // tensors are still missing.
    void step(const Batch& batch, float* logits);

    // Calls body(i, thread) for every i in [0, n) on the threads of the model, between its steps.
    template <class Body>
    void for_each(int64_t n, Body&& body) {
        const std::lock_guard lock(busy_);
        pool_.run(static_cast<int>(n), body);
    }

    const Sizes& sizes() const { return sizes_; }
    const char* simd() const { return kernels_.name; }
    int n_threads() const { return pool_.n_threads(); }

  private:
    struct Scratch {  // of one thread
        std::vector<float> panel, attention;
    };
    struct AttentionPart {
        int64_t sequence, first_token;
        int kv_head, head, n_heads, n_rows;
    };

    void reserve(const Batch& batch);
    void embed(const Batch& batch);
    void keep_rows(std::span<const int32_t> wanted, Rows& rows);
    void find_angles(const Batch& batch);
    void plan_attention(const Batch& batch);
    void norm(const std::vector<float>& weight, int64_t n_tokens, bool round);
    void store_keys_and_values(const Batch& batch, int layer);
    void attend(const Batch& batch, int layer);
    void gate_and_up(const LayerWeights& layer, int64_t n_tokens);

    // What a product reads: rows of floats, and the same rounded to bytes for packed weights.
    struct Input {
        explicit Input(int64_t width) : rows(width), rounded(width) {}
        Rows rows;
        Activations rounded;
    };

    // Rounds the first n rows; the products of packed weights read that.
    void round(Input& in, int64_t n_tokens);

    // out = the weights, one above the other, times the rows of `in`; or out += it.
    void multiply(std::initializer_list<const Weight*> weights, Input& in, int64_t n_tokens,
                  float* out, int64_t out_stride, bool add);

    // The panels [first, end) of one weight.
    void multiply_part(const Weight& weight, int64_t first, int64_t end, Input& in, int64_t n_tokens,
                       float* out, int64_t out_stride, bool add, Scratch& scratch);

    // Runs body(begin, end, scratch) over parts of [0, n), multiples of `grain` long, on as many
    // threads as `work` multiply-adds per item are worth.
    template <class Body>
    void in_parts(int64_t n, int64_t grain, double work, Body body);

    Sizes sizes_;
    int n_blocks_, block_size_;
    const Kernels& kernels_;
    Weights weights_;
    ThreadPool pool_;
    PagedCache cache_;
    std::mutex busy_;

    std::vector<float> inverse_frequencies_;  // [head_dim / 2]
    Rows hidden_, qkv_, up_;
    Input normed_, attended_, gate_;
    Rows angles_;                       // cosines, then sines
    std::vector<int32_t> sequence_of_;  // [T]
    std::vector<float> kept_;           // for `keep_rows`
    std::vector<AttentionPart> parts_;
    double attention_work_ = 0;  // of all parts
    std::vector<Scratch> scratch_;
};

}  // namespace codellama
