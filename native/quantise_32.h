// The encoders of blocks of 32, and F16 numbers: see quantise_blocks.h, which includes this.

namespace codellama {
namespace CODELLAMA_QUANTISE_BODY {

namespace {

constexpr float kLargest = 3.40282347e38f;

uint16_t half_bits(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // infinity; NaN too
    if (magnitude < 0x38800000) {  // adding 1/2 leaves units of 2^-24, the step of small halves
        const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

float from_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude < 0x400) {
        const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
        return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
    }
    const uint32_t top = magnitude >= 0x7c00 ? 0x70000000 : 0x38000000;
    return std::bit_cast<float>(sign | ((magnitude << 13) + top));
}

bool is_finite_half(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

void put(uint8_t* out, uint16_t half) { std::memcpy(out, &half, 2); }

// 1 / d, but 0 where there is nothing to divide by.
float inverse_of(float d) {
    const float inverse = 1.0f / d;
    return std::fabs(inverse) <= kLargest ? inverse : 0.0f;
}

bool all_finite(const float* x, int n) {
    bool finite = true;
    for (int i = 0; i < n; ++i) finite &= std::fabs(x[i]) <= kLargest;
    return finite;
}

void put_nibbles(const uint8_t* q, uint8_t* out) {
    for (int j = 0; j < 16; ++j) {
        out[j] = static_cast<uint8_t>((q[j] & 15) | ((q[j + 16] & 15) << 4));
    }
}

void put_fifth_bits(const uint8_t* q, uint8_t* out) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(q[i] >> 4) << i;
    std::memcpy(out, &bits, 4);
}

bool encode_q8_0(const float* x, uint8_t* out) {
    if (!all_finite(x, 32)) return false;
    float peak = 0.0f;
    for (int i = 0; i < 32; ++i) peak = std::max(peak, std::fabs(x[i]));
    const float d = peak / 127.0f, inverse = inverse_of(d);
    const uint16_t half = half_bits(d);
    put(out, half);
    for (int i = 0; i < 32; ++i) {
        const float ratio = x[i] * inverse;
        const int whole = static_cast<int>(ratio);
        const int more = static_cast<int>(2.0f * (ratio - static_cast<float>(whole)));
        out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(whole + more));
    }
    return is_finite_half(half);
}

// Q4_0 and Q5_0: q from 0 to 2 * half - 1, the number furthest from zero becoming 0.
bool around_zero(const float* x, int half, uint16_t& d_bits, uint8_t* q) {
    if (!all_finite(x, 32)) return false;
    float largest = x[0];
    for (int i = 1; i < 32; ++i) {
        if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
    }
    const float d = largest / static_cast<float>(-half), inverse = inverse_of(d);
    const float middle = static_cast<float>(half) + 0.5f, top = static_cast<float>(2 * half - 1);
    d_bits = half_bits(d);
    for (int i = 0; i < 32; ++i) {
        const int whole = static_cast<int>(x[i] * inverse + middle);
        q[i] = static_cast<uint8_t>(std::clamp(whole, 0, static_cast<int>(top)));
    }
    return is_finite_half(d_bits);
}

// Q4_1 and Q5_1: q from 0 to steps, above the smallest number.
bool above_minimum(const float* x, int steps, uint16_t& d_bits, uint16_t& m_bits, uint8_t* q) {
    if (!all_finite(x, 32)) return false;
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; ++i) {
        low = std::min(low, x[i]);
        high = std::max(high, x[i]);
    }
    low += 0.0f;
    const float d = (high - low + 0.0f) / static_cast<float>(steps);
    d_bits = half_bits(d);
    m_bits = half_bits(low);
    if (!is_finite_half(d_bits) || !is_finite_half(m_bits)) return false;
    const float inverse = inverse_of(d);
    for (int i = 0; i < 32; ++i) {
        const int whole = static_cast<int>((x[i] - low) * inverse + 0.5f);
        q[i] = static_cast<uint8_t>(std::clamp(whole, 0, steps));
    }
    return true;
}

bool encode_q4_0(const float* x, uint8_t* out) {
    uint16_t d = 0;
    uint8_t q[32];
    if (!around_zero(x, 8, d, q)) return false;
    put(out, d);
    put_nibbles(q, out + 2);
    return true;
}

bool encode_q5_0(const float* x, uint8_t* out) {
    uint16_t d = 0;
    uint8_t q[32];
    if (!around_zero(x, 16, d, q)) return false;
    put(out, d);
    put_fifth_bits(q, out + 2);
    put_nibbles(q, out + 6);
    return true;
}

bool encode_q4_1(const float* x, uint8_t* out) {
    uint16_t d = 0, m = 0;
    uint8_t q[32];
    if (!above_minimum(x, 15, d, m, q)) return false;
    put(out, d);
    put(out + 2, m);
    put_nibbles(q, out + 4);
    return true;
}

bool encode_q5_1(const float* x, uint8_t* out) {
    uint16_t d = 0, m = 0;
    uint8_t q[32];
    if (!above_minimum(x, 31, d, m, q)) return false;
    put(out, d);
    put(out + 2, m);
    put_fifth_bits(q, out + 4);
    put_nibbles(q, out + 8);
    return true;
}

}  // namespace

}  // namespace CODELLAMA_QUANTISE_BODY
}  // namespace codellama
