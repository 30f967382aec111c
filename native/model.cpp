#include "model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "blocks.h"
#include "simd.h"

namespace codellama {

namespace {

// Multiply-adds of floats that are worth handing to another thread: a microsecond or so, several
// times what it costs to tell it. Those of bytes take less.
constexpr double kWorthwhile = 16384;
constexpr double kBytesWork = 1.0 / 8;

// Query rows of one attention part; fewer when many heads share a key/value head.
constexpr int kPartRows = 32;

bool is_packed(std::initializer_list<const Weight*> weights) {
    return std::any_of(weights.begin(), weights.end(),
                       [](const Weight* weight) { return weight->packed != nullptr; });
}

int64_t rows_of(const Weight& weight) {
    return weight.packed ? weight.packed->rows() : weight.stored.rows;
}

int64_t panels_of(const Weight& weight) {
    return (rows_of(weight) + kPanelRows - 1) / kPanelRows;
}

// Of one panel.
double work_of(const Weight& weight, int64_t n_tokens) {
    const int64_t cols = weight.packed ? weight.packed->n_groups() * kBlock : weight.stored.cols;
    const double products = static_cast<double>(kPanelRows * cols * n_tokens);
    return weight.packed ? products * kBytesWork : products;
}

const Sizes& checked(const Sizes& sizes, int n_blocks, int block_size, int n_threads) {
    const auto demand = [](bool fine, const std::string& sentence) {
        if (!fine) throw std::invalid_argument(sentence);
    };
    for (const auto& [name, value] : {std::pair{"dim", sizes.dim},
                                      {"n_layers", sizes.n_layers},
                                      {"n_heads", sizes.n_heads},
                                      {"n_kv_heads", sizes.n_kv_heads},
                                      {"head_dim", sizes.head_dim},
                                      {"ffn_dim", sizes.ffn_dim},
                                      {"vocab_size", sizes.vocab_size},
                                      {"n_blocks", n_blocks},
                                      {"block_size", block_size},
                                      {"n_threads", n_threads}}) {
        demand(value > 0, std::string(name) + " is " + std::to_string(value) +
                              ", not a positive number");
    }
    demand(n_threads <= 1024, "n_threads is " + std::to_string(n_threads) + ", more than 1024");
    demand(block_size <= 65536, "block_size is " + std::to_string(block_size) +
                                    ", more than 65536");
    demand(sizes.n_heads % sizes.n_kv_heads == 0,
           std::to_string(sizes.n_heads) + " query heads cannot share " +
               std::to_string(sizes.n_kv_heads) + " key/value heads evenly");
    demand(sizes.head_dim % 2 == 0, "head_dim " + std::to_string(sizes.head_dim) +
                                        " is odd, but rotary positions turn pairs");
    demand(std::isfinite(sizes.norm_eps) && sizes.norm_eps > 0, "norm_eps is not positive");
    demand(std::isfinite(sizes.rope_theta) && sizes.rope_theta > 0, "rope_theta is not positive");
    // All sizes in bytes stay far inside 64 bits.
    const double cached = 2.0 * sizes.n_layers * n_blocks * block_size * sizes.n_kv_heads *
                          (sizes.head_dim + 16.0);
    const double widest = 3.0 * std::max({1.0 * sizes.n_heads * sizes.head_dim,
                                          1.0 * sizes.ffn_dim, 1.0 * sizes.dim});
    demand(cached < 0x1p58, "the key/value cache would be larger than any machine's memory");
    demand(widest < 0x1p31, "a layer would be wider than 2^31 numbers");
    return sizes;
}

}  // namespace

Model::Model(const Sizes& sizes, CacheFormat cache, int n_blocks, int block_size, int n_threads,
             const std::string& simd)
    : sizes_(checked(sizes, n_blocks, block_size, n_threads)),
      n_blocks_(n_blocks),
      block_size_(block_size),
      kernels_(choose_kernels(simd)),
      weights_(sizes),
      pool_(n_threads),
      cache_({cache, block_size, sizes.head_dim}, sizes.n_layers, n_blocks, sizes.n_kv_heads),
      hidden_(sizes.dim),
      qkv_(sizes.q_dim() + 2 * sizes.kv_dim()),
      up_(sizes.ffn_dim),
      normed_(sizes.dim),
      attended_(sizes.q_dim()),
      gate_(sizes.ffn_dim),
      angles_(sizes.head_dim),
      scratch_(static_cast<size_t>(n_threads)) {
    const int64_t widest = std::max({int64_t{sizes.dim}, sizes.q_dim(), int64_t{sizes.ffn_dim}});
    for (Scratch& scratch : scratch_) {
        scratch.panel.resize(static_cast<size_t>(kPanelRows * (widest + kBlock)));
        const int64_t width = cache_.layout().value_stride();
        scratch.attention.resize(static_cast<size_t>(kMaxQueries * (2 * width + 16)));
    }
    for (int i = 0; i < sizes.head_dim; i += 2) {
        // Rounded where the published implementation rounds: see `find_angles`.
        const float exponent = static_cast<float>(i) / static_cast<float>(sizes.head_dim);
        const float power = static_cast<float>(std::pow(sizes.rope_theta, exponent));
        inverse_frequencies_.push_back(1.0f / power);
    }
}

bool Model::set_tensor(const std::string& name, const std::string& format, int64_t rows,
                       int64_t cols, std::span<const uint8_t> data) {
    const std::lock_guard lock(busy_);
    const Weights::Given given = weights_.set(name, format, rows, cols, data);
    if (given.to_pack != nullptr) {
        const double work = static_cast<double>(kPanelRows * cols);
        in_parts(given.to_pack->n_panels(), 1, work, [&](int64_t begin, int64_t end, Scratch&) {
            given.to_pack->pack(given.stored, begin, end);
        });
    }
    return given.is_used;
}

void Model::step(const Batch& batch, float* logits) {
    const std::lock_guard lock(busy_);
    if (!weights_.finished()) throw std::invalid_argument("finish() was not called");
    check(batch, sizes_.vocab_size, n_blocks_, block_size_);
    const int64_t n_logits = static_cast<int64_t>(batch.logit_rows.size());
    int64_t n = batch.n_tokens();
    reserve(batch);
    plan_attention(batch);
    find_angles(batch);
    embed(batch);
    for (int i = 0; i < sizes_.n_layers; ++i) {
        const LayerWeights& layer = weights_.layers[static_cast<size_t>(i)];
        norm(layer.attention_norm, n, is_packed({&layer.q, &layer.k, &layer.v}));
        multiply({&layer.q, &layer.k, &layer.v}, normed_, n, qkv_.row(0), qkv_.stride(), false);
        store_keys_and_values(batch, i);
        const bool is_last = i == sizes_.n_layers - 1;
        if (is_last && n_logits == 0) return;
        attend(batch, i);
        if (is_last) {  // from here on only the rows asked for matter
            keep_rows(batch.logit_rows, attended_.rows);
            keep_rows(batch.logit_rows, hidden_);
            n = n_logits;
        }
        if (layer.o.packed) round(attended_, n);
        multiply({&layer.o}, attended_, n, hidden_.row(0), hidden_.stride(), true);
        norm(layer.ffn_norm, n, is_packed({&layer.gate, &layer.up}));
        gate_and_up(layer, n);
        multiply({&layer.down}, gate_, n, hidden_.row(0), hidden_.stride(), true);
    }
    norm(weights_.final_norm, n, weights_.lm_head.packed != nullptr);
    multiply({&weights_.lm_head}, normed_, n, logits, sizes_.vocab_size, false);
}

void Model::reserve(const Batch& batch) {
    // Rows may be asked for more than once.
    const int64_t n = std::max(batch.n_tokens(), static_cast<int64_t>(batch.logit_rows.size()));
    for (Rows* rows : {&hidden_, &qkv_, &up_, &attended_.rows, &gate_.rows, &angles_}) {
        rows->reserve(n);
    }
    normed_.rows.reserve(n);
}

// Makes the rows asked for the first ones.
void Model::keep_rows(std::span<const int32_t> wanted, Rows& rows) {
    const auto width = static_cast<size_t>(rows.width());
    kept_.resize(wanted.size() * width);
    for (size_t i = 0; i < wanted.size(); ++i) {
        std::copy_n(rows.row(wanted[i]), width, kept_.data() + i * width);
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
        std::copy_n(kept_.data() + i * width, width, rows.row(static_cast<int64_t>(i)));
    }
}

void Model::embed(const Batch& batch) {
    const Matrix& table = weights_.embedding;
    in_parts(batch.n_tokens(), 1, sizes_.dim, [&](int64_t begin, int64_t end, Scratch&) {
        for (int64_t t = begin; t < end; ++t) {
            const uint8_t* row = table.data + batch.tokens[t] * table.row_bytes;
            if (is_quantised(table.format)) {
                expand_blocks(table.format, row, table.cols, hidden_.row(t));
            } else {
                kernels_.widen(table.format, row, table.cols, hidden_.row(t));
            }
        }
    });
}

// Cosines and sines of every token's rotation. Frequencies and angles are float32 as in the published
// implementation, since at position 16,000 one rounding more or less is a thousandth of a radian.
void Model::find_angles(const Batch& batch) {
    const int64_t half = sizes_.head_dim / 2;
    in_parts(batch.n_tokens(), 1, 100.0 * half, [&](int64_t begin, int64_t end, Scratch&) {
        for (int64_t t = begin; t < end; ++t) {
            const float position = static_cast<float>(batch.positions[t]);
            float* cosines = angles_.row(t);
            for (int64_t i = 0; i < half; ++i) {
                const float angle = position * inverse_frequencies_[i];
                cosines[i] = std::cos(angle);
                cosines[half + i] = std::sin(angle);
            }
        }
    });
}

// normed = hidden, each row divided by its root mean square, times the weight; rounded too on demand.
void Model::norm(const std::vector<float>& weight, int64_t n_tokens, bool round) {
    if (round) normed_.rounded.arrange(n_tokens, kernels_.tile_tokens(n_tokens));
    in_parts(n_tokens, 1, sizes_.dim, [&](int64_t begin, int64_t end, Scratch&) {
        for (int64_t t = begin; t < end; ++t) {
            float* row = normed_.rows.row(t);
            kernels_.rms_norm(hidden_.row(t), weight.data(), sizes_.dim, sizes_.norm_eps, row);
            if (round) {
                kernels_.round_row(row, normed_.rounded.n_groups(), normed_.rounded.row(t));
            }
        }
    });
}

void Model::round(Input& in, int64_t n_tokens) {
    in.rounded.arrange(n_tokens, kernels_.tile_tokens(n_tokens));
    const int64_t n_groups = in.rounded.n_groups();
    in_parts(n_tokens, 1, static_cast<double>(n_groups * kBlock),
             [&](int64_t begin, int64_t end, Scratch&) {
                 for (int64_t t = begin; t < end; ++t) {
                     kernels_.round_row(in.rows.row(t), n_groups, in.rounded.row(t));
                 }
             });
}

// Turns queries and keys to their positions and puts keys and values where the block tables say.
void Model::store_keys_and_values(const Batch& batch, int layer) {
    const int head_dim = sizes_.head_dim, half = head_dim / 2;
    const double work = 4.0 * static_cast<double>(sizes_.q_dim() + 2 * sizes_.kv_dim());
    in_parts(batch.n_tokens(), 1, work, [&](int64_t begin, int64_t end, Scratch&) {
        for (int64_t t = begin; t < end; ++t) {
            float* q = qkv_.row(t);
            float* k = q + sizes_.q_dim();
            const float* v = k + sizes_.kv_dim();
            const float* cosines = angles_.row(t);
            for (int h = 0; h < sizes_.n_heads + sizes_.n_kv_heads; ++h) {
                kernels_.rotate(q + int64_t{h} * head_dim, cosines, cosines + half, half);
            }
            const int position = batch.positions[t];
            const int block = batch.table(sequence_of_[t])[position / block_size_];
            for (int h = 0; h < sizes_.n_kv_heads; ++h) {
                const int64_t at = int64_t{h} * head_dim;
                kernels_.store_head(cache_.layout(), position % block_size_, k + at, v + at,
                                    cache_.keys(layer, h) + block * cache_.key_block(),
                                    cache_.values(layer, h) + block * cache_.value_block());
            }
        }
    });
}

// Cuts the batch's attention into parts: rows of one sequence and heads that share keys and values.
void Model::plan_attention(const Batch& batch) {
    parts_.clear();
    sequence_of_.resize(batch.tokens.size());
    attention_work_ = 0;
    const int group = sizes_.n_heads / sizes_.n_kv_heads;
    const int n_heads = std::min(group, kMaxQueries);
    const int n_rows = std::clamp(kMaxQueries / n_heads, 1, kPartRows);
    for (int64_t s = 0; s < batch.n_sequences(); ++s) {
        const int64_t begin = batch.seq_starts[s], end = batch.seq_starts[s + 1];
        std::fill(sequence_of_.begin() + begin, sequence_of_.begin() + end,
                  static_cast<int32_t>(s));
        attention_work_ += 2.0 * static_cast<double>(end - begin) * batch.context_lens[s] *
                           static_cast<double>(sizes_.q_dim());
        for (int kv_head = 0; kv_head < sizes_.n_kv_heads; ++kv_head) {
            for (int head = 0; head < group; head += n_heads) {
                for (int64_t t = begin; t < end; t += n_rows) {
                    parts_.push_back({s, t, kv_head, kv_head * group + head,
                                      std::min(n_heads, group - head),
                                      static_cast<int>(std::min<int64_t>(n_rows, end - t))});
                }
            }
        }
    }
}

void Model::attend(const Batch& batch, int layer) {
    const auto n_parts = static_cast<int64_t>(parts_.size());
    const double work = attention_work_ / static_cast<double>(n_parts);
    in_parts(n_parts, 1, work, [&](int64_t begin, int64_t end, Scratch& scratch) {
        for (int64_t i = begin; i < end; ++i) {
            const AttentionPart& part = parts_[static_cast<size_t>(i)];
            const int64_t column = int64_t{part.head} * sizes_.head_dim;
            kernels_.attend({
                .q = qkv_.row(part.first_token) + column,
                .q_stride = qkv_.stride(),
                .out = attended_.rows.row(part.first_token) + column,
                .out_stride = attended_.rows.stride(),
                .n_rows = part.n_rows,
                .n_heads = part.n_heads,
                .first_position = batch.positions[part.first_token],
                .scale = 1.0f / std::sqrt(static_cast<float>(sizes_.head_dim)),
                .block_table = batch.table(part.sequence),
                .cache = cache_.layout(),
                .keys = cache_.keys(layer, part.kv_head),
                .values = cache_.values(layer, part.kv_head),
                .key_block_stride = cache_.key_block(),
                .value_block_stride = cache_.value_block(),
                .scratch = scratch.attention.data(),
            });
        }
    });
}

// gate = silu(gate projection) * up projection, rounded too where the next product needs it
void Model::gate_and_up(const LayerWeights& layer, int64_t n_tokens) {
    const double work = 2.0 * work_of(layer.gate, n_tokens);
    const bool round = layer.down.packed != nullptr;
    if (round) gate_.rounded.arrange(n_tokens, kernels_.tile_tokens(n_tokens));
    constexpr int64_t kGrain = kBlock / kPanelRows;  // panels whose columns are whole groups
    in_parts(panels_of(layer.gate), kGrain, work,
             [&](int64_t first, int64_t last, Scratch& scratch) {
        const int64_t begin = first * kPanelRows;
        const int64_t end = std::min(last * kPanelRows, int64_t{sizes_.ffn_dim});
        multiply_part(layer.gate, first, last, normed_, n_tokens, gate_.rows.row(0),
                      gate_.rows.stride(), false, scratch);
        multiply_part(layer.up, first, last, normed_, n_tokens, up_.row(0), up_.stride(), false,
                      scratch);
        for (int64_t t = 0; t < n_tokens; ++t) {
            float* row = gate_.rows.row(t);
            kernels_.silu_multiply(row + begin, up_.row(t) + begin, end - begin);
            if (!round) continue;
            ActivationRow out = gate_.rounded.row(t);
            out.first += begin / kBlock * out.step;
            kernels_.round_row(row + begin, (end - begin) / kBlock, out);
        }
    });
}

void Model::multiply(std::initializer_list<const Weight*> weights, Input& in, int64_t n_tokens,
                     float* out, int64_t out_stride, bool add) {
    int64_t n_panels = 0;
    for (const Weight* weight : weights) n_panels += panels_of(*weight);
    const double work = work_of(**weights.begin(), n_tokens);
    in_parts(n_panels, 1, work, [&](int64_t begin, int64_t end, Scratch& scratch) {
        int64_t top = 0;  // panels above
        float* columns = out;
        for (const Weight* weight : weights) {
            const int64_t first = std::max(begin - top, int64_t{0});
            const int64_t stop = std::min(end - top, panels_of(*weight));
            if (first < stop) {
                multiply_part(*weight, first, stop, in, n_tokens, columns, out_stride, add, scratch);
            }
            top += panels_of(*weight);
            columns += rows_of(*weight);
        }
    });
}

void Model::multiply_part(const Weight& weight, int64_t first, int64_t end, Input& in,
                          int64_t n_tokens, float* out, int64_t out_stride, bool add,
                          Scratch& scratch) {
    if (weight.packed) {
        kernels_.multiply_panels(*weight.packed, first, end, in.rounded, n_tokens, out, out_stride,
                                 add);
        return;
    }
    const int64_t begin_row = first * kPanelRows;
    const int64_t end_row = std::min(end * kPanelRows, weight.stored.rows);
    kernels_.matmul(weight.stored, begin_row, end_row, in.rows.row(0), in.rows.stride(), n_tokens,
                    out, out_stride, add, scratch.panel.data());
}

template <class Body>
void Model::in_parts(int64_t n, int64_t grain, double work, Body body) {
    // Several parts per thread, so that one that falls behind holds up the others by a part only.
    const int64_t most = std::min((n + grain - 1) / grain, int64_t{4} * pool_.n_threads());
    const double worth = work * static_cast<double>(n) / kWorthwhile;
    const int64_t n_parts = std::clamp(static_cast<int64_t>(std::min(worth, 1e9)), int64_t{1}, most);
    const int64_t n_grains = (n + grain - 1) / grain;
    pool_.run(static_cast<int>(n_parts), [&](int part, int thread) {
        const int64_t begin = n_grains * part / n_parts * grain;
        const int64_t end = std::min(n_grains * (part + 1) / n_parts * grain, n);
        body(begin, end, scratch_[static_cast<size_t>(thread)]);
    });
}

}  // namespace codellama
