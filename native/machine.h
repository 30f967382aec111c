// What the machine itself can do: how fast it reads memory and multiplies. Benchmarks show a model's
// speed as a share of these.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace codellama {

// Bytes per second at which n_threads read the same n_bytes again and again, each its own part, one
// number per pass over all of them. The first pass, which brings the memory in, is not counted.
// Throws std::invalid_argument when a number is out of range and std::bad_alloc when n_bytes are not
// to be had.
std::vector<double> read_bandwidth(int64_t n_bytes, int n_threads, int n_passes);

// The kinds of arithmetic that this CPU can do and `peak` can measure, "fp32_..." and "int8_...",
// the widest of each last. int8 kinds sum four products of bytes into an int32; there are none where
// the CPU lacks an instruction for it.
std::vector<std::string> peak_kinds();

// Operations per second (a multiplication and an addition are two) of n_threads that only compute,
// from registers, one number per pass of some milliseconds. Throws std::invalid_argument when the
// CPU lacks the kind or a number is out of range.
std::vector<double> peak(const std::string& kind, int n_threads, int n_passes);

}  // namespace codellama
