// Which kernels this CPU can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace codellama {

// The kernel tables this CPU can run, slowest first.
std::vector<const Kernels*> available_kernels();

// The table called `name`, or the fastest one for "auto". Throws std::invalid_argument when there is
// no such table or the CPU cannot run it.
const Kernels& choose_kernels(const std::string& name);

// The CPU's instruction sets that matter here, by the kernel's names for them.
std::vector<std::string> cpu_features();

}  // namespace codellama
