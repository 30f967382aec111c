#include "bindings_quantise.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "quantise.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace codellama {

namespace {

// Any other type, shape or layout is a TypeError of nanobind's.
using Numbers = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

int64_t quantise_into(const std::string& format, const Numbers& x, const NewBytes& out,
                      int n_threads, const std::string& simd) {
    const Encoder& encoder = find_encoder(format, simd);
    const auto n = static_cast<int64_t>(x.size());
    const int64_t n_blocks = n / encoder.block_size;
    if (n % encoder.block_size != 0 ||
        static_cast<int64_t>(out.size()) != n_blocks * encoder.block_bytes || n_threads < 1) {
        throw std::invalid_argument(std::to_string(n) + " numbers, " + std::to_string(out.size()) +
                                    " bytes and " + std::to_string(n_threads) +
                                    " threads do not fit " + format);
    }
    const nb::gil_scoped_release release;
    return quantise(encoder, x.data(), n_blocks, out.data(), n_threads);
}

}  // namespace

void bind_quantise(nb::module_& m) {
    m.def("quantise", &quantise_into, "format"_a, "x"_a.noconvert(), "out"_a.noconvert(),
          "n_threads"_a, "simd"_a = "auto");
}

}  // namespace codellama
