// The part of the Python module that measures the machine.
#pragma once

#include <nanobind/nanobind.h>

namespace codellama {

void bind_machine(nanobind::module_& m);

}  // namespace codellama
