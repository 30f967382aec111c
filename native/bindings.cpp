// Python's view of the native core. Arrays are checked here, so that nothing behind this file can be
// reached with a wrong type, shape or layout.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings_machine.h"
#include "bindings_quantise.h"
#include "model.h"
#include "sampling.h"
#include "simd.h"
#include "threads.h"
#include "weights.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace codellama {

namespace {

using AnyArray = nb::ndarray<nb::ro>;
template <class T>
using NewArray = nb::ndarray<nb::numpy, T>;

template <class T>
constexpr const char* kTypeName = nullptr;
template <>
constexpr const char* kTypeName<uint8_t> = "uint8";
template <>
constexpr const char* kTypeName<int32_t> = "int32";
template <>
constexpr const char* kTypeName<int64_t> = "int64";
template <>
constexpr const char* kTypeName<uint64_t> = "uint64";
template <>
constexpr const char* kTypeName<float> = "float32";

// The numbers of an array, which must be of type T, on the CPU, in C order and have n_dims dimensions.
template <class T>
std::span<const T> numbers(const AnyArray& array, const char* name, size_t n_dims = 1) {
    if (array.dtype() != nb::dtype<T>() || array.ndim() != n_dims ||
        array.device_type() != nb::device::cpu::value) {
        throw std::invalid_argument(std::string(name) + " must be a " + std::to_string(n_dims) +
                                    "-dimensional " + kTypeName<T> + " array on the CPU");
    }
    int64_t stride = 1;
    for (size_t i = n_dims; i-- > 0;) {
        if (array.shape(i) > 1 && array.stride(i) != stride && array.size() > 0) {
            throw std::invalid_argument(std::string(name) + " must be contiguous, in C order");
        }
        stride *= static_cast<int64_t>(array.shape(i));
    }
    if (reinterpret_cast<uintptr_t>(array.data()) % alignof(T) != 0) {
        throw std::invalid_argument(std::string(name) + " must be aligned to its numbers");
    }
    return {static_cast<const T*>(array.data()), array.size()};
}

// An uninitialised NumPy array.
template <class T>
NewArray<T> new_array(std::initializer_list<size_t> shape) {
    size_t n = 1;
    for (const size_t length : shape) n *= length;
    T* data = new T[n];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return NewArray<T>(data, shape, owner);
}

// A model, and the arrays whose bytes it uses.
class PyModel {
  public:
    PyModel(int dim, int n_layers, int n_heads, int n_kv_heads, int head_dim, int ffn_dim,
            int vocab_size, float norm_eps, double rope_theta, bool tie_embeddings, int n_blocks,
            int block_size, int n_threads, const std::string& simd, const std::string& kv_cache)
        : model_({dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size, norm_eps,
                  rope_theta, tie_embeddings},
                 parse_cache_format(kv_cache), n_blocks, block_size, n_threads, simd) {}

    void set_tensor(const std::string& name, const std::string& format, int64_t rows, int64_t cols,
                    const AnyArray& data) {
        const std::span<const uint8_t> bytes = numbers<uint8_t>(data, name.c_str());
        bool is_used;
        {
            const nb::gil_scoped_release release;
            is_used = model_.set_tensor(name, format, rows, cols, bytes);
        }
        if (is_used) arrays_.push_back(data);
    }

    void finish() { model_.finish(); }

    NewArray<float> step(const AnyArray& tokens, const AnyArray& positions,
                         const AnyArray& seq_starts, const AnyArray& context_lens,
                         const AnyArray& block_tables, const AnyArray& logit_rows) {
        const Batch batch{
            .tokens = numbers<int32_t>(tokens, "tokens"),
            .positions = numbers<int32_t>(positions, "positions"),
            .seq_starts = numbers<int32_t>(seq_starts, "seq_starts"),
            .context_lens = numbers<int32_t>(context_lens, "context_lens"),
            .block_tables = numbers<int32_t>(block_tables, "block_tables", 2),
            .table_width = static_cast<int64_t>(block_tables.shape(1)),
            .logit_rows = numbers<int32_t>(logit_rows, "logit_rows"),
        };
        auto logits = new_array<float>(
            {batch.logit_rows.size(), static_cast<size_t>(model_.sizes().vocab_size)});
        {
            const nb::gil_scoped_release release;
            model_.step(batch, logits.data());
        }
        return logits;
    }

