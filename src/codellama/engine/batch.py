"""A step's work as the flat arrays a runner takes."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np

from codellama.runners import Batch


@dataclass(frozen=True, slots=True)
class Share:
    """What one line of tokens has computed in a step.

    `tokens` stand at the positions from `first` on; keys and values of everything before them are
    in `blocks`, which have room for theirs too. Logits are asked for after the last `n_logits`.
    """

    tokens: List[int]
    first: int
    blocks: List[int]
    n_logits: int


def flatten(shares: List[Share]) -> Batch:
    """Lays the tokens of a step end to end; asks for logits in the order of the shares."""
    n_tokens = sum(len(share.tokens) for share in shares)
    n_blocks = max(len(share.blocks) for share in shares)
    tokens = np.empty(n_tokens, np.int32)
    positions = np.empty(n_tokens, np.int32)
    starts = np.zeros(len(shares) + 1, np.int32)
    context_lens = np.empty(len(shares), np.int32)
    tables = np.full((len(shares), n_blocks), -1, np.int32)
    rows: list[int] = []
    begin = 0
    for i, share in enumerate(shares):
        end, last = begin + len(share.tokens), share.first + len(share.tokens)
        tokens[begin:end] = share.tokens
        positions[begin:end] = np.arange(share.first, last)
        context_lens[i] = last
        tables[i, : len(share.blocks)] = share.blocks
        rows.extend(range(end - share.n_logits, end))
        starts[i + 1] = begin = end
    return Batch(
        tokens=tokens,
        positions=positions,
        seq_starts=starts,
        context_lens=context_lens,
        block_tables=tables,
        logit_rows=np.array(rows, np.int32),
    )
