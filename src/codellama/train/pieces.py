"""Blocks of tensors in files: what each process writes, and any block read back from all of them.

A file of blocks is a safetensors file whose header says, for every block, where in its tensor it
begins and how large the tensor is. A file without that holds whole tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from codellama.errors import CheckpointError

_HEADER = "blocks"

Place = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """A process's part of a tensor of `shape`: it begins at `offset`."""

    values: Tensor
    offset: Place
    shape: Place

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the tensor."""
        return tuple(self.values.shape) == self.shape


def block_of(tensor: Tensor) -> Block:
    """This process's block of a tensor that may be sharded, without copying it."""
    if not isinstance(tensor, DTensor):
        return Block(tensor, (0,) * tensor.dim(), tuple(tensor.shape))
    offset, size = [0] * tensor.dim(), list(tensor.shape)
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "every process is part of the mesh"
    for at, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard):  # as torch.chunk cuts: the first ones are the larger
            side, n = placement.dim, tensor.device_mesh.size(at)
            step = -(-size[side] // n)
            begin = min(coordinate[at] * step, size[side])
            offset[side] += begin
            size[side] = min(step, size[side] - begin)
    local = tensor.to_local()
    assert tuple(local.shape) == tuple(size), "blocks are cut as torch.chunk cuts"
    return Block(local, tuple(offset), tuple(tensor.shape))


def is_first_copy(tensor: Tensor, tensor_rank: int) -> bool:
    """Whether, of processes that have the same block, this one should write it."""
    if not isinstance(tensor, DTensor):
        return True
    names = tensor.device_mesh.mesh_dim_names or ()
    return "tensor" in names or tensor_rank == 0


def header(blocks: Mapping[str, Block]) -> dict[str, str]:
    """What a file's header says of its blocks."""
    return {_HEADER: json.dumps({n: [b.offset, b.shape] for n, b in blocks.items()})}


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of some files; whole ones by name, blocks of them by `read`.

    Raises:
        CheckpointError: a file cannot be read, or blocks are missing or come twice.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._found: dict[str, list[tuple[Path, Place, Place]]] = {}  # path, offset, size
        self._shapes: dict[str, Place] = {}
        for path in paths:
            self._index(path)
        for name, places in self._found.items():
            covered = sum(prod(size) for _, _, size in places)
            if covered != prod(self._shapes[name]) or len({o for _, o, _ in places}) < len(places):
                raise CheckpointError(
                    f"{paths[0].parent.name} has {covered} of the {prod(self._shapes[name])} "
                    f"numbers of {name}"
                )

    def _index(self, path: Path) -> None:
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                said = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
                for name in file.keys():  # noqa: SIM118  # it is not a mapping
                    size = tuple(file.get_slice(name).get_shape())
                    offset, shape = said.get(name, ((0,) * len(size), size))
                    if self._shapes.setdefault(name, tuple(shape)) != tuple(shape):
                        raise CheckpointError(f"{path}: {name} has another shape in another file")
                    self._found.setdefault(name, []).append((path, tuple(offset), size))
        except CheckpointError:
            raise
        except Exception as error:  # safetensors raises its own kind, which has no public base
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        return self.read(name, (0,) * len(shape), shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, name: str) -> Place:
        """Of the whole tensor."""
        return self._shapes[name]

    def read(self, name: str, offset: Place, size: Place) -> Tensor:
        """The block of `size` that begins at `offset`, from whatever files hold parts of it."""
        from safetensors import safe_open

        out: Tensor | None = None
        for path, begin, extent in self._found[name]:
            low = [max(a, b) for a, b in zip(offset, begin, strict=True)]
            high = [min(a + m, b + n) for a, m, b, n in
                    zip(offset, size, begin, extent, strict=True)]  # fmt: skip
            if any(b <= a for a, b in zip(low, high, strict=True)) and size:
                continue
            there = tuple(slice(a - b, c - b) for a, b, c in zip(low, begin, high, strict=True))
            here = tuple(slice(a - b, c - b) for a, b, c in zip(low, offset, high, strict=True))
            with safe_open(path, "pt") as file:
                part = file.get_slice(name)[there] if size else file.get_tensor(name)
            if tuple(part.shape) == size:
                return part  # type: ignore[no-any-return]  # safetensors has no types
            if out is None:
                out = torch.empty(size, dtype=part.dtype)
            out[here] = part
        return out if out is not None else torch.empty(size)
