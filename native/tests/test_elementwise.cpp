// Norm, rotation, activation and exponential against the standard library in double.

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "simd.h"

namespace codellama::test {

namespace {

constexpr int64_t kLengths[] = {1, 4, 15, 31, 33, 64, 193};

bool near(double got, double want, double relative) {
    return std::abs(got - want) <= relative * std::abs(want) + 1e-37;
}

TEST(exp_is_exact_to_a_few_units) {
    std::vector<float> x, out;
    for (float v = -87.0f; v < 88.0f; v += 0.0037f) x.push_back(v);
    out.resize(x.size());
    for (const Kernels* kernels : available_kernels()) {
        kernels->exp_scaled(x.data(), std::ssize(x), 0.0f, 1.0f, out.data());
        for (size_t i = 0; i < x.size(); ++i) CHECK(near(out[i], std::exp(double{x[i]}), 3e-7));
        const float inf = std::numeric_limits<float>::infinity();
        const float odd[] = {0.0f, -88.0f, -1e30f, -inf, std::nanf("")};
        float got[5];
        kernels->exp_scaled(odd, 5, 0.0f, 1.0f, got);
        CHECK(got[0] == 1 && got[1] == 0 && got[2] == 0 && got[3] == 0 && std::isnan(got[4]));
    }
}

TEST(silu_is_its_formula) {
    std::mt19937 random(3);
    for (const Kernels* kernels : available_kernels()) {
        for (const int64_t n : kLengths) {
            std::vector<float> gate = normal(random, static_cast<size_t>(n));
            const std::vector<float> up = normal(random, static_cast<size_t>(n));
            gate[0] = -200;  // the exponential overflows, the result is nearly 0
            const std::vector<float> before = gate;
            kernels->silu_multiply(gate.data(), up.data(), n);
            for (size_t i = 0; i < gate.size(); ++i) {
                const double g = before[i];
                CHECK(near(gate[i], g / (1 + std::exp(-g)) * up[i], 1e-6) || std::abs(g) > 80);
                CHECK(std::isfinite(gate[i]));
            }
        }
    }
}

TEST(norm_divides_by_the_root_mean_square) {
    std::mt19937 random(4);
    for (const Kernels* kernels : available_kernels()) {
        for (const int64_t n : kLengths) {
            const std::vector<float> x = normal(random, static_cast<size_t>(n));
            const std::vector<float> weight = normal(random, static_cast<size_t>(n));
            std::vector<float> out(x.size());
            kernels->rms_norm(x.data(), weight.data(), n, 1e-5f, out.data());
            double squares = 0;
            for (const float v : x) squares += double{v} * v;
            const double root = std::sqrt(squares / static_cast<double>(n) + 1e-5);
            for (size_t i = 0; i < x.size(); ++i) CHECK(near(out[i], x[i] / root * weight[i], 1e-6));
        }
    }
}

TEST(rotation_turns_pairs_of_halves) {
    std::mt19937 random(5);
    for (const Kernels* kernels : available_kernels()) {
        for (const int64_t n : kLengths) {
            std::vector<float> head = normal(random, static_cast<size_t>(2 * n));
            const std::vector<float> before = head;
            const std::vector<float> c = normal(random, static_cast<size_t>(n));
            const std::vector<float> s = normal(random, static_cast<size_t>(n));
            kernels->rotate(head.data(), c.data(), s.data(), n);
            for (size_t i = 0; i < c.size(); ++i) {
                const double a = before[i], b = before[i + c.size()];
                CHECK(std::abs(head[i] - (a * c[i] - b * s[i])) < 1e-5);
                CHECK(std::abs(head[i + c.size()] - (b * c[i] + a * s[i])) < 1e-5);
            }
        }
    }
}

}  // namespace

}  // namespace codellama::test
