// The encoders of blocks of 256, cut into G groups of E numbers, with one lane for each group: see
// quantise_blocks.h, which includes this.

namespace codellama {
namespace CODELLAMA_QUANTISE_BODY {

namespace {

template <int G>
struct Vectors {
    typedef float Floats __attribute__((vector_size(4 * G)));
    typedef int32_t Ints __attribute__((vector_size(4 * G)));
};
template <int G>
using Vec = typename Vectors<G>::Floats;
template <int G>
using Ints = typename Vectors<G>::Ints;

constexpr int kTries = 25;
constexpr int kTriesAroundZero = 17;
constexpr int kAgain = 2;

template <int G>
inline Vec<G> magnitude(const Vec<G>& x) {
    return (Vec<G>)((Ints<G>)x & 0x7fffffff);
}

template <int G>
inline Vec<G> over(const Vec<G>& a, const Vec<G>& b) {
    const Vec<G> quotient = a / b;
    return magnitude<G>(quotient) <= kLargest ? quotient : Vec<G>{};
}

template <int G>
inline Vec<G> one_over(const Vec<G>& b) {
    return over<G>(Vec<G>{} + 1.0f, b);
}

template <int G>
inline Vec<G> whole(const Vec<G>& x, float top) {
    const Vec<G> zero{}, most = zero + top;
    const Vec<G> above = x > zero ? x : zero;
    const Vec<G> cut = above < most ? above : most;
    return __builtin_convertvector(__builtin_convertvector(cut + 0.5f, Ints<G>), Vec<G>);
}

// The lanes' sum, one by one.
template <int G>
inline float total(const Vec<G>& x) {
    float sum = x[0];
    for (int g = 1; g < G; ++g) sum += x[g];
    return sum;
}

template <int G>
struct Block {
    static constexpr int E = 256 / G;

    explicit Block(const float* numbers) {
        for (int e = 0; e < E; ++e) {
            for (int g = 0; g < G; ++g) x[e][g] = numbers[g * E + e];
        }
    }

