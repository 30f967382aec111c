"""A step's work as the flat arrays a runner takes."""

from __future__ import annotations

from collections.abc import Sequence as List

import numpy as np

from codellama.engine.scheduler import Work
from codellama.runners import Batch


def flatten(work: List[Work]) -> Batch:
    """Lays the tokens of a step end to end; asks for logits where a token is due."""
    n_tokens = sum(item.n_tokens for item in work)
    n_blocks = max(len(item.sequence.blocks) for item in work)
    tokens = np.empty(n_tokens, np.int32)
    positions = np.empty(n_tokens, np.int32)
    starts = np.zeros(len(work) + 1, np.int32)
    context_lens = np.empty(len(work), np.int32)
    tables = np.full((len(work), n_blocks), -1, np.int32)
    rows: list[int] = []
    begin = 0
    for i, item in enumerate(work):
        sequence, first = item.sequence, item.sequence.n_cached
        end, last = begin + item.n_tokens, first + item.n_tokens
        tokens[begin:end] = sequence.tokens[first:last]
        positions[begin:end] = np.arange(first, last)
        context_lens[i] = last
        tables[i, : len(sequence.blocks)] = sequence.blocks
        if item.draws:
            rows.append(end - 1)
        starts[i + 1] = begin = end
    return Batch(
        tokens=tokens,
        positions=positions,
        seq_starts=starts,
        context_lens=context_lens,
        block_tables=tables,
        logit_rows=np.array(rows, np.int32),
    )
