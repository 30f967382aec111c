#include <cstdint>
#include <cstring>

#include "kernels/lanes_avx2.h"
#include "kernels/vec_avx2.h"

#include "kernels/attention.h"
#include "kernels/cached.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/panels.h"
#include "kernels/table.h"

namespace codellama {

const Kernels avx2_kernels = table("avx2");

}  // namespace codellama
