"""Rows -> tensors -> the loss of a model that a recipe describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.model.transformer import AttentionMetadata, Transformer
from codellama.train.attention import Documents
from codellama.train.data import Row
from codellama.train.loss import summed_loss
from codellama.train.recipe import Recipe, Stage

LONG_ROW = 1024  # from here on documents are attended to one by one, where nothing is compiled


def model_config(recipe: Recipe, stage: Stage) -> ModelConfig:
    """The model of a recipe with the context and rotary base of one of its stages."""
    return ModelConfig(
        **asdict(recipe.model), max_seq_len=stage.row_length, rope_theta=stage.rope_theta
    )


class Stretches(Protocol):
    """How processes share rows; see `codellama.train.context`."""

    @property
    def size(self) -> int: ...
    def stretch(self, length: int) -> slice: ...
    def gather(self, keys: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RowBatch:
    """Rows as tensors: tokens, positions and labels [B * L], and who may look at whom.

    One of three is there: `documents`; `mask` [B, 1, L, L]; or `starts`, which bound documents in
    the flat batch.
    With `gather`, L stands for a stretch of every row, and `mask` is [B, 1, L, whole row].
    """

    tokens: Tensor
    positions: Tensor
    labels: Tensor
    row_length: int
    mask: Tensor | None = None
    starts: tuple[int, ...] = ()
    gather: Callable[[Tensor], Tensor] | None = None
    documents: Documents | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        device: torch.device | None = None,
        *,
        one_by_one: bool | None = None,
        context: Stretches | None = None,
    ) -> RowBatch:
        """The batch of some rows on `device` (default: the CPU).

        Rows of several documents are mostly masked away, so on a CPU attention is that of
        `Documents`, and elsewhere, for rows of `LONG_ROW` on, it runs over one document after the
        other; `one_by_one` asks for this, or for the mask. With a `context` of several processes
        the batch holds this one's stretch of every row, and there is a mask.
        """
        device = device or torch.device("cpu")
        length = len(rows[0].tokens)
        tokens, positions, labels, document = (
            torch.from_numpy(np.stack([getattr(row, name) for row in rows])).to(device)
            for name in ("tokens", "positions", "labels", "document")
        )
        is_shared = context is not None and context.size > 1
        mine = context.stretch(length) if context is not None else slice(length)
        mask: Tensor | None = None
        starts: tuple[int, ...] = ()
        documents: Documents | None = None
        if not is_shared and one_by_one is None and device.type == "cpu":
            documents = Documents(_starts(rows))
        elif not is_shared and (one_by_one if one_by_one is not None else length >= LONG_ROW):
            starts = _starts(rows)
        else:
            mask = (document[:, :, None] == document[:, None, :]).tril()[:, None, mine]
        return cls(
            tokens[:, mine].flatten(),
            positions[:, mine].flatten(),
            labels[:, mine].flatten(),
            len(range(length)[mine]),
            mask,
            starts,
            context.gather if context is not None and is_shared else None,
            documents,
        )

    def attention(self) -> AttentionMetadata:
        """What the model needs to know of it."""
        if self.documents is not None:
            return AttentionMetadata(starts=(), within=self.documents)
        if self.mask is None:
            return AttentionMetadata(starts=self.starts)
        return AttentionMetadata(
            starts=(), row_length=self.row_length, mask=self.mask, whole_rows=self.gather
        )


def batch_loss(model: Transformer, batch: RowBatch) -> Tensor:
    """The loss of rows, summed over what is learned from."""
    hidden = model(batch.tokens, batch.positions, batch.attention())
    return summed_loss(hidden, model.lm_head.weight, batch.labels)


def _starts(rows: Sequence[Row]) -> tuple[int, ...]:
    """Where the documents of rows that lie end to end begin, and where the last one ends."""
    length, starts = len(rows[0].tokens), [0]
    for i, row in enumerate(rows):
        inner = np.flatnonzero(np.diff(row.document)) + 1
        starts += [i * length + int(at) for at in inner] + [(i + 1) * length]
    return tuple(starts)
