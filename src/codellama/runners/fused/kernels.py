"""The steps of a decoder layer that a device may do in one go, and their plain body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codellama.model.transformer import Rope
from codellama.runners.fused import reference
from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Paged
from codellama.runners.fused.weights import Weight


@dataclass
class Stream:
    """The residual stream: `x` [T, D], to which `delta` is still to be added."""

    x: Tensor
    delta: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """An RMS norm's gain [D] and the number that keeps its root from zero."""

    gain: Tensor
    eps: float


class Kernels(Protocol):
    """The arithmetic of the fused layers. Each may change the stream it is given, and its x."""

    def project(self, stream: Stream, norm: Norm, weight: Weight) -> Tensor:
        """The norm of the stream times a weight, [T, N]."""
        ...

    def gate(self, stream: Stream, norm: Norm, weight: Weight) -> Tensor:
        """silu(gate) * up [T, F] of the norm of the stream; the weight has gates, then ups."""
        ...

    def add(self, stream: Stream, x: Tensor, weight: Weight) -> None:
        """Adds x times a weight to the stream, now or by leaving it as `delta`."""
        ...

    def norm(self, stream: Stream, norm: Norm) -> Tensor:
        """The norm of the stream, [T, D]."""
        ...

    def product(self, x: Tensor, weight: Weight) -> Tensor:
        """x [T, K] times a weight, [T, N]."""
        ...

    def rotate_and_store(
        self, qkv: Tensor, rope: Rope, slots: Tensor, cache: LayerCache, n_heads: int
    ) -> Tensor:
        """Stores keys and values, turned; returns the queries [T, H, E], turned."""
        ...

    def attend(self, q: Tensor, cache: LayerCache, paged: Paged) -> Tensor:
        """Causal attention over the paged cache, [T, H, E]."""
        ...


class PlainKernels:
    """Every step as `reference` says it."""

    def project(self, stream: Stream, norm: Norm, weight: Weight) -> Tensor:
        return self.product(self.norm(stream, norm), weight)

    def gate(self, stream: Stream, norm: Norm, weight: Weight) -> Tensor:
        return reference.silu_and_multiply(self.project(stream, norm, weight))

    def add(self, stream: Stream, x: Tensor, weight: Weight) -> None:
        stream.delta = self.product(x, weight)

    def norm(self, stream: Stream, norm: Norm) -> Tensor:
        out = reference.add_and_norm(stream.x, stream.delta, norm.gain, norm.eps)
        stream.delta = None
        return out

    def product(self, x: Tensor, weight: Weight) -> Tensor:
        return torch.cat([reference.product(x, matrix) for matrix in weight], dim=1)

    def rotate_and_store(
        self, qkv: Tensor, rope: Rope, slots: Tensor, cache: LayerCache, n_heads: int
    ) -> Tensor:
        return reference.rotate_and_store(qkv, *rope, slots, cache, n_heads)

    def attend(self, q: Tensor, cache: LayerCache, paged: Paged) -> Tensor:
        out = torch.empty_like(q)
        if paged.rows is not None:
            reference.attend_rows(q, cache, paged.rows, paged.tables, paged.block_size, out)
        if paged.tiles is not None:
            reference.attend_tiles(q, cache, paged.tiles, paged.tables, paged.block_size, out)
        return out
