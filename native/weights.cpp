#include "weights.h"

#include <stdexcept>

#include "kernels/kernels.h"

namespace codellama {

Format parse_format(const std::string& name) {
    if (name == "F32") return Format::f32;
    if (name == "F16") return Format::f16;
    if (name == "BF16") return Format::bf16;
    if (name == "Q8_0") return Format::q8_0;
    if (name == "Q4_0") return Format::q4_0;
    throw std::invalid_argument("there is no format \"" + name +
                                "\", only F32, F16, BF16, Q8_0 and Q4_0");
}

int64_t row_bytes(Format format, int64_t n_cols) {
    switch (format) {
        case Format::f32: return n_cols * 4;
        case Format::f16:
        case Format::bf16: return n_cols * 2;
        case Format::q8_0:
        case Format::q4_0: break;
    }
    if (n_cols % kBlock != 0) {
        throw std::invalid_argument("a row of " + std::to_string(n_cols) +
                                    " numbers cannot be stored in blocks of 32");
    }
    return n_cols / kBlock * (format == Format::q8_0 ? 34 : 18);
}

Weights::Weights(const Sizes& sizes)
    : layers(static_cast<size_t>(sizes.n_layers)), tied_(sizes.tie_embeddings) {
    const int64_t dim = sizes.dim, q = sizes.q_dim(), kv = sizes.kv_dim(), ffn = sizes.ffn_dim;
    add_matrix("embed_tokens.weight", embedding, sizes.vocab_size, dim);
    for (int i = 0; i < sizes.n_layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        LayerWeights& layer = layers[static_cast<size_t>(i)];
        add_vector(prefix + "input_layernorm.weight", layer.attention_norm, dim);
        add_matrix(prefix + "self_attn.q_proj.weight", layer.q, q, dim);
        add_matrix(prefix + "self_attn.k_proj.weight", layer.k, kv, dim);
        add_matrix(prefix + "self_attn.v_proj.weight", layer.v, kv, dim);
        add_matrix(prefix + "self_attn.o_proj.weight", layer.o, dim, q);
        add_vector(prefix + "post_attention_layernorm.weight", layer.ffn_norm, dim);
        add_matrix(prefix + "mlp.gate_proj.weight", layer.gate, ffn, dim);
        add_matrix(prefix + "mlp.up_proj.weight", layer.up, ffn, dim);
        add_matrix(prefix + "mlp.down_proj.weight", layer.down, dim, ffn);
    }
    add_vector("norm.weight", final_norm, dim);
    if (!tied_) add_matrix("lm_head.weight", lm_head, sizes.vocab_size, dim);
}

void Weights::add_matrix(const std::string& name, Matrix& matrix, int64_t rows, int64_t cols) {
    names_.push_back(name);
    slots_[name] = {&matrix, nullptr, rows, cols};
}

void Weights::add_vector(const std::string& name, std::vector<float>& vector, int64_t n) {
    names_.push_back(name);
    slots_[name] = {nullptr, &vector, 1, n};
}

void Weights::set(const std::string& name, const std::string& format_name, int64_t rows,
                  int64_t cols, std::span<const uint8_t> data) {
    const auto found = slots_.find(name);
    if (found == slots_.end()) throw std::invalid_argument("the model has no tensor " + name);
    Slot& slot = found->second;
    if (slot.filled) throw std::invalid_argument(name + " was given twice");
    const auto shape = [](int64_t r, int64_t c) {
        return std::to_string(r) + " x " + std::to_string(c);
    };
    if (rows != slot.rows || cols != slot.cols) {
        throw std::invalid_argument(name + " is " + shape(rows, cols) + ", expected " +
                                    shape(slot.rows, slot.cols));
    }
    const Format format = parse_format(format_name);
    const int64_t stride = row_bytes(format, cols);
    if (static_cast<int64_t>(data.size()) != rows * stride) {
        throw std::invalid_argument(name + " has " + std::to_string(data.size()) +
                                    " bytes, expected " + std::to_string(rows * stride) + " for " +
                                    shape(rows, cols) + " in " + format_name);
    }
    if (slot.matrix != nullptr) {
        *slot.matrix = {format, rows, cols, stride, data.data()};
    } else {
        slot.vector->resize(static_cast<size_t>(cols));
        generic_kernels.dequantise(format, data.data(), cols, slot.vector->data());
    }
    slot.filled = true;
}

void Weights::finish() {
    if (finished_) return;
    std::string missing;
    int n_missing = 0;
    for (const std::string& name : names_) {
        if (slots_.at(name).filled) continue;
        if (++n_missing <= 8) missing += (n_missing > 1 ? ", " : "") + name;
    }
    if (n_missing > 8) missing += " and " + std::to_string(n_missing - 8) + " more";
    if (n_missing > 0) throw std::invalid_argument("these tensors are missing: " + missing);
    if (tied_) lm_head = embedding;
    finished_ = true;
}

}  // namespace codellama
