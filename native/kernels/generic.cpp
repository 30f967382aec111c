#include <cstdint>
#include <cstring>

#include "kernels/vec_generic.h"

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace codellama {

const Kernels generic_kernels = {"generic",        matmul,  dequantise, rms_norm, rotate,
                                silu_multiply, attend, exp_scaled};

}  // namespace codellama
