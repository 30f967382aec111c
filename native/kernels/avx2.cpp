#include <cstdint>
#include <cstring>

#include "kernels/vec_avx2.h"

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace codellama {

const Kernels avx2_kernels = {"avx2",        matmul,  dequantise, rms_norm, rotate,
                                silu_multiply, attend, exp_scaled};

}  // namespace codellama
