"""One protocol, two bodies: the native CPU core and PyTorch.

A runner runs the model over one flat batch: sequences lie end to end in a single row of tokens and
a few small arrays say where each begins and where its keys and values live.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codellama.model.config import ModelConfig

Int32 = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's work. T tokens, S sequences, M blocks at most per sequence, R logit rows.

    The tokens of a sequence are consecutive positions that end at `context_lens[s] - 1`. Position p
    of sequence s lives in cache slot `block_tables[s, p // block_size] * block_size + p %
    block_size`; a token at position p attends to positions 0..p of its own sequence, so prefill,
    chunked prefill and decode are the same thing.
    """

    tokens: Int32  # [T]
    positions: Int32  # [T]
    seq_starts: Int32  # [S + 1], offsets into tokens
    context_lens: Int32  # [S], cached tokens including this step's
    block_tables: Int32  # [S, M], padded with -1
    logit_rows: Int32  # [R], offsets into tokens


class Runner(Protocol):
    """Runs the model over one flat batch, and owns the paged key/value cache."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def n_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Stores the batch's keys and values and returns logits [R, vocab] of `logit_rows`."""
        ...
