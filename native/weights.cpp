#include "weights.h"

#include <stdexcept>
#include <utility>

#include "blocks.h"
#include "kernels/kernels.h"

namespace codellama {

namespace {

constexpr std::pair<const char*, Format> kNames[] = {
    {"F32", Format::f32},   {"F16", Format::f16},   {"BF16", Format::bf16}, {"Q8_0", Format::q8_0},
    {"Q4_0", Format::q4_0}, {"Q4_1", Format::q4_1}, {"Q5_0", Format::q5_0}, {"Q5_1", Format::q5_1},
    {"Q2_K", Format::q2_k}, {"Q3_K", Format::q3_k}, {"Q4_K", Format::q4_k}, {"Q5_K", Format::q5_k},
    {"Q6_K", Format::q6_k}};

}  // namespace

Format parse_format(const std::string& name) {
    std::string names;
    for (const auto& [known, format] : kNames) {
        if (name == known) return format;
        names += (names.empty() ? "" : ", ") + std::string(known);
    }
    throw std::invalid_argument("there is no format \"" + name + "\", only " + names);
}

int64_t row_bytes(Format format, int64_t n_cols) {
    if (format == Format::f32) return n_cols * 4;
    if (!is_quantised(format)) return n_cols * 2;
    const BlockLayout layout = block_layout(format);
    if (n_cols % layout.n_numbers != 0) {
        throw std::invalid_argument("a row of " + std::to_string(n_cols) +
                                    " numbers cannot be stored in blocks of " +
                                    std::to_string(layout.n_numbers));
    }
    return n_cols / layout.n_numbers * layout.n_bytes;
}

Weights::Weights(const Sizes& sizes)
    : layers(static_cast<size_t>(sizes.n_layers)), tied_(sizes.tie_embeddings) {
    const int64_t dim = sizes.dim, q = sizes.q_dim(), kv = sizes.kv_dim(), ffn = sizes.ffn_dim;
    add_matrix("embed_tokens.weight", tied_ ? &lm_head : nullptr, sizes.vocab_size, dim);
    for (int i = 0; i < sizes.n_layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        LayerWeights& layer = layers[static_cast<size_t>(i)];
        add_vector(prefix + "input_layernorm.weight", layer.attention_norm, dim);
        add_matrix(prefix + "self_attn.q_proj.weight", &layer.q, q, dim);
        add_matrix(prefix + "self_attn.k_proj.weight", &layer.k, kv, dim);
        add_matrix(prefix + "self_attn.v_proj.weight", &layer.v, kv, dim);
        add_matrix(prefix + "self_attn.o_proj.weight", &layer.o, dim, q);
        add_vector(prefix + "post_attention_layernorm.weight", layer.ffn_norm, dim);
        add_matrix(prefix + "mlp.gate_proj.weight", &layer.gate, ffn, dim);
        add_matrix(prefix + "mlp.up_proj.weight", &layer.up, ffn, dim);
        add_matrix(prefix + "mlp.down_proj.weight", &layer.down, dim, ffn);
    }
    add_vector("norm.weight", final_norm, dim);
    if (!tied_) add_matrix("lm_head.weight", &lm_head, sizes.vocab_size, dim);
}

void Weights::add_matrix(const std::string& name, Weight* weight, int64_t rows, int64_t cols) {
    names_.push_back(name);
    slots_[name] = {weight, nullptr, rows, cols};
}

void Weights::add_vector(const std::string& name, std::vector<float>& vector, int64_t n) {
    names_.push_back(name);
    slots_[name] = {nullptr, &vector, 1, n};
}

Weights::Given Weights::set(const std::string& name, const std::string& format_name, int64_t rows,
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
    slot.filled = true;
    const Matrix stored{format, rows, cols, stride, data.data()};
    if (slot.vector != nullptr) {
        slot.vector->resize(static_cast<size_t>(cols));
        if (is_quantised(format)) {
            expand_blocks(format, data.data(), cols, slot.vector->data());
        } else {
            generic_kernels.widen(format, data.data(), cols, slot.vector->data());
        }
        return {nullptr, stored, false};
    }
    const bool is_embedding = slot.weight == nullptr || (tied_ && slot.weight == &lm_head);
    if (is_embedding) embedding = stored;
    if (slot.weight == nullptr || !is_quantised(format)) {
        if (slot.weight != nullptr) slot.weight->stored = stored;
        return {nullptr, stored, true};
    }
    slot.weight->packed = std::make_unique<PackedMatrix>(format, rows, cols, packed_);
    return {slot.weight->packed.get(), stored, is_embedding};
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
    finished_ = true;
}

}  // namespace codellama
