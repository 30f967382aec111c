// The part of the Python module that rounds numbers to block formats.
#pragma once

#include <nanobind/nanobind.h>

namespace codellama {

void bind_quantise(nanobind::module_& m);

}  // namespace codellama
