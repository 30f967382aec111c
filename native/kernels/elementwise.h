// Norm, rotation, activation and exponential, written over `Vec`.
#pragma once

#include "kernels/kernels.h"

namespace codellama {
namespace {

// e^x to about one unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, and the polynomial
// of Cephes' expf for e^r. 0 below -87, where e^x leaves the normal numbers, and e^88 above 88. NaN
// stays NaN.
inline Vec::F exp_of(Vec::F x) {
    const Vec::F capped = Vec::min(Vec::set1(88.0f), x);
    // Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits.
    const Vec::F magic = Vec::set1(12582912.0f);
    const Vec::F shifted = Vec::fma(capped, Vec::set1(1.44269504f), magic);
    const Vec::F n = Vec::sub(shifted, magic);
    Vec::F r = Vec::fma(n, Vec::set1(-0.693359375f), capped);
    r = Vec::fma(n, Vec::set1(2.12194440e-4f), r);
    Vec::F p = Vec::set1(1.9875691500e-4f);
    p = Vec::fma(p, r, Vec::set1(1.3981999507e-3f));
    p = Vec::fma(p, r, Vec::set1(8.3334519073e-3f));
    p = Vec::fma(p, r, Vec::set1(4.1665795894e-2f));
    p = Vec::fma(p, r, Vec::set1(1.6666665459e-1f));
    p = Vec::fma(p, r, Vec::set1(5.0000001201e-1f));
    p = Vec::fma(Vec::mul(r, r), p, Vec::add(r, Vec::set1(1.0f)));
    return Vec::zero_below(capped, -87.0f, Vec::mul(p, Vec::pow2_of_low_bits(shifted)));
}

inline float sum_of(Vec::F x) {
    float sums[4];
    Vec::sum4(x, Vec::zero(), Vec::zero(), Vec::zero(), sums);
    return sums[0];
}

// Applies f to n numbers, a vector at a time; the last few are padded with zeros.
template <class Function>
inline void map(const float* x, const float* y, int64_t n, float* out, Function f) {
    int64_t i = 0;
    for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
        Vec::store(out + i, f(Vec::load(x + i), Vec::load(y + i)));
    }
    if (i < n) {
        float a[Vec::kLanes] = {}, b[Vec::kLanes] = {};
        std::memcpy(a, x + i, (n - i) * sizeof(float));
        std::memcpy(b, y + i, (n - i) * sizeof(float));
        Vec::store(a, f(Vec::load(a), Vec::load(b)));
        std::memcpy(out + i, a, (n - i) * sizeof(float));
    }
}

void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    Vec::F squares = Vec::zero();
    int64_t i = 0;
    for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
        const Vec::F v = Vec::load(x + i);
        squares = Vec::fma(v, v, squares);
    }
    if (i < n) {
        float end[Vec::kLanes] = {};
        std::memcpy(end, x + i, (n - i) * sizeof(float));
        const Vec::F v = Vec::load(end);
        squares = Vec::fma(v, v, squares);
    }
    const float mean = sum_of(squares) / static_cast<float>(n);
    const Vec::F scale = Vec::set1(1.0f / __builtin_sqrtf(mean + eps));
    map(x, weight, n, out,
        [scale](Vec::F v, Vec::F w) { return Vec::mul(Vec::mul(v, scale), w); });
}

void rotate(float* head, const float* cos, const float* sin, int64_t n) {
    // Both halves are read before either is written, so each lane is its own.
    float* second = head + n;
    int64_t i = 0;
    for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
        const Vec::F a = Vec::load(head + i), b = Vec::load(second + i);
        const Vec::F c = Vec::load(cos + i), s = Vec::load(sin + i);
        Vec::store(head + i, Vec::sub(Vec::mul(a, c), Vec::mul(b, s)));
        Vec::store(second + i, Vec::add(Vec::mul(b, c), Vec::mul(a, s)));
    }
    for (; i < n; ++i) {
        const float a = head[i], b = second[i];
        head[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i] + a * sin[i];
    }
}

void silu_multiply(float* gate, const float* up, int64_t n) {
    map(gate, up, n, gate, [](Vec::F g, Vec::F u) {
        const Vec::F e = exp_of(Vec::sub(Vec::zero(), g));
        return Vec::mul(Vec::div(g, Vec::add(Vec::set1(1.0f), e)), u);
    });
}

void exp_scaled(const float* x, int64_t n, float shift, float temperature, float* out) {
    map(x, x, n, out, [shift, temperature](Vec::F v, Vec::F) {
        return exp_of(Vec::div(Vec::sub(v, Vec::set1(shift)), Vec::set1(temperature)));
    });
}

}  // namespace
}  // namespace codellama
