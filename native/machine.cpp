#include "machine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>

namespace codellama {

namespace {

constexpr int kMaxThreads = 1024;
constexpr int64_t kLine = 64;
constexpr int64_t kHugePage = int64_t{1} << 21;
constexpr int64_t kRounds = 1 << 18;      // of one pass of `peak`
constexpr int64_t kPassBytes = 1 << 26;   // that one pass of `read_bandwidth` reads at least

// Chains of dependent sums: enough to fill two units whose results take up to six cycles.
constexpr int kChains = 12;

// Keeps a register's value, so that nothing that leads to it is optimised away. A macro like the next,
// since only the function it is used in may have such registers.
#if defined(__x86_64__)
#define CODELLAMA_KEEP(x) __asm__ volatile("" : "+v"(x))
#else
#define CODELLAMA_KEEP(x) __asm__ volatile("" : "+w"(x))
#endif

// One kind of arithmetic: operations of one round, and that many rounds of it.
struct Kind {
    const char* name;
    int64_t ops;
    void (*run)(int64_t n_rounds);
};

// `step` adds to c. Every chain is kept in every round, or the compiler would fold the rounds together,
// and is a variable of its own, or it would put them into memory.
#define CODELLAMA_ROUNDS(Vector, zero, step)                                                   \
    Vector c1 = zero, c2 = zero, c3 = zero, c4 = zero, c5 = zero, c6 = zero, c7 = zero,        \
           c8 = zero, c9 = zero, c10 = zero, c11 = zero, c12 = zero;                           \
    for (int64_t i = 0; i < n_rounds; ++i) {                                                   \
        CODELLAMA_STEP(Vector, c1, step) CODELLAMA_STEP(Vector, c2, step)                      \
        CODELLAMA_STEP(Vector, c3, step) CODELLAMA_STEP(Vector, c4, step)                      \
        CODELLAMA_STEP(Vector, c5, step) CODELLAMA_STEP(Vector, c6, step)                      \
        CODELLAMA_STEP(Vector, c7, step) CODELLAMA_STEP(Vector, c8, step)                      \
        CODELLAMA_STEP(Vector, c9, step) CODELLAMA_STEP(Vector, c10, step)                     \
        CODELLAMA_STEP(Vector, c11, step) CODELLAMA_STEP(Vector, c12, step)                    \
    }
#define CODELLAMA_STEP(Vector, chain, step) \
    {                                       \
        Vector& c = chain;                  \
        step;                               \
        CODELLAMA_KEEP(c);                  \
    }

#if defined(__x86_64__)

[[gnu::target("avx2,fma")]] void fp32_avx2(int64_t n_rounds) {
    __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    CODELLAMA_KEEP(a);
    CODELLAMA_KEEP(b);
    CODELLAMA_ROUNDS(__m256, _mm256_setzero_ps(), c = _mm256_fmadd_ps(a, b, c))
}

[[gnu::target("avx512f")]] void fp32_avx512(int64_t n_rounds) {
    __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    CODELLAMA_KEEP(a);
    CODELLAMA_KEEP(b);
    CODELLAMA_ROUNDS(__m512, _mm512_setzero_ps(), c = _mm512_fmadd_ps(a, b, c))
}

// Without an instruction for all of it: products of bytes summed in pairs, those in pairs again.
[[gnu::target("avx2")]] void int8_avx2(int64_t n_rounds) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    CODELLAMA_KEEP(a);
    CODELLAMA_KEEP(b);
    CODELLAMA_KEEP(ones);
    // The first product changes no more than its factors do: a is kept, or it would be done once.
    CODELLAMA_ROUNDS(__m256i, _mm256_setzero_si256(), CODELLAMA_KEEP(a);
                     c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones)))
}

