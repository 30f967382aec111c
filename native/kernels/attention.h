// Attention over the paged cache, with a running maximum and sum (online softmax), over `Vec`.
//
// Keys are stored with the positions of a block side by side, so a vector holds the scores of
// neighbouring positions and a score is one sum over the head's dimensions, in order. Values are
// stored position after position, so an output is one sum over positions, in order. Chunks of
// positions are counted from 0. So a token's result depends on its position and on what it sees,
// never on the other rows of its batch or on where blocks lie. `Cached` says how the cache's numbers
// are read.
#pragma once

#include "kernels/cached.h"
#include "kernels/elementwise.h"
#include "kernels/kernels.h"

namespace codellama {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr int kFewQueries = 8;  // whose arithmetic does not hide the memory's latency
constexpr int kChunkSpace = kScoreChunk + Vec::kLanes;  // a vector may reach over the end

// Where kLanes keys begin, and where their scores go.
struct KeyVector {
    const uint8_t* keys;
    const float* scales;  // where the cache has them
    int at;
};

// What is known of one query after the chunks so far.
struct Query {
    const float* q;
    float* out;
    float* sum;    // of value rows, weighted; [value_stride]
    float* chunk;  // the same of the chunk at hand; [value_stride]
    float* total;  // of weights, by lane; [kLanes]
    float max;
    int limit;     // positions it may see
};

template <class Cached, int Q, int N>
[[gnu::always_inline]] inline void scores_of(const AttentionTask& task, const Query* queries,
                                             const KeyVector* vectors,
                                             float (*scores)[kChunkSpace]) {
    Vec::F acc[Q][N];
    for (int i = 0; i < Q; ++i) {
        for (int v = 0; v < N; ++v) acc[i][v] = Vec::zero();
    }
    for (int d = 0; d < task.cache.head_dim; ++d) {
        Vec::F keys[N];
#pragma GCC unroll 8
        for (int v = 0; v < N; ++v) {
            keys[v] = Cached::load(vectors[v].keys +
                                   Cached::kBytes * d * static_cast<int64_t>(task.cache.block_size));
        }
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
            const Vec::F q = Vec::set1(queries[i].q[d]);
#pragma GCC unroll 8
            for (int v = 0; v < N; ++v) acc[i][v] = Vec::fma(q, keys[v], acc[i][v]);
        }
    }
    for (int v = 0; v < N; ++v) {
        Vec::F scale = Vec::set1(task.scale);
        if constexpr (Cached::kScaled) scale = Vec::mul(scale, Vec::load(vectors[v].scales));
        for (int i = 0; i < Q; ++i) {
            Vec::store(scores[i] + vectors[v].at, Vec::mul(acc[i][v], scale));
        }
    }
}

// The key vectors of positions [begin, end), in order; a vector's surplus lanes are overwritten by
// the next one's.
template <class Cached>
int key_vectors(const AttentionTask& task, int begin, int end, KeyVector* vectors) {
    const int block_size = task.cache.block_size;
    int n = 0;
    for (int p = begin; p < end;) {
        const int block = p / block_size, offset = p % block_size;
        const int left = block_size - offset;
        const int stop = p + (left < end - p ? left : end - p);
        const uint8_t* head = task.keys + task.block_table[block] * task.key_block_stride;
        const uint8_t* keys = head + Cached::kBytes * offset;
        const auto* scales = reinterpret_cast<const float*>(head + task.cache.key_scales()) + offset;
        for (int i = p; i < stop; i += Vec::kLanes) {
            vectors[n++] = {keys + Cached::kBytes * (i - p), scales + (i - p), i - begin};
        }
        p = stop;
    }
    return n;
}

template <class Cached, int Q>
inline void all_scores(const AttentionTask& task, const Query* queries, const KeyVector* vectors,
                       int n_vectors, float (*scores)[kChunkSpace]) {
    int v = 0;
    for (; v + Vec::kScoreVectors <= n_vectors; v += Vec::kScoreVectors) {
        scores_of<Cached, Q, Vec::kScoreVectors>(task, queries, vectors + v, scores);
    }
    for (; v < n_vectors; ++v) scores_of<Cached, Q, 1>(task, queries, vectors + v, scores);
}

