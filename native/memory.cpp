#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

namespace codellama {

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

namespace {

constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kFirstChunk = size_t{8} << 20;  // each further one is twice as large,
constexpr size_t kLastChunk = size_t{512} << 20;  // up to this
constexpr size_t kLine = 64;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

Reservation::Reservation(size_t n_bytes, Pages pages)
    : mapped_bytes_(pages == Pages::large ? n_bytes + kLargePage : n_bytes) {
    mapping_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    data_ = mapping_;
#ifdef MADV_HUGEPAGE
    if (pages == Pages::large) {
        size_t room = mapped_bytes_;
        std::align(kLargePage, n_bytes, data_, room);
        madvise(data_, round_up(n_bytes, kLargePage), MADV_HUGEPAGE);  // a wish
    }
#endif
}

Reservation::~Reservation() { munmap(mapping_, mapped_bytes_); }

uint8_t* Arena::take(size_t n_bytes) {
    n_bytes = round_up(n_bytes, kLine);
    if (n_bytes > left_) {
        const size_t usual = std::min(kFirstChunk << std::min<size_t>(chunks_.size(), 6), kLastChunk);
        const size_t chunk = std::max(usual, round_up(n_bytes, kLargePage));
        chunks_.push_back(std::make_unique<Reservation>(chunk, Reservation::Pages::large));
        next_ = static_cast<uint8_t*>(chunks_.back()->data());
        left_ = chunk;
    }
    left_ -= n_bytes;
    return std::exchange(next_, next_ + n_bytes);
}

}  // namespace codellama
