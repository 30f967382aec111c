#include <cstdint>
#include <cstring>

#include "kernels/lanes_generic.h"
#include "kernels/vec_generic.h"

#include "kernels/attention.h"
#include "kernels/cached.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/panels.h"
#include "kernels/table.h"

namespace codellama {

const Kernels generic_kernels = table("generic");

}  // namespace codellama