    Vec<G> x[E], w[E];
};

// A block as it may be stored, and the groups' weighted squared errors.
template <int G>
struct Stored {
    Vec<G> q[256 / G];
    Vec<G> s, m, errors;
    uint16_t d, dmin;
};

// q goes from -zero to top - zero, s from least to most, m from 0 to most_m.
struct Range {
    float zero, top, least, most, most_m;
};

template <int G>
inline void round_block(const Block<G>& block, const Range& of, Stored<G>& to) {
    const Vec<G> scale = from_half(to.d) * to.s, low = from_half(to.dmin) * to.m;
    const Vec<G> inverse = one_over<G>(scale);
    Vec<G> errors{};
    for (int e = 0; e < Block<G>::E; ++e) {
        const Vec<G> x = block.x[e];
        to.q[e] = whole<G>((x + low) * inverse + of.zero, of.top) - of.zero;
        const Vec<G> off = x - (scale * to.q[e] - low);
        errors = e == 0 ? block.w[e] * off * off : errors + block.w[e] * off * off;
    }
    to.errors = errors;
}

// Fits d and dmin to the whole block, and keeps them where its error falls.
template <int G>
inline void fit_block(const Block<G>& block, const Range& of, Stored<G>& best) {
    for (int again = 0; again < kAgain; ++again) {
        Vec<G> lanes[5];
        for (int e = 0; e < Block<G>::E; ++e) {
            const Vec<G> x = block.x[e], w = block.w[e];
            const Vec<G> sq = best.s * best.q[e], wsq = w * sq, wm = w * best.m;
            const Vec<G> terms[5] = {wsq * sq, wsq * best.m, wm * best.m, wsq * x, wm * x};
            for (int i = 0; i < 5; ++i) lanes[i] = e == 0 ? terms[i] : lanes[i] + terms[i];
        }
        const float aa = total<G>(lanes[0]), ab = total<G>(lanes[1]), bb = total<G>(lanes[2]);
        const float ax = total<G>(lanes[3]), bx = total<G>(lanes[4]);
        const float det = aa * bb - ab * ab, inverse = inverse_of(det);
        float d = (ax * bb - ab * bx) * inverse, dmin = (ax * ab - aa * bx) * inverse;
        if (!(det > 0.0f) || dmin < 0.0f) {
            d = ax * inverse_of(aa);
            dmin = 0.0f;
        }
        Stored<G> trial;
        trial.s = best.s;
        trial.m = best.m;
        trial.d = half_bits(d);
        trial.dmin = half_bits(dmin);
        round_block<G>(block, of, trial);
        if (total<G>(trial.errors) < total<G>(best.errors)) best = trial;
    }
}

// Moves each group's s and m by one where its error falls.
template <int G>
inline void move_scales(const Block<G>& block, const Range& of, Stored<G>& best) {
    const Vec<G> s = best.s, m = best.m, zero{};
    const Vec<G> least = zero + of.least, most = zero + of.most, most_m = zero + of.most_m;
    Stored<G> trial = best;
    for (int up = -1; up <= 1; ++up) {
        trial.s = s + static_cast<float>(up);
        trial.s = trial.s > least ? trial.s : least;
        trial.s = trial.s < most ? trial.s : most;
        const int by = of.most_m > 0.0f ? 1 : 0;
        for (int up_m = -by; up_m <= by; ++up_m) {
            trial.m = m + static_cast<float>(up_m);
            trial.m = trial.m > zero ? trial.m : zero;
            trial.m = trial.m < most_m ? trial.m : most_m;
            round_block<G>(block, of, trial);
            const auto worth = trial.errors < best.errors;
            for (int e = 0; e < Block<G>::E; ++e) best.q[e] = worth ? trial.q[e] : best.q[e];
            best.s = worth ? trial.s : best.s;
            best.m = worth ? trial.m : best.m;
            best.errors = worth ? trial.errors : best.errors;
        }
    }
}

template <int G>
inline void improve(const Block<G>& block, const Range& of, Stored<G>& stored) {
    round_block<G>(block, of, stored);
    fit_block<G>(block, of, stored);
    move_scales<G>(block, of, stored);
    fit_block<G>(block, of, stored);
}

// The step that covers x in `top` steps, and x in whole steps.
template <int G>
inline float divided(const Vec<G>& x, float top, Vec<G>& steps) {
    float peak = x[0];
    for (int g = 1; g < G; ++g) peak = std::max(peak, x[g]);
    const float d = peak / top;
    steps = whole<G>(x * inverse_of(d), top);
    return d;
}

bool is_too_large(const float* x, float reach) {
    float peak = 0.0f;
    for (int i = 0; i < 256; ++i) peak = std::max(peak, std::fabs(x[i]));
    return !is_finite_half(half_bits(peak / reach));
}

using Vec8 = Vec<8>;
using Vec16 = Vec<16>;

struct Fit {
    Vec8 scale, low, gain;
};

template <class Q>
inline void try_fit(const Block<8>& block, const Vec8& sum_w, const Vec8& sum_x, Fit& best, Q&& q_of) {
    Vec8 sum_q{}, sum_qq{}, sum_qx{};
    for (int e = 0; e < 32; ++e) {
        const Vec8 q = q_of(block.x[e]), wq = block.w[e] * q;
        sum_q = e == 0 ? wq : sum_q + wq;
        sum_qq = e == 0 ? wq * q : sum_qq + wq * q;
        sum_qx = e == 0 ? wq * block.x[e] : sum_qx + wq * block.x[e];
    }
    const Vec8 zero{};
    const Vec8 det = sum_w * sum_qq - sum_q * sum_q, inverse = one_over<8>(det);
    const Vec8 free_low = (sum_qq * sum_x - sum_q * sum_qx) * inverse;
    const auto is_flat = ~(det > zero) | (free_low > zero);
    const Vec8 scale = is_flat ? sum_qx * one_over<8>(sum_qq)
                               : (sum_w * sum_qx - sum_x * sum_q) * inverse;
    const Vec8 low = is_flat ? zero : free_low;
    const Vec8 gain = scale * sum_qx + low * sum_x;
    const auto worth = (scale > zero) & (gain > best.gain);
    best.scale = worth ? scale : best.scale;
    best.low = worth ? low : best.low;
    best.gain = worth ? gain : best.gain;
}

// Q4_K and Q5_K.
bool with_minima(const float* numbers, float top, Stored<8>& stored) {
    if (!all_finite(numbers, 256) || is_too_large(numbers, 64.0f * top)) return false;
    Block<8> block(numbers);
    const Vec8 zero{};
    Vec8 squares = block.x[0] * block.x[0], low = block.x[0], high = block.x[0];
    for (int e = 1; e < 32; ++e) {
        squares += block.x[e] * block.x[e];
        low = block.x[e] < low ? block.x[e] : low;
        high = block.x[e] > high ? block.x[e] : high;
    }
    low = (low < zero ? low : zero) + zero;
    Vec8 mean = squares / 32.0f;
    for (int g = 0; g < 8; ++g) mean[g] = std::sqrt(mean[g]);
    Vec8 sum_w{}, sum_x{};
    for (int e = 0; e < 32; ++e) {
        block.w[e] = magnitude<8>(block.x[e]) + mean;
        sum_w = e == 0 ? block.w[e] : sum_w + block.w[e];
        sum_x = e == 0 ? block.w[e] * block.x[e] : sum_x + block.w[e] * block.x[e];
    }
    const Vec8 span = high - low + zero;
    Fit best{span / top, low, zero - INFINITY};
    for (int i = 0; i < kTries; ++i) {
        const Vec8 steps = zero + (top - 4.0f + static_cast<float>(i) / 4.0f);
        const Vec8 inverse = over<8>(steps, span);
        try_fit(block, sum_w, sum_x, best,
                [&](const Vec8& x) { return whole<8>((x - low) * inverse, top); });
    }
    for (int again = 0; again < kAgain; ++again) {
        const Vec8 inverse = one_over<8>(best.scale), from = best.low;
        try_fit(block, sum_w, sum_x, best,
                [&](const Vec8& x) { return whole<8>((x - from) * inverse, top); });
    }
    stored.d = half_bits(divided<8>(best.scale, 63.0f, stored.s));
    stored.dmin = half_bits(divided<8>(zero - best.low, 63.0f, stored.m));
    if (!is_finite_half(stored.d) || !is_finite_half(stored.dmin)) return false;
    improve<8>(block, {0.0f, top, 0.0f, 63.0f, 63.0f}, stored);
    return true;
}

void put_scales(const Stored<8>& stored, uint8_t* out) {
    put(out, stored.d);
    put(out + 2, stored.dmin);
    const Vec8 &s = stored.s, &m = stored.m;
    for (int g = 0; g < 4; ++g) {
        const int s0 = static_cast<int>(s[g]), s1 = static_cast<int>(s[g + 4]);
        const int m0 = static_cast<int>(m[g]), m1 = static_cast<int>(m[g + 4]);
        out[4 + g] = static_cast<uint8_t>(s0 | ((s1 >> 4) << 6));
        out[8 + g] = static_cast<uint8_t>(m0 | ((m1 >> 4) << 6));
        out[12 + g] = static_cast<uint8_t>((s1 & 15) | ((m1 & 15) << 4));
    }
}

void put_groups(const Stored<8>& stored, uint8_t* out) {
    for (int g = 0; g < 4; ++g) {
        for (int j = 0; j < 32; ++j) {
            const int low = static_cast<int>(stored.q[j][2 * g]);
            const int high = static_cast<int>(stored.q[j][2 * g + 1]);
            out[32 * g + j] = static_cast<uint8_t>((low & 15) | ((high & 15) << 4));
        }
    }
}

bool encode_q4_k(const float* x, uint8_t* out) {
    Stored<8> stored;
    if (!with_minima(x, 15.0f, stored)) return false;
    put_scales(stored, out);
    put_groups(stored, out + 16);
    return true;
}

bool encode_q5_k(const float* x, uint8_t* out) {
    Stored<8> stored;
    if (!with_minima(x, 31.0f, stored)) return false;
    put_scales(stored, out);
    for (int j = 0; j < 32; ++j) {
        int bits = 0;
        for (int g = 0; g < 8; ++g) bits |= (static_cast<int>(stored.q[j][g]) >> 4) << g;
        out[16 + j] = static_cast<uint8_t>(bits);
    }
    put_groups(stored, out + 48);
    return true;
}

// The best scale of each of 8 groups of 16 numbers.
inline Vec8 search_around_zero(const Vec8 (&x)[16]) {
    const Vec8 nothing{};
    Vec8 largest = x[0];
    for (int e = 1; e < 16; ++e) {
        largest = magnitude<8>(x[e]) > magnitude<8>(largest) ? x[e] : largest;
    }
    Vec8 scale = largest / -32.0f, gain = nothing - INFINITY;
    for (int i = 0; i < kTriesAroundZero + kAgain; ++i) {
        const Vec8 steps = nothing + (-31.0f - static_cast<float>(i) / 8.0f);
        const Vec8 inverse = i < kTriesAroundZero ? over<8>(steps, largest) : one_over<8>(scale);
        Vec8 sum_qx{}, sum_qq{};
        for (int e = 0; e < 16; ++e) {
            const Vec8 q = whole<8>(x[e] * inverse + 32.0f, 63.0f) - 32.0f;
            const Vec8 wq = x[e] * x[e] * q;
            sum_qx = e == 0 ? wq * x[e] : sum_qx + wq * x[e];
            sum_qq = e == 0 ? wq * q : sum_qq + wq * q;
        }
        const Vec8 fitted = sum_qx * one_over<8>(sum_qq), explained = fitted * sum_qx;
        const auto worth = explained > gain;
        scale = worth ? fitted : scale;
        gain = worth ? explained : gain;
    }
    return scale;
}

bool encode_q6_k(const float* x, uint8_t* out) {
    if (!all_finite(x, 256) || is_too_large(x, 4096.0f)) return false;
    Block<16> block(x);
    Vec16 scale{};
    const Vec16 nothing{};
    for (int e = 0; e < 16; ++e) block.w[e] = block.x[e] * block.x[e];
    for (int h = 0; h < 2; ++h) {
        Vec8 half[16];
        for (int e = 0; e < 16; ++e) {
            for (int g = 0; g < 8; ++g) half[e][g] = x[128 * h + 16 * g + e];
        }
        const Vec8 found = search_around_zero(half);
        for (int g = 0; g < 8; ++g) scale[8 * h + g] = found[g];
    }
    float furthest = scale[0];
    for (int g = 1; g < 16; ++g) {
        if (std::fabs(scale[g]) > std::fabs(furthest)) furthest = scale[g];
    }
    const float d = furthest / -128.0f;
    Stored<16> stored;
    stored.s = whole<16>(scale * inverse_of(d) + 128.0f, 255.0f) - 128.0f;
    stored.m = nothing;
    stored.d = half_bits(d);
    stored.dmin = 0;
    if (!is_finite_half(stored.d)) return false;
    improve<16>(block, {32.0f, 63.0f, -128.0f, 127.0f, 0.0f}, stored);

    uint8_t q[256];
    for (int g = 0; g < 16; ++g) {
        for (int e = 0; e < 16; ++e) {
            q[16 * g + e] = static_cast<uint8_t>(static_cast<int>(stored.q[e][g]) + 32);
        }
        out[192 + g] = static_cast<uint8_t>(static_cast<int8_t>(static_cast<int>(stored.s[g])));
    }
    for (int h = 0; h < 2; ++h) {
        const uint8_t* of = q + 128 * h;
        for (int j = 0; j < 64; ++j) {
            out[64 * h + j] = static_cast<uint8_t>((of[j] & 15) | ((of[64 + j] & 15) << 4));
        }
        for (int j = 0; j < 32; ++j) {
            int bits = 0;
            for (int k = 0; k < 4; ++k) bits |= (of[32 * k + j] >> 4) << (2 * k);
            out[128 + 32 * h + j] = static_cast<uint8_t>(bits);
        }
    }
    put(out + 208, stored.d);
    return true;
}

}  // namespace

}  // namespace CODELLAMA_QUANTISE_BODY
}  // namespace codellama
