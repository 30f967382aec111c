// The model's tensors by name: which there are, what shape they have, and which were given.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "format.h"

namespace codellama {

struct Sizes {
    int dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size;
    float norm_eps;
    double rope_theta;
    bool tie_embeddings;

    int64_t q_dim() const { return int64_t{n_heads} * head_dim; }
    int64_t kv_dim() const { return int64_t{n_kv_heads} * head_dim; }
};

struct LayerWeights {
    std::vector<float> attention_norm, ffn_norm;
    Matrix q, k, v, o, gate, up, down;
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

    // Gives a tensor its numbers. Vectors are expanded and copied; a matrix's bytes are used where
    // they lie and must outlive this object. Throws std::invalid_argument for a name that does not
    // exist or came before, and for a shape or a number of bytes that does not fit.
    void set(const std::string& name, const std::string& format, int64_t rows, int64_t cols,
             std::span<const uint8_t> data);

    // Throws std::invalid_argument, naming them, when tensors are missing.
    void finish();

    bool finished() const { return finished_; }

    Matrix embedding, lm_head;
    std::vector<LayerWeights> layers;
    std::vector<float> final_norm;

  private:
    struct Slot {  // where a tensor goes: one of the two
        Matrix* matrix;
        std::vector<float>* vector;
        int64_t rows, cols;
        bool filled = false;
    };

    void add_matrix(const std::string& name, Matrix& matrix, int64_t rows, int64_t cols);
    void add_vector(const std::string& name, std::vector<float>& vector, int64_t n);

    std::vector<std::string> names_;  // in file order
    std::map<std::string, Slot> slots_;
    bool tied_, finished_ = false;
};

}  // namespace codellama