    template <class Body>
    void for_each(int64_t n, Body&& body) {
        model_.for_each(n, body);
    }

    const char* simd() const { return model_.simd(); }
    int n_threads() const { return model_.n_threads(); }

  private:
    std::vector<AnyArray> arrays_;
    Model model_;
};

template <class T>
void demand_length(std::span<const T> array, const char* name, size_t length) {
    if (array.size() != length) {
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.size()) +
                                    " entries, expected " + std::to_string(length));
    }
}

// Per row, the part of a flat array that the offsets [n_rows + 1] give it.
template <class T>
std::vector<std::span<const T>> split(std::span<const T> flat, std::span<const int64_t> offsets,
                                      const char* name, size_t n_rows) {
    demand_length(offsets, name, n_rows + 1);
    std::vector<std::span<const T>> parts;
    for (size_t i = 0; i < n_rows; ++i) {
        if (offsets[0] != 0 || offsets[i] > offsets[i + 1] ||
            offsets[n_rows] != std::ssize(flat) || offsets[i + 1] > offsets[n_rows]) {
            throw std::invalid_argument(std::string(name) + " must rise from 0 to " +
                                        std::to_string(flat.size()));
        }
        parts.push_back(flat.subspan(static_cast<size_t>(offsets[i]),
                                     static_cast<size_t>(offsets[i + 1] - offsets[i])));
    }
    return parts;
}

// Rows on the calling thread alone; a model has threads.
struct OneThread {
    int n_threads() const { return 1; }

    template <class Body>
    void for_each(int64_t n, Body&& body) {
        for (int64_t i = 0; i < n; ++i) body(static_cast<int>(i), 0);
    }
};

// Calls body(row, a sampler) for every row.
template <class Threads, class Body>
void for_rows(Threads& threads, size_t n_rows, Body body) {
    std::vector<Sampler> samplers(static_cast<size_t>(threads.n_threads()),
                                  Sampler(choose_kernels("auto")));
    threads.for_each(static_cast<int64_t>(n_rows), [&](int row, int thread) {
        body(static_cast<size_t>(row), samplers[static_cast<size_t>(thread)]);
    });
}

