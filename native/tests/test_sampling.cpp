// Sampling stays inside what it may draw, at every size and setting.

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "sampling.h"
#include "simd.h"

namespace codellama::test {

namespace {

Sampling plain() {
    Sampling how{};
    how.temperature = 1;
    how.top_p = 1;
    how.repetition_penalty = 1;
    return how;
}

TEST(draws_are_among_what_is_kept) {
    std::mt19937 random(7);
    Sampler sampler(choose_kernels("auto"));
    for (const size_t n : {1, 2, 31, 33, 1000}) {
        for (int i = 0; i < 300; ++i) {
            const std::vector<float> logits = normal(random, n);
            std::vector<float> sorted = logits;
            std::sort(sorted.rbegin(), sorted.rend());
            Sampling how = plain();
            how.temperature = i % 2 == 0 ? 1.0f : 0.1f;
            how.top_k = 1 + static_cast<int32_t>(random() % n);
            how.top_p = static_cast<float>(random() % 101) / 100;
            how.seed = random();
            const Sampled sampled = sampler.sample(logits, how);
            CHECK(sampled.id >= 0 && static_cast<size_t>(sampled.id) < n);
            const float logit = logits[static_cast<size_t>(sampled.id)];
            CHECK(logit >= sorted[static_cast<size_t>(how.top_k - 1)]);
            CHECK(sampled.logprob <= 1e-6f);
            how.temperature = 0;
            CHECK(logits[static_cast<size_t>(sampler.sample(logits, how).id)] == sorted[0]);
        }
    }
}

TEST(penalties_and_biases_change_the_choice) {
    Sampler sampler(choose_kernels("generic"));
    const std::vector<float> logits{1.0f, 3.0f, 2.0f, -1.0f};
    const std::vector<int32_t> history{1, 1, 2};
    Sampling how = plain();
    how.temperature = 0;
    how.history = history;
    how.n_prompt = 1;
    CHECK(sampler.sample(logits, how).id == 1);
    how.repetition_penalty = 4;  // 1, 0.75, 0.5, -1
    CHECK(sampler.sample(logits, how).id == 0);
    how.repetition_penalty = 1;
    how.frequency_penalty = 1.5f;  // 1, 1.5, 0.5, -1
    CHECK(sampler.sample(logits, how).id == 1);
    how.presence_penalty = 1;  // 1, 0.5, -0.5, -1
    CHECK(sampler.sample(logits, how).id == 0);
    const std::vector<int32_t> ids{3, 0};
    const std::vector<float> values{2.5f, -std::numeric_limits<float>::infinity()};
    how.bias_ids = ids;
    how.bias_values = values;
    CHECK(sampler.sample(logits, how).id == 3);
}

TEST(what_is_not_finite_is_marked) {
    Sampler sampler(choose_kernels("auto"));
    std::vector<float> logits(37, 1.0f);
    int32_t ids[3];
    float logprobs[3];
    for (const size_t at : {size_t{0}, size_t{9}, size_t{36}}) {
        for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
            logits[at] = bad;
            CHECK(sampler.sample(logits, plain()).id == -1);
            sampler.top_logprobs(logits, 3, ids, logprobs);
            CHECK(ids[0] == -1 && std::isnan(logprobs[2]));
            logits[at] = 1;
        }
    }
    sampler.top_logprobs(logits, 3, ids, logprobs);
    CHECK(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
}

}  // namespace

}  // namespace codellama::test
