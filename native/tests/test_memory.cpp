#include "memory.h"

#include <cstdint>
#include <cstring>

#include "check.h"

namespace codellama {

TEST(an_arena_gives_aligned_zeroed_memory_that_does_not_overlap) {
    Arena arena;
    const size_t sizes[] = {1, 64, 100, size_t{3} << 20, size_t{20} << 20, 7, size_t{9} << 20};
    std::vector<std::pair<uint8_t*, size_t>> taken;
    for (const size_t size : sizes) {
        uint8_t* data = arena.take(size);
        CHECK(reinterpret_cast<uintptr_t>(data) % 64 == 0);
        for (size_t i = 0; i < size; i += 4096) CHECK(data[i] == 0);
        CHECK(data[size - 1] == 0);
        std::memset(data, static_cast<int>(taken.size()) + 1, size);
        taken.emplace_back(data, size);
    }
    for (size_t i = 0; i < taken.size(); ++i) {
        const auto [data, size] = taken[i];
        CHECK(data[0] == i + 1 && data[size - 1] == i + 1);
    }
}

TEST(large_pages_begin_where_a_large_page_does) {
    const Reservation memory(size_t{5} << 20, Reservation::Pages::large);
    auto* data = static_cast<uint8_t*>(memory.data());
    data[0] = data[(size_t{5} << 20) - 1] = 1;
#if defined(__linux__)
    CHECK(reinterpret_cast<uintptr_t>(data) % (size_t{2} << 20) == 0);
#endif
}

}  // namespace codellama
