// Floats in the compiler's own vectors, which are NEON's here; dot products of bytes on top.
#include <cstdint>
#include <cstring>

#include "kernels/lanes_neon.h"
#include "kernels/vec_generic.h"

#include "kernels/attention.h"
#include "kernels/cached.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/panels.h"
#include "kernels/table.h"

namespace codellama {

const Kernels neon_kernels = table("neon");

}  // namespace codellama
