"""Attention within documents on a CPU: little ones are not computed as if they were rows.

A row holds several documents, and most of a mask over it says no. PyTorch's kernel computes what is
masked all the same, and its way back hardly gets faster with shorter sequences. Here documents of
about one size are laid side by side, the products of a group are one batched call each, and
probabilities are kept for the way back, which no longer has to find them out again. Positions go
to their places and come back by copies of whole vectors, each exactly once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SMALLEST = 32  # positions; shorter documents are laid out as long as this
_LARGEST = 768  # longer ones are left to PyTorch's kernel, which is as fast there


class Documents:
    """Where the documents of a flat batch lie; `attend` lets each of them see itself.

    `starts` are S + 1 offsets into the flat batch, as in `AttentionMetadata`.
    """

    def __init__(self, starts: Sequence[int]) -> None:
        spans = [(begin, end) for begin, end in pairwise(starts) if end > begin]
        self._long = [(begin, end) for begin, end in spans if end - begin > _LARGEST]
        short = [(begin, end) for begin, end in spans if end - begin <= _LARGEST]
        self._short: Tensor | None = None  # positions of short ones; None: all there are
        self._order: Tensor | None = None  # where each position is, behind short and long ones
        if self._long:
            self._short, long = (
                torch.cat([torch.arange(begin, end) for begin, end in some] or [torch.arange(0)])
                for some in (short, self._long)
            )
            self._order = torch.cat((self._short, long)).argsort()
        by_size: dict[int, list[tuple[int, int]]] = defaultdict(list)
        at = 0  # among positions of short ones
        for begin, end in short:
            by_size[_padded(end - begin)].append((at, at + end - begin))
            at += end - begin
        self._groups = [_Group(size, places) for size, places in by_size.items()]
        self._back, laid = torch.empty(at, dtype=torch.int64), 0
        for group in self._groups:
            rows = laid + torch.arange(group.positions.numel()).view_as(group.positions)
            self._back[group.positions[group.is_real]] = rows[group.is_real]
            laid += rows.numel()

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's own, untyped
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of each document: q [T, H, E], k and v [T, K, E] -> [T, H, E]."""
        n_heads = q.shape[1]
        if k.shape[1] != n_heads:
            k, v = (t.repeat_interleave(n_heads // t.shape[1], dim=1) for t in (k, v))
        if self._order is None or self._short is None:
            return self._grouped(q, k, v)
        outs, short = [], self._short
        if self._groups:
            outs.append(self._grouped(*(t.index_select(0, short) for t in (q, k, v))))
        for begin, end in self._long:
            one, two, three = (t[begin:end].transpose(0, 1)[None] for t in (q, k, v))
            out = F.scaled_dot_product_attention(one, two, three, is_causal=True)
            outs.append(out[0].transpose(0, 1))
        return torch.cat(outs).index_select(0, self._order)

    def _grouped(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = _Attend.apply(q, k, v, self._groups, self._back)  # type: ignore[no-untyped-call]  # torch's own, untyped
        return out


class _Group:
    """Documents laid out to one `size`: which position stands where, and which places are empty."""

    def __init__(self, size: int, places: Sequence[tuple[int, int]]) -> None:
        self.size = size
        begins, ends = (torch.tensor(side)[:, None] for side in zip(*places, strict=True))
        inner = torch.arange(size)[None]
        self.is_real = inner < ends - begins  # [N, size]
        self.positions = torch.where(self.is_real, begins + inner, begins)

    def rows(self, values: Tensor) -> Tensor:
        """values [T, H, E] -> [N * H, size, E]; empty places hold some other position's."""
        n_heads, width = values.shape[1:]
        laid = values.index_select(0, self.positions.flatten())
        return laid.view(-1, self.size, n_heads, width).transpose(1, 2).flatten(0, 1)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: list[_Group], back: Tensor
    ) -> Tensor:
        outs, kept, scale = [], [], q.shape[-1] ** -0.5
        with torch.autocast("cpu", enabled=False):
            for group in groups:
                queries, keys, values = (group.rows(t) for t in (q, k, v))
                said = _softmax(queries.float(), keys.float(), scale).to(q.dtype)
                outs.append(_flat(torch.bmm(said, values), q.shape[1]))
                kept += [queries, keys, values, said]
        ctx.save_for_backward(*kept)
        ctx.groups, ctx.back, ctx.scale = groups, back, scale
        return torch.cat(outs).index_select(0, back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        n_heads, kept = slope.shape[1], iter(ctx.saved_tensors)
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        with torch.autocast("cpu", enabled=False):
            for group in ctx.groups:
                queries, keys, values, said = (next(kept) for _ in range(4))
                out = group.rows(slope)
                out = out.view(-1, n_heads, *out.shape[1:])
                out = out.masked_fill(~group.is_real[:, None, :, None], 0).flatten(0, 1)
                d_said = torch.bmm(out, values.mT)
                d_scores = torch.ops.aten._softmax_backward_data(d_said, said, -1, said.dtype)
                parts = (
                    torch.bmm(d_scores, keys).mul_(ctx.scale),
                    torch.bmm(d_scores.mT, queries).mul_(ctx.scale),
                    torch.bmm(said.mT, out),
                )
                for to, part in zip(found, parts, strict=True):
                    to.append(_flat(part, n_heads))
        slopes = [torch.cat(parts).index_select(0, ctx.back) for parts in found]
        return (*slopes, None, None)


def _softmax(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Causal probabilities of q and k [B, L, E], as [B, L, L]."""
    size = q.shape[1]
    never = torch.full((size, size), -torch.inf).triu_(1)
    return torch.softmax(torch.baddbmm(never, q, k.mT, alpha=scale), -1)


def _flat(laid: Tensor, n_heads: int) -> Tensor:
    """[N * H, size, E] -> [N * size, H, E]."""
    _, size, width = laid.shape
    return laid.view(-1, n_heads, size, width).transpose(1, 2).flatten(0, 1)


def _padded(size: int) -> int:
    """The next power of two, or one and a half times one, from `_SMALLEST` on."""
    power = _SMALLEST
    while power < size:
        if power * 3 // 2 >= size:
            return power * 3 // 2
        power *= 2
    return power
