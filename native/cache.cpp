#include "cache.h"

#include <sys/mman.h>

#include <new>

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

}  // namespace codellama
