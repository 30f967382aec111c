#include "cache.h"

#include <sys/mman.h>

#include <new>
#include <stdexcept>

namespace codellama {

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

Reservation::Reservation(size_t n_bytes, Pages pages) : n_bytes_(n_bytes) {
    data_ = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (pages == Pages::large) madvise(data_, n_bytes, MADV_HUGEPAGE);  // a wish
#else
    static_cast<void>(pages);
#endif
}

Reservation::~Reservation() { munmap(data_, n_bytes_); }

CacheFormat parse_cache_format(const std::string& name) {
    if (name == "F32") return CacheFormat::f32;
    if (name == "F16") return CacheFormat::f16;
    if (name == "Q8_0") return CacheFormat::q8_0;
    throw std::invalid_argument("keys and values cannot be kept as \"" + name +
                                "\", only as F32, F16 or Q8_0");
}

}  // namespace codellama
