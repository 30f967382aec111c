#include "batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace codellama {

namespace {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
    const auto text = [](const auto& part) {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
            return std::to_string(part);
        } else {
            return std::string(part);
        }
    };
    throw std::invalid_argument((text(parts) + ...));
}

void check_sequence(const Batch& batch, int64_t s, int n_blocks, int block_size) {
    const int64_t begin = batch.seq_starts[s], end = batch.seq_starts[s + 1];
    const int64_t context = batch.context_lens[s];
    if (context < end - begin) {
        refuse("sequence ", s, " has ", end - begin, " tokens in this step but a context of ",
               context);
    }
    for (int64_t t = begin; t < end; ++t) {
        if (batch.positions[t] != context - (end - t)) {
            refuse("token ", t, " of sequence ", s, " is at position ", batch.positions[t],
                   ", expected ", context - (end - t), " for a context of ", context);
        }
    }
    const int64_t needed = (context + block_size - 1) / block_size;
    if (needed > batch.table_width) {
        refuse("sequence ", s, " needs ", needed, " blocks and its table has ", batch.table_width);
    }
    for (int64_t i = 0; i < needed; ++i) {
        const int32_t block = batch.table(s)[i];
        if (block < 0 || block >= n_blocks) {
            refuse("entry ", i, " of sequence ", s, "'s block table is ", block, ", and there are ",
                   n_blocks, " blocks");
        }
    }
}

}  // namespace

void check(const Batch& batch, int vocab_size, int n_blocks, int block_size) {
    const int64_t n_tokens = batch.n_tokens(), n_sequences = batch.n_sequences();
    if (n_tokens == 0) refuse("the batch has no tokens");
    if (static_cast<int64_t>(batch.positions.size()) != n_tokens) {
        refuse("there are ", n_tokens, " tokens and ", batch.positions.size(), " positions");
    }
    if (static_cast<int64_t>(batch.seq_starts.size()) != n_sequences + 1) {
        refuse("there are ", n_sequences, " context lengths, so seq_starts needs ", n_sequences + 1,
               " entries and has ", batch.seq_starts.size());
    }
    if (static_cast<int64_t>(batch.block_tables.size()) != n_sequences * batch.table_width) {
        refuse("there are ", n_sequences, " context lengths and ", batch.block_tables.size(),
               " block table entries in rows of ", batch.table_width);
    }
    if (batch.seq_starts[0] != 0 || batch.seq_starts[n_sequences] != n_tokens) {
        refuse("seq_starts runs from ", batch.seq_starts[0], " to ", batch.seq_starts[n_sequences],
               ", expected 0 to ", n_tokens);
    }
    for (int64_t s = 0; s < n_sequences; ++s) {
        if (batch.seq_starts[s + 1] <= batch.seq_starts[s]) {
            refuse("sequence ", s, " has no tokens: it runs from ", batch.seq_starts[s], " to ",
                   batch.seq_starts[s + 1]);
        }
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
        if (batch.tokens[t] < 0 || batch.tokens[t] >= vocab_size) {
            refuse("token ", t, " has the id ", batch.tokens[t], ", and the vocabulary has ",
                   vocab_size);
        }
    }
    for (const int32_t row : batch.logit_rows) {
        if (row < 0 || row >= n_tokens) {
            refuse("logit row ", row, " is outside the ", n_tokens, " tokens");
        }
    }
    std::vector<int32_t> written;
    for (int64_t s = 0; s < n_sequences; ++s) {
        check_sequence(batch, s, n_blocks, block_size);
        const int64_t first = batch.context_lens[s] -
                              (batch.seq_starts[s + 1] - batch.seq_starts[s]);
        for (int64_t i = first / block_size; i * block_size < batch.context_lens[s]; ++i) {
            written.push_back(batch.table(s)[i]);
        }
    }
    std::sort(written.begin(), written.end());
    const auto twice = std::adjacent_find(written.begin(), written.end());
    if (twice != written.end()) refuse("block ", *twice, " would be written twice in one step");
}

}  // namespace codellama