[[gnu::target("avx512f,avx512vl,avx512vnni")]] void int8_vnni256(int64_t n_rounds) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
    CODELLAMA_KEEP(a);
    CODELLAMA_KEEP(b);
    CODELLAMA_ROUNDS(__m256i, _mm256_setzero_si256(), c = _mm256_dpbusd_epi32(c, a, b))
}

[[gnu::target("avx512f,avx512vnni")]] void int8_vnni512(int64_t n_rounds) {
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
    CODELLAMA_KEEP(a);
    CODELLAMA_KEEP(b);
    CODELLAMA_ROUNDS(__m512i, _mm512_setzero_si512(), c = _mm512_dpbusd_epi32(c, a, b))
}

std::vector<Kind> kinds() {
    std::vector<Kind> found;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back({"fp32_avx2", kChains * 8 * 2, fp32_avx2});
    }
    if (__builtin_cpu_supports("avx512f")) {
        found.push_back({"fp32_avx512", kChains * 16 * 2, fp32_avx512});
    }
    if (__builtin_cpu_supports("avx2")) {
        found.push_back({"int8_avx2", kChains * 32 * 2, int8_avx2});
    }
    if (__builtin_cpu_supports("avx512vnni")) {
        if (__builtin_cpu_supports("avx512vl")) {
            found.push_back({"int8_vnni256", kChains * 32 * 2, int8_vnni256});
        }
        found.push_back({"int8_vnni512", kChains * 64 * 2, int8_vnni512});
    }
    return found;
}

[[gnu::target("avx2")]] void read_avx2(const uint8_t* p, int64_t n) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 2 * kLine) {
        const auto* line = reinterpret_cast<const __m256i*>(p + i);
        const __m256i ab = _mm256_xor_si256(_mm256_load_si256(line), _mm256_load_si256(line + 1));
        const __m256i cd =
            _mm256_xor_si256(_mm256_load_si256(line + 2), _mm256_load_si256(line + 3));
        sum = _mm256_xor_si256(sum, _mm256_xor_si256(ab, cd));
    }
    CODELLAMA_KEEP(sum);
}

[[gnu::target("avx512f")]] void read_avx512(const uint8_t* p, int64_t n) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 2 * kLine) {
        const auto* line = reinterpret_cast<const __m512i*>(p + i);
        const __m512i ab = _mm512_xor_si512(_mm512_load_si512(line), _mm512_load_si512(line + 1));
        sum = _mm512_xor_si512(sum, ab);
    }
    CODELLAMA_KEEP(sum);
}

#elif defined(__aarch64__)

void fp32_neon(int64_t n_rounds) {
    float32x4_t a = vdupq_n_f32(0.5f), b = vdupq_n_f32(0.25f);
    CODELLAMA_KEEP(a);
    CODELLAMA_KEEP(b);
    CODELLAMA_ROUNDS(float32x4_t, vdupq_n_f32(0), c = vfmaq_f32(c, a, b))
}

std::vector<Kind> kinds() { return {{"fp32_neon", kChains * 4 * 2, fp32_neon}}; }

#else

std::vector<Kind> kinds() { return {}; }

#endif

void read_words(const uint8_t* p, int64_t n) {
    uint64_t sum[8] = {};
    for (int64_t i = 0; i < n; i += kLine) {
        const auto* line = reinterpret_cast<const uint64_t*>(p + i);
        for (int j = 0; j < 8; ++j) sum[j] ^= line[j];
    }
    volatile uint64_t kept = 0;
    for (const uint64_t word : sum) kept = kept ^ word;
}

using Read = void (*)(const uint8_t* p, int64_t n);

Read widest_read() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return read_avx512;
    if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
    return read_words;
}

