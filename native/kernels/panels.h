// Packed weights times activations, both in bytes, written over `Lanes`.
//
// A sum over a group of 32 columns (or a part of 16) is a whole number and exact. It becomes a float,
// is multiplied by the group's two scales and added to the token's sum, group after group. So a token's
// result does not depend on the tile it was computed in. `packed.h` says how a panel lies in memory.
#pragma once

#include "kernels/kernels.h"
#include "packed.h"

namespace codellama {
namespace {

// The four vectors or eight of a group's codes, as bytes from 0 up.
template <int kBits, int quad>
[[gnu::always_inline]] inline Lanes::Bytes codes_of(const uint8_t* p) {
    if constexpr (kBits == 8) return Lanes::load(p + 64 * quad);
    const Lanes::Bytes pair = Lanes::load(p + 64 * (quad % 4));
    const Lanes::Bytes four = quad < 4 ? Lanes::low_nibbles(pair) : Lanes::high_nibbles(pair);
    if constexpr (kBits == 5) return Lanes::with_bits<quad, 1>(four, Lanes::load(p + 256));
    if constexpr (kBits == 6) {
        return Lanes::with_bits<quad % 4 * 2, 3>(four, Lanes::load(p + 256 + 64 * (quad / 4)));
    }
    return four;
}

template <Format kFormat, int T>
struct Tile {
    static constexpr BlockLayout kBlocks = block_layout(kFormat);
    static constexpr PanelLayout kPanel = panel_layout(kBlocks);
    static constexpr int kParts = static_cast<int>(kBlock) / kBlocks.part;
    static constexpr int kQuads = 8 / kParts;  // vectors of 4 columns in a part

    Lanes::Floats sums[T];

    // Part `part` of a group: its scale and low, and the first of its codes.
    template <int part>
    [[gnu::always_inline]] void add_part(Lanes::Floats scale, Lanes::Floats low,
                                         const uint8_t* codes, const ActivationGroup* x) {
        Lanes::Ints whole[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
            if constexpr (kParts == 1) {
                whole[t] = Lanes::begin<kBlocks.zero, 8>(x[t].minus_sum_8);
            } else {
                whole[t] = Lanes::begin<kBlocks.zero, 1>(x[t].minus_sums[part]);
            }
        }
        add_quads<part * kQuads, (part + 1) * kQuads>(whole, codes, x);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
            const Lanes::Floats both = Lanes::mul(scale, Lanes::set1(x[t].scale));
            sums[t] = Lanes::fma(Lanes::convert(whole[t]), both, sums[t]);
            if constexpr (kBlocks.has_low) {
                const float minus = kParts == 1 ? x[t].minus_sum_scaled
                                                : x[t].scale * static_cast<float>(x[t].minus_sums[part]);
                sums[t] = Lanes::fma(low, Lanes::set1(minus), sums[t]);
            }
        }
    }

    template <int quad, int end>
    [[gnu::always_inline]] static void add_quads(Lanes::Ints (&whole)[T], const uint8_t* codes,
                                                 const ActivationGroup* x) {
        if constexpr (quad < end) {
            const Lanes::Bytes w = codes_of<kBlocks.n_bits, quad>(codes);
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) {
                whole[t] = Lanes::dot<kBlocks.zero>(whole[t], w, x[t].codes + 4 * quad);
            }
            add_quads<quad + 1, end>(whole, codes, x);
        }
    }

    [[gnu::always_inline]] void add_group(Lanes::Floats d, Lanes::Floats dmin, const uint8_t* group,
                                          const ActivationGroup* x) {
        if constexpr (!kBlocks.has_parts) {
            add_part<0>(d, dmin, group, x);
        } else {
            constexpr int kStep = kBlocks.has_low ? 2 * kPanelRows : kPanelRows;
            const uint8_t* codes = group + kParts * kStep;
            add_part<0>(scaled(d, group), low_of(dmin, group), codes, x);
            if constexpr (kParts == 2) {
                add_part<1>(scaled(d, group + kStep), low_of(dmin, group + kStep), codes, x);
            }
        }
    }

    static Lanes::Floats scaled(Lanes::Floats d, const uint8_t* p) {
        return Lanes::mul(d, Lanes::signed_bytes(p));
    }
    static Lanes::Floats low_of(Lanes::Floats dmin, const uint8_t* p) {
        if constexpr (kBlocks.has_low) return Lanes::mul(dmin, Lanes::signed_bytes(p + kPanelRows));
        return dmin;
    }

    void run(const uint8_t* panel, int64_t n_groups, const ActivationGroup* x) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) sums[t] = Lanes::zero();
        for (int64_t g = 0; g < n_groups; g += kPanel.n_groups) {
            const Lanes::Floats d = Lanes::halves(panel);
            Lanes::Floats dmin = Lanes::zero();
            if constexpr (kBlocks.has_low) dmin = Lanes::halves(panel + 2 * kPanelRows);
            panel += kPanel.head;
            for (int i = 0; i < kPanel.n_groups; ++i) {
                if constexpr (T == 1) {
                    // The next panel's beginning is found by the time it is needed.
                    for (int64_t at = 0; at < kPanel.group; at += 64) {
                        __builtin_prefetch(panel + kAhead + at);
                    }
                }
                add_group(d, dmin, panel, x);
                panel += kPanel.group;
                x += T;
            }
        }
    }

    static constexpr int64_t kAhead = 16 * kPanel.group;  // bytes
};

