// Block-quantised weights laid out for multiplication: panels of 16 rows, side by side.
//
// A panel holds its columns in groups of 32, one after the other, so that a product reads memory from
// front to back. Every format becomes one shape, and every bit of it is kept. A group:
//
//     d             16 halves     formats without parts; once per block of 256 for those with parts
//     low           16 halves     the same, where the format has one
//     scales        16 bytes      for each part of 16 or 32 columns; formats with parts only
//     lows          16 bytes      the same, where the format has one
//     codes         4 x 64 bytes  byte 4 r + c of vector i: row r, column 4 i + c in the low nibble,
//                                 column 16 + 4 i + c in the high one
//                   8 x 64 bytes  at 8 bits: byte 4 r + c of vector i is row r, column 4 i + c
//     fifth bits    64 bytes      bit i of byte 4 r + c: row r, column 4 i + c
//     upper bits    2 x 64 bytes  at 6 bits: bits 2 j of vector i: row r, column 16 i + 4 j + c
//
// so that 4 columns of 16 rows are one vector of 64 bytes, which is what the dot products of bytes
// work on. Rows behind the last are zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "blocks.h"
#include "format.h"
#include "memory.h"

namespace codellama {

constexpr int kPanelRows = 16;

// Where things lie in a panel; all in bytes.
struct PanelLayout {
    int64_t head;    // d and low
    int64_t group;   // scales, lows and codes of one group, without a head
    int n_groups;    // that share a head

    // Of `n_groups` groups in a row of the panel.
    int64_t bytes(int64_t groups) const { return groups / n_groups * head + groups * group; }
};

constexpr PanelLayout panel_layout(const BlockLayout& layout) {
    const int per_part = layout.has_parts ? kPanelRows * (layout.has_low ? 2 : 1) : 0;
    const int codes = layout.n_bits == 8 ? 512 : 256 + 64 * (layout.n_bits - 4);
    return {kPanelRows * 2 * (layout.has_low ? 2 : 1),
            static_cast<int64_t>(kBlock) / layout.part * per_part + codes,
            layout.n_numbers / static_cast<int>(kBlock)};
}

class PackedMatrix {
  public:
    // Room in `arena`, which must outlive this, for a matrix of a quantised format. Throws
    // std::bad_alloc.
    PackedMatrix(Format format, int64_t rows, int64_t cols, Arena& arena);

    // Lays out the panels [first, end) of a stored matrix of this shape.
    void pack(const Matrix& stored, int64_t first, int64_t end);

    Format format() const { return format_; }
    int64_t rows() const { return rows_; }
    int64_t n_groups() const { return n_groups_; }
    int64_t n_panels() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
    const uint8_t* panel(int64_t i) const { return data_ + i * panel_bytes_; }

  private:
    Format format_;
    int64_t rows_, n_groups_, panel_bytes_;
    uint8_t* data_;
};

}  // namespace codellama