// Seconds that each of n_passes takes: `body(thread)` on all threads at once, from the moment that
// all are ready to the moment that the last is done. One pass before them is not counted.
template <class Body>
std::vector<double> timed(int n_threads, int n_passes, const Body& body) {
    if (n_threads < 1 || n_threads > kMaxThreads || n_passes < 1) {
        throw std::invalid_argument("threads and passes must be positive, and threads at most " +
                                    std::to_string(kMaxThreads));
    }
    using Clock = std::chrono::steady_clock;
    std::vector<Clock::time_point> marks;
    marks.reserve(static_cast<size_t>(n_passes) + 2);
    // The last thread to arrive takes the time, while the others wait for it.
    std::barrier gate(n_threads, [&marks]() noexcept { marks.push_back(Clock::now()); });
    const auto work = [&](int thread) {
        gate.arrive_and_wait();
        for (int pass = 0; pass <= n_passes; ++pass) {
            body(thread);
            gate.arrive_and_wait();
        }
    };
    {
        std::vector<std::jthread> others;
        try {
            for (int i = 1; i < n_threads; ++i) others.emplace_back(work, i);
        } catch (...) {
            // Those that never started must not be waited for.
            for (int i = static_cast<int>(others.size()) + 1; i < n_threads; ++i) {
                gate.arrive_and_drop();
            }
            gate.arrive_and_drop();
            throw;
        }
        work(0);
    }
    std::vector<double> seconds;
    for (size_t i = 2; i < marks.size(); ++i) {
        seconds.push_back(std::chrono::duration<double>(marks[i] - marks[i - 1]).count());
    }
    return seconds;
}

}  // namespace

std::vector<double> read_bandwidth(int64_t n_bytes, int n_threads, int n_passes) {
    constexpr int64_t kGrain = 2 * kLine;  // what the widest loop reads at a time
    if (n_threads < 1 || n_bytes < n_threads * kGrain || n_bytes > (int64_t{1} << 40)) {
        throw std::invalid_argument("every thread needs " + std::to_string(kGrain) +
                                    " bytes to read, and a terabyte is the most");
    }
    const int64_t share = n_bytes / n_threads / kGrain * kGrain;
    const int64_t used = share * n_threads;
    const int64_t n_repeats = (kPassBytes + used - 1) / used;
    const int64_t reserved = (used + kHugePage - 1) / kHugePage * kHugePage;
    const std::unique_ptr<uint8_t, decltype(&std::free)> buffer(
        static_cast<uint8_t*>(std::aligned_alloc(kHugePage, static_cast<size_t>(reserved))),
        &std::free);
    if (buffer == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    madvise(buffer.get(), static_cast<size_t>(reserved), MADV_HUGEPAGE);  // a wish
#endif
    const Read read = widest_read();
    std::atomic<bool> is_filled{false};
    std::atomic<int> n_filled{0};
    const auto seconds = timed(n_threads, n_passes, [&](int thread) {
        uint8_t* part = buffer.get() + thread * share;
        if (!is_filled.load()) {
            // Each thread writes its own part first, which is also what places the memory near it.
            for (int64_t i = 0; i < share; ++i) part[i] = static_cast<uint8_t>(i * 131 + thread);
            if (++n_filled == n_threads) is_filled = true;
            return;
        }
        for (int64_t i = 0; i < n_repeats; ++i) read(part, share);
    });
    std::vector<double> rates;
    for (const double s : seconds) rates.push_back(static_cast<double>(used * n_repeats) / s);
    return rates;
}

std::vector<std::string> peak_kinds() {
    std::vector<std::string> names;
    for (const Kind& kind : kinds()) names.emplace_back(kind.name);
    return names;
}

std::vector<double> peak(const std::string& name, int n_threads, int n_passes) {
    for (const Kind& kind : kinds()) {
        if (name != kind.name) continue;
        std::vector<double> rates;
        for (const double s :
             timed(n_threads, n_passes, [&kind](int) { kind.run(kRounds); })) {
            rates.push_back(static_cast<double>(kind.ops * kRounds * n_threads) / s);
        }
        return rates;
    }
    throw std::invalid_argument("this CPU has no arithmetic \"" + name + "\"");
}

}  // namespace codellama