template <class Threads>
nb::tuple sample(Threads& threads, const AnyArray& logits, const AnyArray& temperature,
                 const AnyArray& top_k, const AnyArray& top_p, const AnyArray& min_p,
                 const AnyArray& repetition_penalty, const AnyArray& presence_penalty,
                 const AnyArray& frequency_penalty, const AnyArray& seed, const AnyArray& counter,
                 const AnyArray& history, const AnyArray& history_offsets, const AnyArray& n_prompt,
                 const AnyArray& bias_ids, const AnyArray& bias_values,
                 const AnyArray& bias_offsets) {
    const std::span<const float> all = numbers<float>(logits, "logits", 2);
    const size_t n_rows = logits.shape(0), width = logits.shape(1);
    if (width == 0) throw std::invalid_argument("logits have no columns");
    const auto column = [n_rows]<class T>(const AnyArray& array, const char* name, T) {
        const std::span<const T> values = numbers<T>(array, name);
        demand_length(values, name, n_rows);
        return values;
    };
    const auto temperatures = column(temperature, "temperature", float{});
    const auto top_ks = column(top_k, "top_k", int32_t{});
    const auto top_ps = column(top_p, "top_p", float{});
    const auto min_ps = column(min_p, "min_p", float{});
    const auto repetitions = column(repetition_penalty, "repetition_penalty", float{});
    const auto presences = column(presence_penalty, "presence_penalty", float{});
    const auto frequencies = column(frequency_penalty, "frequency_penalty", float{});
    const auto seeds = column(seed, "seed", uint64_t{});
    const auto counters = column(counter, "counter", uint64_t{});
    const auto n_prompts = column(n_prompt, "n_prompt", int32_t{});
    const auto histories = split(numbers<int32_t>(history, "history"),
                                 numbers<int64_t>(history_offsets, "history_offsets"),
                                 "history_offsets", n_rows);
    const auto offsets = numbers<int64_t>(bias_offsets, "bias_offsets");
    const auto ids_of_bias =
        split(numbers<int32_t>(bias_ids, "bias_ids"), offsets, "bias_offsets", n_rows);
    const auto values_of_bias =
        split(numbers<float>(bias_values, "bias_values"), offsets, "bias_offsets", n_rows);

    auto ids = new_array<int32_t>({n_rows});
    auto logprobs = new_array<float>({n_rows});
    {
        const nb::gil_scoped_release release;
        std::vector<Sampling> rows;
        for (size_t i = 0; i < n_rows; ++i) {
            rows.push_back({temperatures[i], top_ks[i], top_ps[i], min_ps[i], repetitions[i],
                            presences[i], frequencies[i], seeds[i], counters[i], histories[i],
                            n_prompts[i], ids_of_bias[i], values_of_bias[i]});
            check(rows.back(), static_cast<int64_t>(i), static_cast<int64_t>(width));
        }
        for_rows(threads, n_rows, [&](size_t i, Sampler& sampler) {
            const Sampled sampled = sampler.sample(all.subspan(i * width, width), rows[i]);
            ids.data()[i] = sampled.id;
            logprobs.data()[i] = sampled.logprob;
        });
    }
    return nb::make_tuple(ids, logprobs);
}

template <class Threads>
nb::tuple top_logprobs(Threads& threads, const AnyArray& logits, int64_t k) {
    const std::span<const float> all = numbers<float>(logits, "logits", 2);
    const size_t n_rows = logits.shape(0), width = logits.shape(1);
    if (k < 0 || k > static_cast<int64_t>(width)) {
        throw std::invalid_argument("k is " + std::to_string(k) + ", and there are " +
                                    std::to_string(width) + " logits in a row");
    }
    auto ids = new_array<int32_t>({n_rows, static_cast<size_t>(k)});
    auto logprobs = new_array<float>({n_rows, static_cast<size_t>(k)});
    {
        const nb::gil_scoped_release release;
        for_rows(threads, n_rows, [&](size_t i, Sampler& sampler) {
            sampler.top_logprobs(all.subspan(i * width, width), k,
                                 ids.data() + static_cast<int64_t>(i) * k,
                                 logprobs.data() + static_cast<int64_t>(i) * k);
        });
    }
    return nb::make_tuple(ids, logprobs);
}

constexpr size_t kSampleArrays = 16;
template <size_t>
using Array = const AnyArray&;

// `sample` and `top_logprobs` as functions of Python, with the arrays' names: a module's, or a class's.
template <class Scope, class Sample, class TopLogprobs>
void define_sampling(Scope& scope, Sample sample, TopLogprobs top_logprobs) {
    scope.def("sample", sample, "logits"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a,
              "repetition_penalty"_a, "presence_penalty"_a, "frequency_penalty"_a, "seed"_a,
              "counter"_a, "history"_a, "history_offsets"_a, "n_prompt"_a, "bias_ids"_a,
              "bias_values"_a, "bias_offsets"_a);
    scope.def("top_logprobs", top_logprobs, "logits"_a, "k"_a);
}

template <size_t... I>
void bind_sampling(nb::module_& m, nb::class_<PyModel>& model, std::index_sequence<I...>) {
    define_sampling(
        m,
        [](Array<I>... arrays) {
            OneThread alone;
            return sample(alone, arrays...);
        },
        [](const AnyArray& logits, int64_t k) {
            OneThread alone;
            return top_logprobs(alone, logits, k);
        });
    define_sampling(
        model, [](PyModel& self, Array<I>... arrays) { return sample(self, arrays...); },
        [](PyModel& self, const AnyArray& logits, int64_t k) {
            return top_logprobs(self, logits, k);
        });
}