// Turns the first n scores into weights relative to the running maximum, and what was summed
// before to the same scale.
inline void softmax_step(const AttentionTask& task, Query& query, float* scores, int n) {
    const int n_vectors = (n + Vec::kLanes - 1) / Vec::kLanes;
    for (int i = n; i < n_vectors * Vec::kLanes; ++i) scores[i] = -kInfinity;
    Vec::F top = Vec::set1(query.max);
    for (int v = 0; v < n_vectors; ++v) top = Vec::max(Vec::load(scores + v * Vec::kLanes), top);
    float lanes[Vec::kLanes];
    Vec::store(lanes, top);
    float max = lanes[0];
    for (int i = 1; i < Vec::kLanes; ++i) max = lanes[i] > max ? lanes[i] : max;

    Vec::F total = Vec::load(query.total);
    if (max > query.max) {
        const Vec::F shrink = exp_of(Vec::set1(query.max - max));
        total = Vec::mul(total, shrink);
        for (int64_t d = 0; d < task.cache.value_stride(); d += Vec::kLanes) {
            Vec::store(query.sum + d, Vec::mul(Vec::load(query.sum + d), shrink));
        }
        query.max = max;
    }
    Vec::F chunk = Vec::zero();
    for (int v = 0; v < n_vectors; ++v) {
        float* at = scores + v * Vec::kLanes;
        const Vec::F weights = exp_of(Vec::sub(Vec::load(at), Vec::set1(query.max)));
        chunk = Vec::add(chunk, weights);
        Vec::store(at, weights);
    }
    Vec::store(query.total, Vec::add(total, chunk));
}

template <class Cached, int Q, int N>
[[gnu::always_inline]] inline void add_columns(const Query* queries, const uint8_t* const* values,
                                               int64_t d, int begin, int end,
                                               float (*weights)[kChunkSpace]) {
    Vec::F acc[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < N; ++v) acc[i][v] = Vec::load(queries[i].chunk + d + v * Vec::kLanes);
    }
    for (int j = begin; j < end; ++j) {
        Vec::F row[N];
#pragma GCC unroll 8
        for (int v = 0; v < N; ++v) {
            row[v] = Cached::load(values[j] + Cached::kBytes * (d + v * Vec::kLanes));
        }
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
            const Vec::F weight = Vec::set1(weights[i][j]);
#pragma GCC unroll 8
            for (int v = 0; v < N; ++v) acc[i][v] = Vec::fma(weight, row[v], acc[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < N; ++v) Vec::store(queries[i].chunk + d + v * Vec::kLanes, acc[i][v]);
    }
}

// Adds the weighted value rows of the chunk's positions [begin, end).
template <class Cached, int Q>
inline void add_values(const AttentionTask& task, const Query* queries,
                       const uint8_t* const* values, int begin, int end,
                       float (*weights)[kChunkSpace]) {
    constexpr int kStep = Vec::kScoreVectors * Vec::kLanes;
    const int64_t width = task.cache.value_stride();
    int64_t d = 0;
    for (; d + kStep <= width; d += kStep) {
        add_columns<Cached, Q, Vec::kScoreVectors>(queries, values, d, begin, end, weights);
    }
    for (; d < width; d += Vec::kLanes) {
        add_columns<Cached, Q, 1>(queries, values, d, begin, end, weights);
    }
}

// Adds the chunk's sum to that of the chunks before. Two levels of sums keep the rounding errors of
// long contexts small.
inline void finish_chunk(const AttentionTask& task, Query& query) {
    for (int64_t d = 0; d < task.cache.value_stride(); d += Vec::kLanes) {
        Vec::store(query.sum + d, Vec::add(Vec::load(query.sum + d), Vec::load(query.chunk + d)));
        Vec::store(query.chunk + d, Vec::zero());
    }
}

// A chunk of positions: where its keys and values lie.
struct Chunk {
    int begin, end;
    KeyVector keys[kScoreChunk];
    int n_vectors;
    const uint8_t* values[kScoreChunk];
    float value_scales[kChunkSpace];  // where the cache has them
};

template <class Cached>
void find_chunk(const AttentionTask& task, Chunk& chunk) {
    const int block_size = task.cache.block_size;
    chunk.n_vectors = key_vectors<Cached>(task, chunk.begin, chunk.end, chunk.keys);
    for (int p = chunk.begin; p < chunk.end; ++p) {
        const uint8_t* head =
            task.values + task.block_table[p / block_size] * task.value_block_stride;
        const int offset = p % block_size;
        chunk.values[p - chunk.begin] =
            head + Cached::kBytes * offset * task.cache.value_stride();
        if constexpr (Cached::kScaled) {
            std::memcpy(chunk.value_scales + (p - chunk.begin),
                        head + task.cache.value_scales() + 4 * offset, sizeof(float));
        }
    }
}