// n tokens (at most T) of one panel and one tile; the first n_rows rows are written.
template <Format kFormat, int T>
void tile_panel(const uint8_t* panel, int64_t n_groups, const ActivationGroup* x, int n_tokens,
                int64_t n_rows, float* out, int64_t out_stride, bool add) {
    Tile<kFormat, T> tile;
    tile.run(panel, n_groups, x);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
        if (t >= n_tokens) return;
        float* row = out + t * out_stride;
        if (n_rows == kPanelRows) {
            Lanes::store(row, add ? Lanes::add(Lanes::load_floats(row), tile.sums[t])
                                  : tile.sums[t]);
            continue;
        }
        float all[kPanelRows];
        Lanes::store(all, tile.sums[t]);
        for (int64_t r = 0; r < n_rows; ++r) row[r] = add ? row[r] + all[r] : all[r];
    }
}

using TilePanel = decltype(&tile_panel<Format::q8_0, 1>);

template <Format kFormat, int i = 0>
TilePanel tile_panel_of(int tile_tokens) {
    if constexpr (i + 1 < static_cast<int>(sizeof Lanes::kTiles / sizeof(int))) {
        if (tile_tokens != Lanes::kTiles[i]) return tile_panel_of<kFormat, i + 1>(tile_tokens);
    }
    return tile_panel<kFormat, Lanes::kTiles[i]>;
}

TilePanel tile_panel_of(Format format, int tile_tokens) {
    switch (format) {
        case Format::q8_0: return tile_panel_of<Format::q8_0>(tile_tokens);
        case Format::q4_0: return tile_panel_of<Format::q4_0>(tile_tokens);
        case Format::q4_1: return tile_panel_of<Format::q4_1>(tile_tokens);
        case Format::q5_0: return tile_panel_of<Format::q5_0>(tile_tokens);
        case Format::q5_1: return tile_panel_of<Format::q5_1>(tile_tokens);
        case Format::q2_k: return tile_panel_of<Format::q2_k>(tile_tokens);
        case Format::q3_k: return tile_panel_of<Format::q3_k>(tile_tokens);
        case Format::q4_k: return tile_panel_of<Format::q4_k>(tile_tokens);
        case Format::q5_k: return tile_panel_of<Format::q5_k>(tile_tokens);
        case Format::q6_k: return tile_panel_of<Format::q6_k>(tile_tokens);
        case Format::f32:
        case Format::f16:
        case Format::bf16: break;
    }
    return nullptr;
}

int tile_tokens(int64_t n_tokens) {
    // The largest tile that wastes least: a tile is computed whole.
    int best = Lanes::kTiles[0];
    int64_t least = INT64_MAX;
    for (const int tile : Lanes::kTiles) {
        // A token costs what its products cost, and a tile what taking the codes apart costs.
        const int64_t n_tiles = (n_tokens + tile - 1) / tile, cost = n_tiles * (tile + 2);
        if (cost <= least) {
            least = cost;
            best = tile;
        }
    }
    return best;
}

// Activations that stay in a core's second cache while all panels pass by; bytes.
constexpr int64_t kKeptActivations = 384 << 10;

void multiply_panels(const PackedMatrix& w, int64_t first, int64_t end, const Activations& x,
                     int64_t n_tokens, float* out, int64_t out_stride, bool add) {
    const int tile = x.tile_tokens();
    const TilePanel body = tile_panel_of(w.format(), tile);
    const int64_t tile_bytes = tile * w.n_groups() * static_cast<int64_t>(sizeof(ActivationGroup));
    const int64_t n_kept = kKeptActivations / tile_bytes;
    const int64_t kept = (n_kept < 1 ? 1 : n_kept) * tile;
    for (int64_t begin = 0; begin < n_tokens; begin += kept) {
        const int64_t stop = begin + kept < n_tokens ? begin + kept : n_tokens;
        for (int64_t p = first; p < end; ++p) {
            const int64_t row = p * kPanelRows;
            const int64_t n_rows = w.rows() - row < kPanelRows ? w.rows() - row : kPanelRows;
            for (int64_t t = begin; t < stop; t += tile) {
                const int n = static_cast<int>(stop - t < tile ? stop - t : tile);
                body(w.panel(p), w.n_groups(), x.tile(t), n, n_rows, out + t * out_stride + row,
                     out_stride, add);
            }
        }
    }
}

void round_row(const float* x, int64_t n_groups, ActivationRow out) {
    for (int64_t g = 0; g < n_groups; ++g) {
        Lanes::round_group(x + g * kBlock, out.first[g * out.step]);
    }
}

}  // namespace
}  // namespace codellama
