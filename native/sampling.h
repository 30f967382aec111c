// From logits to tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace codellama {

// How one row is to be sampled, and what its sequence looks like so far.
struct Sampling {
    float temperature;         // 0: the largest logit, and of equal ones the lowest id
    int32_t top_k;             // 0: off
    float top_p;               // 1: off
    float min_p;               // 0: off
    float repetition_penalty;  // 1: off; over prompt and output
    float presence_penalty;    // 0: off; over output only
    float frequency_penalty;   // 0: off; over output only
    uint64_t seed;
    uint64_t counter;                  // tokens generated so far
    std::span<const int32_t> history;  // prompt, then output
    int64_t n_prompt;                  // how many of them are prompt
    std::span<const int32_t> bias_ids;
    std::span<const float> bias_values;  // finite, or minus infinity for "never"
};

struct Sampled {
    int32_t id;     // -1 when the logits are not all finite, or when every token is ruled out
    float logprob;  // log-softmax of the logits as they came; NaN when id is -1
};

// Throws std::invalid_argument, naming the row, when a parameter is out of range or an id is
// outside the vocabulary.
void check(const Sampling& how, int64_t row, int64_t vocab_size);

// A number in [0, 1) with 53 random bits: SplitMix64 (Steele, Lea and Flood, 2014) started from the
// seed's own hash and advanced counter + 1 times.
double uniform(uint64_t seed, uint64_t counter);

// Draws tokens from rows of logits, all of one length.
class Sampler {
  public:
    explicit Sampler(const Kernels& kernels) : kernels_(kernels) {}

    // Draws one token.
    //
    // The logits are changed in this order: bias added; repetition penalty (a logit above 0 is
    // divided by it, one below multiplied); frequency penalty times the number of occurrences and
    // presence penalty subtracted. They are divided by the temperature and the tokens sorted by
    // them, the lower id first among equals. Kept are the first top_k; of those each token before
    // which at most top_p of their softmax mass lies; of those each with at least min_p times the
    // first one's probability. The first token is always kept. The token drawn is the first at
    // which the kept tokens' cumulative mass exceeds u times the whole of it, with
    // u = uniform(seed, counter).
    Sampled sample(std::span<const float> logits, const Sampling& how);

    // The k largest logits' ids, the lower id first among equals, and their log-softmax. All -1 and
    // NaN when the logits are not all finite. k is at most the number of logits.
    void top_logprobs(std::span<const float> logits, int64_t k, int32_t* ids, float* logprobs);

  private:
    double log_sum_exp(std::span<const float> logits, float max);
    int32_t draw(std::span<const float> logits, float max, const Sampling& how);

    const Kernels& kernels_;
    std::vector<float> changed_, weights_;
};

}  // namespace codellama
