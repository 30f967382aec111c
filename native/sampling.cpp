#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace codellama {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Tokens this much below the best, in units of the temperature, have a weight of exactly 0.
constexpr double kReach = 88;

// Tokens that much below the best are looked at only when the others do not decide.
constexpr double kLikely = 10;

bool all_finite(std::span<const float> x) {
    // 0 times infinity or NaN is NaN. Eight sums at a time, for the compiler to vectorise.
    float sums[8] = {};
    size_t i = 0;
    for (; i + 8 <= x.size(); i += 8) {
        for (size_t j = 0; j < 8; ++j) sums[j] += x[i + j] * 0.0f;
    }
    for (; i < x.size(); ++i) sums[0] += x[i] * 0.0f;
    return std::accumulate(sums, sums + 8, 0.0f) == 0.0f;
}

float largest(std::span<const float> x) {
    float tops[8];
    std::fill(tops, tops + 8, -kInfinity);
    size_t i = 0;
    for (; i + 8 <= x.size(); i += 8) {
        for (size_t j = 0; j < 8; ++j) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];
    }
    for (; i < x.size(); ++i) tops[0] = x[i] > tops[0] ? x[i] : tops[0];
    return *std::max_element(tops, tops + 8);
}

double sum(std::span<const float> x) {
    double sums[8] = {};
    size_t i = 0;
    for (; i + 8 <= x.size(); i += 8) {
        for (size_t j = 0; j < 8; ++j) sums[j] += static_cast<double>(x[i + j]);
    }
    for (; i < x.size(); ++i) sums[0] += static_cast<double>(x[i]);
    return std::accumulate(sums, sums + 8, 0.0);
}

// Tokens in sorted order, sorted only as far as they are asked for.
class Descending {
  public:
    struct Token {
        float logit, weight;
        int32_t id;
    };

    Descending(std::span<const float> logits, std::span<const float> weights, float max,
               float temperature)
        : logits_(logits), weights_(weights) {
        for (const double reach : {kReach, kLikely}) floors_.push_back(max - reach * temperature);
        ceiling_ = std::numeric_limits<double>::infinity();
    }

    // The i-th token, or null when there are fewer with a weight above 0.
    const Token* at(size_t i) {
        while (sorted_.size() <= i) {
            if (heap_.empty() && !refill()) return nullptr;
            if (heap_.empty()) continue;
            std::pop_heap(heap_.begin(), heap_.end(), later);
            sorted_.push_back(heap_.back());
            heap_.pop_back();
        }
        return &sorted_[i];
    }

  private:
    static bool later(const Token& a, const Token& b) {
        return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
    }

    // Most runs of tokens hold none that is likely, which is found out for all of a run together.
    static constexpr size_t kRun = 32;

    static bool any_above(const float* x, float floor) {
        int n = 0;
        for (size_t i = 0; i < kRun; ++i) n += x[i] > floor ? 1 : 0;
        return n > 0;
    }

    bool refill() {
        if (floors_.empty()) return false;
        const double floor = floors_.back();
        floors_.pop_back();
        const float below = std::nextafter(static_cast<float>(floor), -kInfinity);
        for (size_t begin = 0; begin < logits_.size(); begin += kRun) {
            const size_t end = std::min(begin + kRun, logits_.size());
            if (end - begin == kRun && !any_above(&logits_[begin], below)) continue;
            for (size_t i = begin; i < end; ++i) {
                if (logits_[i] >= floor && logits_[i] < ceiling_ && weights_[i] > 0) {
                    heap_.push_back({logits_[i], weights_[i], static_cast<int32_t>(i)});
                }
            }
        }
        ceiling_ = floor;
        std::make_heap(heap_.begin(), heap_.end(), later);
        return true;
    }

    std::span<const float> logits_, weights_;
    std::vector<double> floors_;  // of the groups still to come, the next one last
    double ceiling_;
    std::vector<Token> heap_, sorted_;
};

void change_logits(const Sampling& how, std::span<float> logits) {
    for (size_t i = 0; i < how.bias_ids.size(); ++i) {
        logits[static_cast<size_t>(how.bias_ids[i])] += how.bias_values[i];
    }
    std::unordered_map<int32_t, int> counts;  // in the output, of every token of the history
    for (size_t i = 0; i < how.history.size(); ++i) {
        counts[how.history[i]] += static_cast<int64_t>(i) >= how.n_prompt ? 1 : 0;
    }
    for (const auto& [id, count] : counts) {
        float& logit = logits[static_cast<size_t>(id)];
        logit = logit > 0 ? logit / how.repetition_penalty : logit * how.repetition_penalty;
        if (count > 0) {
            logit -= how.frequency_penalty * static_cast<float>(count) + how.presence_penalty;
        }
    }
}

uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

}  // namespace

double uniform(uint64_t seed, uint64_t counter) {
    constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
    const uint64_t state = mixed(seed + kStep);
    return static_cast<double>(mixed(state + (counter + 1) * kStep) >> 11) * 0x1p-53;
}