// Rows of x times a stored matrix, transposed: what the kernels compute, for tests and benchmarks.
NewArray<float> matmul(const AnyArray& x, const std::string& format, int64_t rows,
                       const AnyArray& data, const std::string& simd) {
    const std::span<const float> in = numbers<float>(x, "x", 2);
    const std::span<const uint8_t> bytes = numbers<uint8_t>(data, "data");
    const auto n_tokens = static_cast<int64_t>(x.shape(0)), cols = static_cast<int64_t>(x.shape(1));
    const Kernels& kernels = choose_kernels(simd);
    const Format parsed = parse_format(format);
    const int64_t stride = row_bytes(parsed, cols);
    if (rows <= 0 || cols <= 0 || std::ssize(bytes) != rows * stride) {
        throw std::invalid_argument("data has " + std::to_string(bytes.size()) +
                                    " bytes, not " + std::to_string(rows) + " rows of " +
                                    std::to_string(stride));
    }
    auto out = new_array<float>({static_cast<size_t>(n_tokens), static_cast<size_t>(rows)});
    if (n_tokens == 0) return out;
    const nb::gil_scoped_release release;
    const Matrix stored{parsed, rows, cols, stride, bytes.data()};
    if (is_quantised(parsed)) {
        Arena arena;
        PackedMatrix packed(parsed, rows, cols, arena);
        packed.pack(stored, 0, packed.n_panels());
        Activations rounded(cols);
        rounded.arrange(n_tokens, kernels.tile_tokens(n_tokens));
        for (int64_t t = 0; t < n_tokens; ++t) {
            kernels.round_row(in.data() + t * cols, cols / kBlock, rounded.row(t));
        }
        kernels.multiply_panels(packed, 0, packed.n_panels(), rounded, n_tokens, out.data(), rows,
                                false);
    } else {
        Rows padded(cols);
        padded.reserve(n_tokens);
        for (int64_t t = 0; t < n_tokens; ++t) {
            std::copy_n(in.data() + t * cols, cols, padded.row(t));
        }
        std::vector<float> panel(static_cast<size_t>(kPanelRows * (cols + kBlock)));
        kernels.matmul(stored, 0, rows, padded.row(0), padded.stride(), n_tokens, out.data(), rows,
                       false, panel.data());
    }
    return out;
}

std::vector<std::string> simd_levels() {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
    return names;
}

}  // namespace

}  // namespace codellama

NB_MODULE(_native, m) {
    using namespace codellama;

    nb::class_<PyModel> model(m, "Model");
    model
        .def(nb::init<int, int, int, int, int, int, int, float, double, bool, int, int, int,
                      const std::string&, const std::string&>(),
             "dim"_a, "n_layers"_a, "n_heads"_a, "n_kv_heads"_a, "head_dim"_a, "ffn_dim"_a,
             "vocab_size"_a, "norm_eps"_a, "rope_theta"_a, "tie_embeddings"_a, "n_blocks"_a,
             "block_size"_a, "n_threads"_a, "simd"_a = "auto",
             "kv_cache"_a = "F32", nb::call_guard<nb::gil_scoped_release>())
        .def("set_tensor", &PyModel::set_tensor, "name"_a, "format"_a, "rows"_a, "cols"_a,
             "data"_a)
        .def("finish", &PyModel::finish)
        .def("step", &PyModel::step, "tokens"_a, "positions"_a, "seq_starts"_a, "context_lens"_a,
             "block_tables"_a, "logit_rows"_a)
        .def_prop_ro("simd", &PyModel::simd)
        .def_prop_ro("n_threads", &PyModel::n_threads);

    bind_sampling(m, model, std::make_index_sequence<kSampleArrays>());
    m.def("matmul", &matmul, "x"_a, "format"_a, "rows"_a, "data"_a, "simd"_a = "auto");
    bind_quantise(m);
    m.def("cpu_features", &cpu_features);
    m.def("simd_levels", &simd_levels);
    m.def("n_physical_threads", &n_physical_threads);
    bind_machine(m);
}
