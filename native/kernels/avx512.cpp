#include <cstdint>
#include <cstring>

#include "kernels/vec_avx512.h"

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace codellama {

const Kernels avx512_kernels = {"avx512",        matmul,  dequantise, rms_norm, rotate,
                                silu_multiply, attend, exp_scaled};

}  // namespace codellama
