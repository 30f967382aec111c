// Whole steps: a packed batch equals each sequence alone, and bad batches are refused.

#include <algorithm>
#include <array>

#include "check.h"
#include "model.h"
#include "simd.h"

namespace codellama::test {

namespace {

constexpr Sizes kSizes{.dim = 45, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 10,
                       .ffn_dim = 77, .vocab_size = 33, .norm_eps = 1e-5f, .rope_theta = 1e6,
                       .tie_embeddings = true};
constexpr int kBlockSize = 16;

// A model with random weights that lie in `bytes`.
struct RandomModel {
    explicit RandomModel(const char* simd, int n_threads)
        : model(kSizes, CacheFormat::f32, 16, kBlockSize, n_threads, simd) {
        const int64_t dim = kSizes.dim, q = kSizes.q_dim(), kv = kSizes.kv_dim();
        add("embed_tokens", kSizes.vocab_size, dim);
        for (int i = 0; i < kSizes.n_layers; ++i) {
            const std::string p = "layers." + std::to_string(i) + ".";
            add(p + "input_layernorm", 1, dim);
            add(p + "self_attn.q_proj", q, dim);
            add(p + "self_attn.k_proj", kv, dim);
            add(p + "self_attn.v_proj", kv, dim);
            add(p + "self_attn.o_proj", dim, q);
            add(p + "post_attention_layernorm", 1, dim);
            add(p + "mlp.gate_proj", kSizes.ffn_dim, dim);
            add(p + "mlp.up_proj", kSizes.ffn_dim, dim);
            add(p + "mlp.down_proj", dim, kSizes.ffn_dim);
        }
        add("norm", 1, dim);
        model.finish();
    }

    void add(const std::string& name, int64_t rows, int64_t cols) {
        numbers.push_back(normal(random, static_cast<size_t>(rows * cols)));
        for (float& x : numbers.back()) x = rows == 1 ? 1 + 0.1f * x : 0.1f * x;
        const std::vector<float>& x = numbers.back();
        model.set_tensor(name + ".weight", "F32", rows, cols,
                            {reinterpret_cast<const uint8_t*>(x.data()), 4 * x.size()});
    }

    std::mt19937 random{8};
    std::vector<std::vector<float>> numbers;
    Model model;
};

// Logits of every token of one sequence that starts at position 0 of the given blocks.
std::vector<float> logits_of(Model& model, std::span<const int32_t> tokens,
                             std::span<const int32_t> table) {
    std::vector<int32_t> positions(tokens.size());
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
    const auto n = static_cast<int32_t>(tokens.size());
    const std::array<int32_t, 2> starts{0, n};
    const std::array<int32_t, 1> lens{n};
    std::vector<float> logits(tokens.size() * static_cast<size_t>(kSizes.vocab_size));
    model.step({tokens, positions, starts, lens, table, std::ssize(table), positions},
               logits.data());
    return logits;
}

TEST(packed_is_alone) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < 70; ++i) tokens.push_back(i * 7 % kSizes.vocab_size);
    std::vector<int32_t> positions;
    for (int i = 0; i < 40; ++i) positions.push_back(i);
    for (int i = 0; i < 30; ++i) positions.push_back(i);
    std::vector<int32_t> rows;
    for (int i = 0; i < 70; ++i) rows.push_back(i);
    const std::array<int32_t, 3> starts{0, 40, 70};
    const std::array<int32_t, 2> lens{40, 30};
    const std::array<int32_t, 6> tables{9, 0, 4, 15, 2, -1};
    const std::array<int32_t, 3> table{1, 2, 3};
    for (const Kernels* kernels : available_kernels()) {
        RandomModel one(kernels->name, 1), four(kernels->name, 4);
        std::vector<float> packed(70 * static_cast<size_t>(kSizes.vocab_size));
        four.model.step({tokens, positions, starts, lens, tables, 3, rows}, packed.data());
        const std::span<const int32_t> all = tokens;
        std::vector<float> alone = logits_of(one.model, all.first(40), table);
        const std::vector<float> second = logits_of(one.model, all.last(30), table);
        alone.insert(alone.end(), second.begin(), second.end());
        CHECK(packed == alone);
    }
}

TEST(many_small_steps_on_many_threads) {
    RandomModel random("auto", 4);
    const std::array<int32_t, 3> table{5, 6, 7};
    const std::vector<int32_t> tokens(33, 3);
    const std::vector<float> want = logits_of(random.model, tokens, table);
    for (int i = 0; i < 30; ++i) CHECK(logits_of(random.model, tokens, table) == want);
}

TEST(bad_batches_are_refused) {
    RandomModel random("auto", 2);
    const auto refused = [&](std::vector<int32_t> tokens, std::vector<int32_t> table) {
        try {
            logits_of(random.model, tokens, table);
        } catch (const std::invalid_argument&) {
            return true;
        }
        return false;
    };
    CHECK(!refused({1, 2, 3}, {0}));
    CHECK(refused({1, 2, 33}, {0}));
    CHECK(refused({1, -2, 3}, {0}));
    CHECK(refused({1, 2, 3}, {16}));
    CHECK(refused({1, 2, 3}, {-1}));
    CHECK(refused(std::vector<int32_t>(17, 1), {0}));
    CHECK(refused(std::vector<int32_t>(17, 1), {0, 0}));
}

}  // namespace

}  // namespace codellama::test
