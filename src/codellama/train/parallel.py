"""One training step over several processes.

`torchrun` starts one process for each device. They stand in a grid: `tensor` neighbours share every
matrix of the blocks, `context` groups of them share every row, and what is left, `data`, shares the
rows of a step. Parameters, gradients and the optimiser's state are sharded over data and context
(FSDP2, `fully_shard`): a block's weights are gathered when it is computed and dropped behind it.
FSDP2 averages gradients where we want their sum, the loss being divided by the tokens of the whole
step already: who calls `backward` multiplies by the number of shards first.

The order of the passes over a model without storage is: recomputation, compilation, splitting,
sharding; then each process gets the storage of its own part, and no process ever has a whole model.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from codellama.errors import ConfigError
from codellama.model.transformer import Transformer
from codellama.train.batch import RowBatch
from codellama.train.recipe import Recipe


@dataclass(frozen=True)
class World:
    """Which process this is, of how many, and how they stand."""

    rank: int = 0
    size: int = 1
    tensor: int = 1  # neighbours that share matrices
    context: int = 1  # groups of them that share rows

    @property
    def shards(self) -> int:
        """How many processes hold different parts of what is sharded."""
        return self.size // self.tensor

    @property
    def data(self) -> int:
        """How many parts the rows of a step are dealt into."""
        return self.shards // self.context

    @property
    def data_rank(self) -> int:
        """Which of these parts is this process's."""
        return self.rank // (self.tensor * self.context)

    @property
    def context_rank(self) -> int:
        """Which part of every row is this process's."""
        return self.rank // self.tensor % self.context

    @property
    def tensor_rank(self) -> int:
        """Which part of the matrices is this process's."""
        return self.rank % self.tensor

    def context_ranks(self) -> list[int]:
        """The processes this one shares its rows with, in the order of their parts."""
        first = self.data_rank * self.context * self.tensor + self.tensor_rank
        return [first + i * self.tensor for i in range(self.context)]

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every process's `value`, in every process."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def first(self, value: Tensor) -> Tensor:
        """Process 0's `value`, in every process."""
        if self.size > 1:
            dist.broadcast(value, 0)
        return value

    def each(self, value: Tensor) -> list[Tensor]:
        """Every process's `value`, by rank, in every process."""
        if self.size == 1:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(found, value)
        return found

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes: for decisions that all must take together."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.size > 1 else flag

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def backend(device: str) -> str:
    """What processes on such devices talk by; what they agree on lies in the CPU's memory."""
    return "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"


@contextmanager
def world(recipe: Recipe) -> Iterator[World]:
    """The processes that `torchrun` started, standing as the recipe says, or this one alone.

    A group that is there already, as Ray Train makes one, is used and left as it is.

    Raises:
        ConfigError: they do not fit the recipe's grid.
    """
    is_given = dist.is_initialized()
    size = dist.get_world_size() if is_given else int(os.environ.get("WORLD_SIZE", "1"))
    n = recipe.tensor_parallel * recipe.context_parallel
    if size % n:
        raise ConfigError(
            f"{recipe.name}: tensor_parallel {recipe.tensor_parallel} times context_parallel "
            f"{recipe.context_parallel} does not divide {size} processes",
            hint="start a multiple of them: torchrun --nproc-per-node",
        )
    if size == 1:
        yield World()
        return
    if not is_given:
        dist.init_process_group(
            backend(recipe.device), timeout=timedelta(seconds=recipe.patience_s)
        )
    try:
        yield World(dist.get_rank(), size, recipe.tensor_parallel, recipe.context_parallel)
        dist.barrier()  # one that leaves early takes its connections away from the others
    finally:
        if not is_given:
            dist.destroy_process_group()


def recompute_blocks(model: Transformer) -> None:
    """Keeps no activations inside a block; its backward pass computes them once more."""
    for block in model.layers:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model: Transformer) -> None:
    """Compiles the block that repeats: one compilation serves all layers of a shape."""
    for block in model.layers:
        block.compile(dynamic=False)


class Objective(nn.Module):
    """A loss as a module, so that what shards modules sees every use of the parameters."""

    def __init__(self, model: Transformer, loss: Any) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: RowBatch) -> Tensor:
        """The loss of a batch, by the function given."""
        return self._loss(self.model, batch)  # type: ignore[no-any-return]  # Any in a library's stubs


def shard(objective: Objective, world: World, device: torch.device) -> Callable[[], None]:
    """Splits the objective's matrices and shards its parameters, each block by itself.

    Returns what has to be called after a pass that has no backward: the outermost parameters stay
    whole until one, and an optimiser would take those for the ones to train.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(
        device.type, (world.shards, world.tensor), mesh_dim_names=("shard", "tensor")
    )
    if world.tensor > 1:
        _split(objective.model, mesh["tensor"], world)
    for module in (*objective.model.layers, objective):
        fully_shard(module, mesh=mesh["shard"], shard_placement_fn=_other_side)
    outermost: Any = objective  # a module of FSDP's since
    return lambda: outermost.reshard()


def materialise(model: Transformer, device: torch.device) -> None:
    """Gives a model on the meta device storage for this process's part; values are undefined."""
    model.to_empty(device=device)
    model.tie()  # parameters were made anew, one for each name


def _split(model: Transformer, mesh: DeviceMesh, world: World) -> None:
    """Deals the heads and the inner width of every block to the processes of `mesh`.

    Matrices that widen are cut by output, those that come back by input, so that a block needs two
    sums (Megatron-LM, arXiv 1909.08053). Norms, embedding and head are whole in each.
    """
    cfg = model.cfg
    for name in ("n_heads", "n_kv_heads", "ffn_dim"):
        if getattr(cfg, name) % world.tensor:
            raise ConfigError(
                f"tensor_parallel {world.tensor} does not divide the model's {name} "
                f"of {getattr(cfg, name)}"
            )
    widening = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                "mlp.gate_proj", "mlp.up_proj")  # fmt: skip
    plan: dict[str, Any] = {name: ColwiseParallel() for name in widening}
    plan |= {name: RowwiseParallel() for name in ("self_attn.o_proj", "mlp.down_proj")}
    for block in model.layers:
        parallelize_module(block, mesh, plan, src_data_rank=None)


def _other_side(parameter: nn.Parameter) -> Shard | None:
    """Matrices that are split by rows are sharded by columns: a side is cut once."""
    if isinstance(parameter, DTensor) and parameter.placements[0] == Shard(0):
        return Shard(1)
    return None


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scales gradients down to a norm of `limit`; gives the norm they had."""
    parameters = [p for p in parameters if p.grad is not None]
    grads = [p.grad for p in parameters if p.grad is not None]
    if not any(isinstance(grad, DTensor) for grad in grads):
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    squares: dict[tuple[DeviceMesh, tuple[Any, ...]], list[Tensor]] = {}
    for grad in grads:
        assert isinstance(grad, DTensor), "where some are sharded all are"
        local = grad.to_local().float().square().sum()
        squares.setdefault((grad.device_mesh, grad.placements), []).append(local)
    total = torch.zeros((), device=grads[0].device)
    for (mesh, placements), parts in squares.items():
        kinds = [Partial() if isinstance(p, Shard) else Replicate() for p in placements]
        total += DTensor.from_local(torch.stack(parts).sum(), mesh, kinds).full_tensor()
    norm = total.sqrt()
    torch._foreach_mul_([g.to_local() if isinstance(g, DTensor) else g for g in grads],
                        torch.clamp(limit / (norm + 1e-6), max=1.0))  # fmt: skip
    return norm


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor`, which every process has whole, sharded as `model` is."""
    tensor = tensor.to(model.device)
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
