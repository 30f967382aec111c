// Python's view of the machine's limits: the submodule `_native.machine`.

#include "bindings_machine.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "machine.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace codellama {

void bind_machine(nb::module_& parent) {
    nb::module_ m = parent.def_submodule("machine");
    const nb::call_guard<nb::gil_scoped_release> released;
    m.def("read_bandwidth", &read_bandwidth, "n_bytes"_a, "n_threads"_a, "n_passes"_a, released);
    m.def("peak_kinds", &peak_kinds);
    m.def("peak", &peak, "kind"_a, "n_threads"_a, "n_passes"_a, released);
}

}  // namespace codellama