// Asks for a chunk's keys and values ahead of their use. Blocks are scattered, which no processor
// foresees; a single query would wait for each.
inline void prefetch_chunk(const AttentionTask& task, int begin, int end) {
    const int block_size = task.cache.block_size;
    for (int block = begin / block_size; block * block_size < end; ++block) {
        const uint8_t* keys = task.keys + task.block_table[block] * task.key_block_stride;
        const uint8_t* values = task.values + task.block_table[block] * task.value_block_stride;
        for (int64_t at = 0; at < task.cache.keys(); at += 64) __builtin_prefetch(keys + at);
        for (int64_t at = 0; at < task.cache.values(); at += 64) __builtin_prefetch(values + at);
    }
}

// Q queries and one chunk.
template <class Cached, int Q>
inline void chunk_of(const AttentionTask& task, Query* queries, const Chunk& chunk) {
    const int begin = chunk.begin, end = chunk.end;
    float scores[Q][kChunkSpace];
    all_scores<Cached, Q>(task, queries, chunk.keys, chunk.n_vectors, scores);
    int seen[Q], shared = end - begin;
    for (int i = 0; i < Q; ++i) {
        const int limit = queries[i].limit < end ? queries[i].limit : end;
        seen[i] = limit > begin ? limit - begin : 0;
        shared = seen[i] < shared ? seen[i] : shared;
        if (seen[i] == 0) continue;
        softmax_step(task, queries[i], scores[i], seen[i]);
        if constexpr (Cached::kScaled) {
            for (int j = 0; j < seen[i]; ++j) scores[i][j] *= chunk.value_scales[j];
        }
    }
    add_values<Cached, Q>(task, queries, chunk.values, 0, shared, scores);
    for (int i = 0; i < Q; ++i) {
        if (seen[i] > shared) {
            add_values<Cached, 1>(task, queries + i, chunk.values, shared, seen[i], scores + i);
        }
        finish_chunk(task, queries[i]);
    }
}

template <class Cached>
void attend_in(const AttentionTask& task) {
    Query queries[kMaxQueries];
    const int n_queries = task.n_rows * task.n_heads;
    const int64_t width = task.cache.value_stride(), state = 2 * width + Vec::kLanes;
    for (int i = 0; i < n_queries; ++i) {
        const int64_t row = i / task.n_heads, head = i % task.n_heads;
        float* scratch = task.scratch + i * state;
        queries[i] = {task.q + row * task.q_stride + head * task.cache.head_dim,
                      task.out + row * task.out_stride + head * task.cache.head_dim,
                      scratch,
                      scratch + width,
                      scratch + 2 * width,
                      -kInfinity,
                      task.first_position + static_cast<int>(row) + 1};
        std::memset(scratch, 0, state * sizeof(float));
    }
    const int n_positions = task.first_position + task.n_rows;
    Chunk chunk;
    for (chunk.begin = 0; chunk.begin < n_positions; chunk.begin += kScoreChunk) {
        const int left = n_positions - chunk.begin;
        chunk.end = chunk.begin + (left < kScoreChunk ? left : kScoreChunk);
        find_chunk<Cached>(task, chunk);
        const int next = n_positions - chunk.end;
        if (n_queries <= kFewQueries && next > 0) {
            prefetch_chunk(task, chunk.end, chunk.end + (next < kScoreChunk ? next : kScoreChunk));
        }
        int i = 0;
        for (; i + 4 <= n_queries; i += 4) chunk_of<Cached, 4>(task, queries + i, chunk);
        for (; i < n_queries; ++i) chunk_of<Cached, 1>(task, queries + i, chunk);
    }
    for (int i = 0; i < n_queries; ++i) {
        const float total = sum_of(Vec::load(queries[i].total));
        for (int d = 0; d < task.cache.head_dim; ++d) {
            queries[i].out[d] = queries[i].sum[d] / total;
        }
    }
}

void attend(const AttentionTask& task) {
    switch (task.cache.format) {
        case CacheFormat::f32: return attend_in<CachedF32>(task);
        case CacheFormat::f16: return attend_in<CachedF16>(task);
        case CacheFormat::q8_0: return attend_in<CachedQ8>(task);
    }
}

}  // namespace
}  // namespace codellama
