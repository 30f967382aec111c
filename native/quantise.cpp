#define CODELLAMA_QUANTISE_BODY quantise_generic
#include "quantise_blocks.h"

#include <atomic>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

namespace codellama {

#ifdef CODELLAMA_QUANTISE_AVX2
namespace quantise_avx2 {
extern const Encoder kEncoders[8];
}
#endif

namespace {

constexpr int64_t kShare = 4096;  // numbers a thread takes at once

const Encoder (&encoders(const std::string& simd))[8] {
    if (simd != "auto" && simd != "generic") {
        throw std::invalid_argument(simd + " is no choice of instructions: auto or generic");
    }
#ifdef CODELLAMA_QUANTISE_AVX2
    if (simd == "auto" && __builtin_cpu_supports("avx2")) return quantise_avx2::kEncoders;
#endif
    return quantise_generic::kEncoders;
}

}  // namespace

const Encoder& find_encoder(const std::string& format, const std::string& simd) {
    std::string known;
    for (const Encoder& encoder : encoders(simd)) {
        if (format == encoder.name) return encoder;
        known += std::string(known.empty() ? "" : ", ") + encoder.name;
    }
    throw std::invalid_argument(format + " is no format of blocks that are written: those are " + known);
}

int64_t quantise(const Encoder& encoder, const float* x, int64_t n_blocks, uint8_t* out,
                 int n_threads) {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    const int64_t share = kShare / encoder.block_size;
    std::atomic<int64_t> next{0}, failed{kNone};
    const auto work = [&] {
        for (;;) {
            const int64_t start = next.fetch_add(share);
            if (start >= n_blocks) return;
            for (int64_t i = start; i < std::min(start + share, n_blocks); ++i) {
                if (encoder.encode(x + i * encoder.block_size, out + i * encoder.block_bytes)) continue;
                int64_t first = failed.load();
                while (i < first && !failed.compare_exchange_weak(first, i)) {
                }
                break;
            }
        }
    };
    {
        std::vector<std::jthread> others;
        const int64_t most = (n_blocks + share - 1) / share - 1;
        for (int64_t i = 0; i < std::min<int64_t>(n_threads - 1, most); ++i) others.emplace_back(work);
        work();
    }
    return failed == kNone ? -1 : failed.load();
}

}  // namespace codellama
