// The kernels of the including file, as a table.
#pragma once

#include "kernels/kernels.h"

namespace codellama {
namespace {

constexpr Kernels table(const char* name) {
    return {
        .name = name,
        .matmul = matmul,
        .multiply_panels = multiply_panels,
        .tile_tokens = tile_tokens,
        .round_row = round_row,
        .widen = widen,
        .rms_norm = rms_norm,
        .rotate = rotate,
        .silu_multiply = silu_multiply,
        .attend = attend,
        .store_head = store_head,
        .exp_scaled = exp_scaled,
    };
}

}  // namespace
}  // namespace codellama
