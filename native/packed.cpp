#include "packed.h"

#include <algorithm>
#include <cstring>

namespace codellama {

namespace {

// Row r's 32 codes of one group into the group's 64-byte vectors, four columns at a time.
void place(const uint8_t* codes, int n_bits, int r, uint8_t* group) {
    uint32_t words[8];
    std::memcpy(words, codes, sizeof words);
    const auto put = [&](int vector, uint32_t word) {
        std::memcpy(group + 64 * vector + 4 * r, &word, sizeof word);
    };
    if (n_bits == 8) {
        for (int i = 0; i < 8; ++i) put(i, words[i]);
        return;
    }
    for (int i = 0; i < 4; ++i) {
        put(i, (words[i] & 0x0f0f0f0f) | (words[i + 4] & 0x0f0f0f0f) << 4);
    }
    if (n_bits == 5) {
        uint32_t fifth = 0;
        for (int i = 0; i < 8; ++i) fifth |= (words[i] >> 4 & 0x01010101) << i;
        put(4, fifth);
    }
    if (n_bits == 6) {
        uint32_t upper[2] = {0, 0};
        for (int i = 0; i < 8; ++i) upper[i / 4] |= (words[i] >> 4 & 0x03030303) << i % 4 * 2;
        put(4, upper[0]);
        put(5, upper[1]);
    }
}

}  // namespace

PackedMatrix::PackedMatrix(Format format, int64_t rows, int64_t cols, Arena& arena)
    : format_(format),
      rows_(rows),
      n_groups_(cols / kBlock),
      panel_bytes_(panel_layout(block_layout(format)).bytes(n_groups_)),
      data_(arena.take(static_cast<size_t>(n_panels() * panel_bytes_))) {}

void PackedMatrix::pack(const Matrix& stored, int64_t first, int64_t end) {
    const BlockLayout layout = block_layout(format_);
    const PanelLayout panel = panel_layout(layout);
    const int n_parts = static_cast<int>(kBlock) / layout.part;  // of a group
    const int64_t n_blocks = n_groups_ / panel.n_groups;
    const int64_t part_bytes = layout.has_low ? 2 * kPanelRows : kPanelRows;
    Block block;
    for (int64_t p = first; p < end; ++p) {
        uint8_t* base = data_ + p * panel_bytes_;
        std::memset(base, 0, static_cast<size_t>(panel_bytes_));
        const int64_t n_rows = std::min<int64_t>(kPanelRows, rows_ - p * kPanelRows);
        for (int r = 0; r < n_rows; ++r) {
            const uint8_t* row = stored.data + (p * kPanelRows + r) * stored.row_bytes;
            for (int64_t b = 0; b < n_blocks; ++b) {
                take_apart(format_, row + b * layout.n_bytes, block);
                uint8_t* head = base + b * panel.bytes(panel.n_groups);
                std::memcpy(head + 2 * r, &block.d, 2);
                if (layout.has_low) std::memcpy(head + 2 * kPanelRows + 2 * r, &block.low, 2);
                for (int g = 0; g < panel.n_groups; ++g) {
                    uint8_t* group = head + panel.head + g * panel.group;
                    for (int i = 0; layout.has_parts && i < n_parts; ++i) {
                        group[i * part_bytes + r] =
                            static_cast<uint8_t>(block.scales[g * n_parts + i]);
                        if (layout.has_low) {
                            group[i * part_bytes + kPanelRows + r] = block.lows[g * n_parts + i];
                        }
                    }
                    place(block.codes + kBlock * g, layout.n_bits, r,
                          group + (layout.has_parts ? n_parts * part_bytes : 0));
                }
            }
        }
    }
}

}  // namespace codellama
