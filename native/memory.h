// Memory straight from the system, for what is large and stays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace codellama {

// Zeroed memory that is reserved at once and backed, page by page, when it is first touched.
class Reservation {
  public:
    enum class Pages { small, large };  // large ones where the system has them

    explicit Reservation(size_t n_bytes, Pages pages = Pages::small);  // throws std::bad_alloc
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    void* data() const { return data_; }

  private:
    void* mapping_;
    size_t mapped_bytes_;
    void* data_;
};

// Large pages that many matrices share. A core's prefetchers stop at the end of a page, and a matrix
// with a mapping of its own begins and ends with small ones.
class Arena {
  public:
    // 64-byte aligned zeroed memory that lives as long as the arena. Throws std::bad_alloc.
    uint8_t* take(size_t n_bytes);

  private:
    std::vector<std::unique_ptr<Reservation>> chunks_;
    uint8_t* next_ = nullptr;
    size_t left_ = 0;
};

}  // namespace codellama
