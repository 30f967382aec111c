// Rounding activations without any instruction set in mind.
#pragma once

#include <cstdint>

#include "activations.h"

namespace codellama {
namespace {

// Rounds 32 numbers. A group that holds a NaN or an infinity has the scale NaN or infinity.
inline void round_plainly(const float* x, ActivationGroup& group) {
    float most = 0, finite = 0;
    for (int i = 0; i < 32; ++i) {
        const float size = __builtin_fabsf(x[i]);
        most = size > most ? size : most;
        finite += x[i] * 0.0f;
    }
    group.scale = most / 127.0f + finite;
    const float inverse = most >= 0x1p-120f && finite == 0.0f ? 127.0f / most : 0.0f;
    int32_t sums[2] = {0, 0};
    for (int i = 0; i < 32; ++i) {
        group.codes[i] = inverse == 0.0f
                             ? int8_t{0}
                             : static_cast<int8_t>(__builtin_rintf(x[i] * inverse));
        sums[i / 16] += group.codes[i];
    }
    group.set_sums(sums[0], sums[1]);
}

}  // namespace
}  // namespace codellama
