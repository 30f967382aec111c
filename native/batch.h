// One step's work, and whether it can be run.
#pragma once

#include <cstdint>
#include <span>

namespace codellama {

// T tokens of S sequences lie end to end; M is the width of the block tables. Position p of a
// sequence s lives in slot p % block_size of block block_tables[s][p / block_size].
struct Batch {
    std::span<const int32_t> tokens;        // [T]
    std::span<const int32_t> positions;     // [T], consecutive within a sequence
    std::span<const int32_t> seq_starts;    // [S + 1], offsets into tokens
    std::span<const int32_t> context_lens;  // [S], cached tokens including this step's
    std::span<const int32_t> block_tables;  // [S, M], padded with -1
    int64_t table_width;                    // M
    std::span<const int32_t> logit_rows;    // [R], offsets into tokens

    int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
    int64_t n_sequences() const { return static_cast<int64_t>(context_lens.size()); }
    const int32_t* table(int64_t sequence) const {
        return block_tables.data() + sequence * table_width;
    }
};

// Throws std::invalid_argument, with a sentence, when a batch contradicts itself, names a token or
// block that does not exist, or would have two sequences write to one block.
void check(const Batch& batch, int vocab_size, int n_blocks, int block_size);

}  // namespace codellama
