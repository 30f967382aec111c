// The encoders stay inside their arrays and refuse what they cannot store; what they compute is held
// against NumPy's in tests/native/test_native_quantise.py.

#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "quantise.h"

namespace {

using codellama::Encoder;
using codellama::find_encoder;
using codellama::quantise;

constexpr const char* kFormats[] = {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"};

}  // namespace

TEST(blocks_are_encoded_in_exact_room_by_any_number_of_threads) {
    std::mt19937 random(1);
    for (const char* format : kFormats) {
        const Encoder& encoder = find_encoder(format);
        for (const int64_t n_blocks : {0, 1, 3, 500}) {
            const auto x = codellama::test::normal(random, n_blocks * encoder.block_size);
            std::vector<uint8_t> alone(n_blocks * encoder.block_bytes), shared(alone.size());
            std::vector<uint8_t> generic(alone.size());
            CHECK(quantise(encoder, x.data(), n_blocks, alone.data(), 1) == -1);
            CHECK(quantise(encoder, x.data(), n_blocks, shared.data(), 4) == -1);
            CHECK(alone == shared);
            const Encoder& plain = find_encoder(format, "generic");
            CHECK(quantise(plain, x.data(), n_blocks, generic.data(), 2) == -1);
            CHECK(alone == generic);
        }
    }
}

TEST(hostile_numbers_are_refused_or_stored) {
    const float values[] = {0.0f, -0.0f, 1e-45f, 1e-38f, 65504.0f, 1e10f, 3e38f, -3e38f,
                            std::numeric_limits<float>::infinity(), std::nanf("")};
    for (const char* format : kFormats) {
        const Encoder& encoder = find_encoder(format);
        for (const float a : values) {
            for (const float b : values) {
                std::vector<float> x(encoder.block_size, a);
                for (size_t i = 0; i < x.size(); i += 3) x[i] = b;
                std::vector<uint8_t> out(encoder.block_bytes);
                const bool finite = std::isfinite(a) && std::isfinite(b);
                const bool stored = quantise(encoder, x.data(), 1, out.data(), 2) == -1;
                CHECK(finite || !stored);
                CHECK(stored || std::fabs(a) > 1e9f || std::fabs(b) > 1e9f || !finite);
            }
        }
    }
}
