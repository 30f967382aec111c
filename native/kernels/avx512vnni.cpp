// The AVX-512 kernels with the dot products of VNNI.
#include <cstdint>
#include <cstring>

#include "kernels/lanes_avx512.h"
#include "kernels/vec_avx512.h"

#include "kernels/attention.h"
#include "kernels/cached.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/panels.h"
#include "kernels/table.h"

namespace codellama {

const Kernels avx512vnni_kernels = table("avx512vnni");

}  // namespace codellama
