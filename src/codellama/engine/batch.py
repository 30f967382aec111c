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
    width = max(len(share.blocks) for share in shares)
    tokens: list[int] = []
    positions: list[int] = []
    starts = [0]
    context_lens: list[int] = []
    rows: list[int] = []
    for share in shares:
        last = share.first + len(share.tokens)
        tokens += share.tokens
        positions += range(share.first, last)
        context_lens.append(last)
        end = len(tokens)
        rows += range(end - share.n_logits, end)
        starts.append(end)
    # One array of everything costs less than a little one for each of a hundred sequences.
    tables = [list(share.blocks) + [-1] * (width - len(share.blocks)) for share in shares]
    return Batch(
        tokens=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        seq_starts=np.array(starts, np.int32),
        context_lens=np.array(context_lens, np.int32),
        block_tables=np.array(tables, np.int32).reshape(len(shares), width),
        logit_rows=np.array(rows, np.int32),
    )
