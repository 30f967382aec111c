"""One training step over several processes.

`torchrun` starts one process for each device; they all draw the same rows and each computes its own
share. Parameters, gradients and the optimiser's state are sharded over the processes (FSDP2,
`fully_shard`): a block's weights are gathered when it is computed and dropped behind it. FSDP2
averages gradients where we want their sum, the loss being divided by the tokens of the whole step
already: who calls `backward` multiplies by the number of processes first.

The order of the passes over a finished model is: recomputation, compilation, sharding.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from codellama.model.transformer import Transformer


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every process's `value`, in every process."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes: for decisions that all must take together."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.size > 1 else flag

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world() -> Iterator[World]:
    """The processes that `torchrun` started, or this one alone.

    A group that is there already, as Ray Train makes one, is used and left as it is.
    """
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        dist.barrier()
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    dist.init_process_group("gloo")
    try:
        yield World(dist.get_rank(), size)
        dist.barrier()  # one that leaves early takes its connections away from the others
    finally:
        dist.destroy_process_group()


def recompute_blocks(model: Transformer) -> None:
    """Keeps no activations inside a block; its backward pass computes them once more."""
    for block in model.layers:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


class Objective(nn.Module):
    """A loss as a module, so that what shards modules sees every use of the parameters."""

    def __init__(self, model: Transformer, loss: Any) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of a batch, by the function given."""
        return self._loss(self.model, *batch)  # type: ignore[no-any-return]


def shard(objective: Objective, size: int) -> None:
    """Shards the objective's parameters over `size` processes, each block by itself."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (size,))
    for module in (*objective.model.layers, objective):
        fully_shard(module, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor`, which every process has whole, sharded as `model` is."""
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
