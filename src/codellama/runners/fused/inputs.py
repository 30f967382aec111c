"""A flat batch as what attention over a paged cache needs to know, in arrays and on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codellama.runners import Batch

Ints = NDArray[np.int32]

FEW = 8
"""Up to so many tokens of a sequence are attended for one by one, more in tiles."""

TILE = 128
"""Tokens of a sequence that are attended for together."""


@dataclass(frozen=True)
class Rows:
    """Tokens that are attended for one by one, each [N] in int32.

    `token` is where one lies in the batch, `sequence` its row of the block tables, and `length` how
    many positions it sees: 0 for one that is only there to fill the batch.
    """

    token: Tensor
    sequence: Tensor
    length: Tensor


@dataclass(frozen=True)
class Tiles:
    """Runs of up to `width` tokens of one sequence, each [N] in int32.

    `token` is where a run begins in the batch, `count` its tokens, `sequence` its row of the block
    tables, `first` the position of its first token.
    """

    token: Tensor
    count: Tensor
    sequence: Tensor
    first: Tensor
    width: int


@dataclass(frozen=True)
class Chunks:
    """The sequences behind `Tiles` as the host knows them, for libraries that plan there.

    `tokens` are where their tokens lie in the batch, sequence after sequence, `starts` [n + 1]
    where each begins among them; `blocks` their blocks up to the last token, `block_starts` [n + 1]
    where each begins among those; `lengths` [n] the positions that each sees at its last token.
    """

    tokens: Ints
    starts: Ints
    blocks: Ints
    block_starts: Ints
    lengths: Ints


@dataclass(frozen=True)
class Paged:
    """What the fused layers know of a batch: T tokens, S sequences, M blocks at most of one.

    Each token is of either `rows` or `tiles`.
    """

    slots: Tensor  # [T] int32, where keys and values are stored
    tables: Tensor  # [S, M] int32
    block_size: int
    rows: Rows | None = None
    tiles: Tiles | None = None
    chunks: Chunks | None = None


@dataclass(frozen=True)
class Flat:
    """A batch's numbers by token, [T] in int32 each, and where the others lie."""

    tokens: Ints
    positions: Ints
    slots: Ints
    sequence: Ints
    tables: Ints


def flat(batch: Batch, block_size: int) -> Flat:
    """Each token's slot and sequence."""
    counts = np.diff(batch.seq_starts)
    sequence = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    block = batch.block_tables[sequence, batch.positions // block_size]
    slots = block * np.int32(block_size) + batch.positions % np.int32(block_size)
    return Flat(batch.tokens, batch.positions, slots, sequence, batch.block_tables)


def paged(batch: Batch, found: Flat, block_size: int, device: torch.device) -> Paged:
    """The batch on a device, every sequence in the way that suits its number of tokens."""
    rows, tiles, long = [], [], []
    for s, (a, b) in enumerate(pairwise(batch.seq_starts.tolist())):
        first = int(batch.context_lens[s]) - (b - a)
        if b - a <= FEW:
            rows += [(t, s, first + t - a + 1) for t in range(a, b)]
        else:
            long.append(s)
            tiles += [(t, min(TILE, b - t), s, first + t - a) for t in range(a, b, TILE)]

    def columns(lines: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
        table = torch.from_numpy(np.array(lines, np.int32).T.copy())
        return table.to(device).unbind(0)

    return Paged(
        slots=torch.from_numpy(found.slots).to(device),
        tables=torch.from_numpy(np.ascontiguousarray(found.tables)).to(device),
        block_size=block_size,
        rows=Rows(*columns(rows)) if rows else None,
        tiles=_tiles(*columns(tiles)) if tiles else None,
        chunks=_chunks(batch, long, block_size) if tiles else None,
    )


def _chunks(batch: Batch, sequences: list[int], block_size: int) -> Chunks:
    spans = [range(*batch.seq_starts[s : s + 2].tolist()) for s in sequences]
    lengths = batch.context_lens[sequences]
    n_blocks = -(-lengths // block_size)
    blocks = [batch.block_tables[s, :n] for s, n in zip(sequences, n_blocks, strict=True)]
    return Chunks(
        tokens=np.array([t for span in spans for t in span], np.int32),
        starts=_starts([len(span) for span in spans]),
        blocks=np.concatenate(blocks),
        block_starts=_starts(n_blocks.tolist()),
        lengths=lengths,
    )


def _starts(counts: list[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _tiles(token: Tensor, count: Tensor, sequence: Tensor, first: Tensor) -> Tiles:
    return Tiles(token, count, sequence, first, TILE)
