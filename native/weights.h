// The model's tensors by name: which there are, what shape they have, and which were given.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format.h"
#include "packed.h"

namespace codellama {

struct Sizes {
    int dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size;
    float norm_eps;
    double rope_theta;
    bool tie_embeddings;

    int64_t q_dim() const { return int64_t{n_heads} * head_dim; }
    int64_t kv_dim() const { return int64_t{n_kv_heads} * head_dim; }
};

// A matrix to multiply by: as stored in F32, F16 and BF16, packed in the other formats.
struct Weight {
    Matrix stored;
    std::unique_ptr<PackedMatrix> packed;  // null where the stored one is used
};

struct LayerWeights {
    std::vector<float> attention_norm, ffn_norm;
    Weight q, k, v, o, gate, up, down;
};

// Throws std::invalid_argument when there is no such format, or when a row of n_cols numbers is not a
// whole number of its blocks.
Format parse_format(const std::string& name);
int64_t row_bytes(Format format, int64_t n_cols);

class Weights {
  public:
    explicit Weights(const Sizes& sizes);
    Weights(const Weights&) = delete;  // the slots point into this object
    Weights& operator=(const Weights&) = delete;

    struct Given {
        PackedMatrix* to_pack;  // what has yet to be packed from `stored`, or null
        Matrix stored;
        bool is_used;  // whether the bytes are used where they lie from now on
    };

    // Gives a tensor its numbers. Vectors are expanded and copied; bytes that are used where they lie
    // must outlive this object. Throws std::invalid_argument for a name that does not exist or came
    // before, and for a shape or a number of bytes that does not fit; std::bad_alloc.
    Given set(const std::string& name, const std::string& format, int64_t rows, int64_t cols,
              std::span<const uint8_t> data);

    // Throws std::invalid_argument, naming them, when tensors are missing.
    void finish();

    bool finished() const { return finished_; }

    Matrix embedding;  // always as stored: rows are looked up
    Weight lm_head;
    std::vector<LayerWeights> layers;
    std::vector<float> final_norm;

  private:
    struct Slot {  // where a tensor goes
        Weight* weight;              // null for vectors, and for an embedding that only is looked up
        std::vector<float>* vector;  // null for matrices
        int64_t rows, cols;
        bool filled = false;
    };

    void add_matrix(const std::string& name, Weight* weight, int64_t rows, int64_t cols);
    void add_vector(const std::string& name, std::vector<float>& vector, int64_t n);

    Arena packed_;
    std::vector<std::string> names_;  // in file order
    std::map<std::string, Slot> slots_;
    bool tied_, finished_ = false;
};

}  // namespace codellama