void check(const Sampling& how, int64_t row, int64_t vocab_size) {
    const auto demand = [row](bool fine, const char* name, auto value, const char* expected) {
        if (fine) return;
        throw std::invalid_argument("row " + std::to_string(row) + ": " + name + " is " +
                                    std::to_string(value) + ", expected " + expected);
    };
    const auto within = [](float x, float low, float high) { return x >= low && x <= high; };
    constexpr float kLargest = std::numeric_limits<float>::max();
    demand(within(how.temperature, 0, kLargest), "temperature", how.temperature, "0 or more");
    demand(how.top_k >= 0, "top_k", how.top_k, "0 or more");
    demand(within(how.top_p, 0, 1), "top_p", how.top_p, "0 to 1");
    demand(within(how.min_p, 0, 1), "min_p", how.min_p, "0 to 1");
    demand(how.repetition_penalty > 0 && how.repetition_penalty <= kLargest, "repetition_penalty",
           how.repetition_penalty, "more than 0");
    demand(std::isfinite(how.presence_penalty), "presence_penalty", how.presence_penalty,
           "a finite number");
    demand(std::isfinite(how.frequency_penalty), "frequency_penalty", how.frequency_penalty,
           "a finite number");
    demand(how.n_prompt >= 0 && how.n_prompt <= std::ssize(how.history), "n_prompt", how.n_prompt,
           "no more than the tokens in its history");
    for (const float bias : how.bias_values) {
        demand(bias < kInfinity, "a bias", bias, "a finite number or minus infinity");
    }
    for (const std::span<const int32_t> ids : {how.history, how.bias_ids}) {
        for (const int32_t id : ids) {
            demand(id >= 0 && id < vocab_size, "an id", id, "one inside the vocabulary");
        }
    }
}

Sampled Sampler::sample(std::span<const float> logits, const Sampling& how) {
    if (!all_finite(logits)) return {-1, kNan};
    const float raw_max = largest(logits);
    const double total = log_sum_exp(logits, raw_max);

    std::span<const float> current = logits;
    float max = raw_max;
    const bool penalises = how.repetition_penalty != 1 || how.presence_penalty != 0 ||
                           how.frequency_penalty != 0;
    if (penalises || !how.bias_ids.empty()) {
        changed_.assign(logits.begin(), logits.end());
        Sampling active = how;
        if (!penalises) active.history = {};
        change_logits(active, changed_);
        current = changed_;
        max = largest(current);
        if (!std::isfinite(max)) return {-1, kNan};
    }
    const int32_t id =
        how.temperature == 0
            ? static_cast<int32_t>(std::find(current.begin(), current.end(), max) - current.begin())
            : draw(current, max, how);
    return {id, static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - total)};
}

int32_t Sampler::draw(std::span<const float> logits, float max, const Sampling& how) {
    weights_.resize(logits.size());
    kernels_.exp_scaled(logits.data(), std::ssize(logits), max, how.temperature, weights_.data());
    Descending tokens(logits, weights_, max, how.temperature);

    const size_t top_k = how.top_k > 0 ? static_cast<size_t>(how.top_k) : logits.size();
    double whole = 0;
    if (top_k < logits.size()) {
        for (size_t i = 0; i < top_k && tokens.at(i); ++i) whole += double{tokens.at(i)->weight};
    } else {
        whole = sum(weights_);
    }
    size_t n_kept = top_k;
    double mass = whole;
    if (how.top_p < 1 || how.min_p > 0) {
        const double enough = how.top_p < 1 ? double{how.top_p} * whole : 2 * whole;
        mass = 0;
        for (n_kept = 0; n_kept < top_k; ++n_kept) {
            const auto* token = tokens.at(n_kept);
            if (token == nullptr) break;
            if (n_kept > 0 && (mass > enough || token->weight < how.min_p)) break;
            mass += double{token->weight};
        }
    }
    const double target = uniform(how.seed, how.counter) * mass;
    double reached = 0;
    int32_t id = -1;
    for (size_t i = 0; i < n_kept && reached <= target; ++i) {
        const auto* token = tokens.at(i);
        if (token == nullptr) break;  // rounding: the last token that has any weight
        reached += double{token->weight};
        id = token->id;
    }
    return id;
}

void Sampler::top_logprobs(std::span<const float> logits, int64_t k, int32_t* ids,
                           float* logprobs) {
    if (!all_finite(logits)) {
        std::fill(ids, ids + k, -1);
        std::fill(logprobs, logprobs + k, kNan);
        return;
    }
    const double total = log_sum_exp(logits, largest(logits));
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int32_t a, int32_t b) {
        const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
        return x != y ? x > y : a < b;
    });
    for (int64_t i = 0; i < k; ++i) {
        ids[i] = order[static_cast<size_t>(i)];
        logprobs[i] = static_cast<float>(double{logits[static_cast<size_t>(ids[i])]} - total);
    }
}

// The logarithm of the sum of e^logit; `max` is the largest.
double Sampler::log_sum_exp(std::span<const float> logits, float max) {
    weights_.resize(logits.size());
    kernels_.exp_scaled(logits.data(), std::ssize(logits), max, 1.0f, weights_.data());
    return double{max} + std::log(sum(weights_));
}

}  // namespace codellama
