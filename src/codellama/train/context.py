"""Rows shared by several processes: each has a stretch of every row and sees the keys before it.

Keys and values are gathered for attention; on the way back each process gets the gradients that all
of them have for its own. Positions and documents are whole in every process, so nothing else of the
model needs to know.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from codellama.train.parallel import World


class Context:
    """This process's stretch of the rows."""

    def __init__(self, world: World) -> None:
        self.rank, self.size = world.context_rank, world.context
        self._group = None
        if self.size > 1:  # every process must take part in making every group
            for first in range(world.size):
                other = World(first, world.size, world.tensor, world.context)
                ranks = other.context_ranks()
                if ranks[0] == first:
                    group = dist.new_group(ranks)
                    if world.rank in ranks:
                        self._group = group

    def stretch(self, length: int) -> slice:
        """Which positions of rows of `length` are this process's."""
        size = length // self.size
        return slice(self.rank * size, (self.rank + 1) * size)

    def gather(self, keys: Tensor) -> Tensor:
        """[B, heads, L / size, E] of every process -> [B, heads, L, E]; gradients find back."""
        gathered: Tensor = _Gather.apply(keys, self._group, self.rank, self.size)  # type: ignore[no-untyped-call]  # torch's own, untyped
        return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, group: Any, rank: int, size: int) -> Tensor:
        ctx.group, ctx.rank, ctx.size = group, rank, size
        parts = [torch.empty_like(keys, memory_format=torch.contiguous_format) for _ in range(size)]
        dist.all_gather(parts, keys.contiguous(), group=group)
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        slope = slope.contiguous()
        dist.all_reduce(slope, group=ctx.group)
        return slope.chunk(ctx.size, dim=2)[ctx.rank], None, None, None
