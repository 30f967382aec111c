#include "simd.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <stdexcept>

namespace codellama {

#if defined(__x86_64__)

namespace {

// The compiler's run-time library asks CPUID and, through XGETBV, whether the system saves the wide
// registers. The names must be literals.
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> tables{&generic_kernels};
    if (has_avx2()) tables.push_back(&avx2_kernels);
    if (has_avx512()) tables.push_back(&avx512_kernels);
    if (has_vnni()) tables.push_back(&avx512vnni_kernels);
    return tables;
}

std::vector<std::string> cpu_features() {
    std::vector<std::string> names;
#define CODELLAMA_FEATURE(name) \
    if (__builtin_cpu_supports(name)) names.emplace_back(name)
    CODELLAMA_FEATURE("avx2");
    CODELLAMA_FEATURE("fma");
    CODELLAMA_FEATURE("f16c");
    CODELLAMA_FEATURE("avx512f");
    CODELLAMA_FEATURE("avx512bw");
    CODELLAMA_FEATURE("avx512dq");
    CODELLAMA_FEATURE("avx512vl");
    CODELLAMA_FEATURE("avx512vnni");
    CODELLAMA_FEATURE("avx512bf16");
#undef CODELLAMA_FEATURE
    return names;
}

#elif defined(__aarch64__)

namespace {

bool has_dot_products() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return true;  // every Apple processor has them
#endif
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> tables{&generic_kernels};
    if (has_dot_products()) tables.push_back(&neon_kernels);
    return tables;
}

std::vector<std::string> cpu_features() {
    return has_dot_products() ? std::vector<std::string>{"neon", "dotprod"}
                              : std::vector<std::string>{"neon"};
}

#else

std::vector<const Kernels*> available_kernels() { return {&generic_kernels}; }

std::vector<std::string> cpu_features() { return {}; }

#endif

const Kernels& choose_kernels(const std::string& name) {
    const std::vector<const Kernels*> tables = available_kernels();
    if (name == "auto") return *tables.back();
    std::string names;
    for (const Kernels* table : tables) {
        if (name == table->name) return *table;
        names += (names.empty() ? "" : ", ") + std::string(table->name);
    }
    throw std::invalid_argument("there are no \"" + name + "\" kernels for this CPU, which runs: " +
                                names);
}

}  // namespace codellama
