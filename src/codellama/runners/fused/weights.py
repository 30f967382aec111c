"""Matrices as a device holds them: plain numbers, 8-bit floats, or block formats in planes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codellama.quant.formats import Format
from codellama.quant.formats import Tensor as Stored
from codellama.quant.planes import LAYOUTS, Layout, planes_of

_FP8 = torch.float8_e4m3fn
_FP8_LARGEST = 448.0
_INT4_GROUP = 128
_DTYPES = {Format.F32: torch.float32, Format.F16: torch.float16, Format.BF16: torch.bfloat16}


@dataclass(frozen=True)
class Dense:
    """`value` [N, K]."""

    value: Tensor

    @property
    def n_rows(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class Fp8:
    """`value` [N, K] in float8_e4m3fn, times `scale` [N] of its row in float32."""

    value: Tensor
    scale: Tensor

    @property
    def n_rows(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class Blocks:
    """Planes of [N, `n_cols`], which `quant.planes` explains."""

    layout: Layout
    n_cols: int
    low: Tensor
    high: Tensor | None
    d: Tensor
    s: Tensor | None = None
    dmin: Tensor | None = None
    m: Tensor | None = None

    @property
    def n_rows(self) -> int:
        return len(self.low)


Matrix = Dense | Fp8 | Blocks
Weight = tuple[Matrix, ...]
"""Matrices of the same input whose rows follow each other."""

Placed = tuple[str, Matrix | Tensor]
"""A parameter on the device, by name."""


class Kind(StrEnum):
    """What matrices become on their way to the device."""

    STORED = "stored"  # block formats stay what they are; the rest is rounded to the plain type
    PLAIN = "plain"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"


def placed_all(
    tensors: Iterable[tuple[str, Stored]], kind: Kind, dtype: torch.dtype, device: torch.device
) -> Iterator[Placed]:
    """A checkpoint's parameters on the device: embeddings and gains in `dtype`, all else placed."""
    for name, tensor in tensors:
        if len(tensor.shape) == 1 or name.startswith("embed_tokens"):
            yield name, numbers_of(tensor, device).to(dtype)
        else:
            yield name, placed(tensor, kind, dtype, device)


def placed(tensor: Stored, kind: Kind, dtype: torch.dtype, device: torch.device) -> Matrix:
    """A matrix of a checkpoint on the device."""
    if kind is Kind.STORED and tensor.format in LAYOUTS:
        return _blocks(tensor, device)
    if kind is Kind.INT8 and tensor.format is Format.Q8_0:
        return _blocks(tensor, device)
    return rounded(numbers_of(tensor, device), kind, dtype)


def rounded(x: Tensor, kind: Kind, dtype: torch.dtype) -> Matrix:
    """Numbers [N, K] as a matrix of the wanted kind."""
    if kind is Kind.INT8:
        return int8_blocks(x)
    if kind is Kind.INT4:
        return int4_blocks(x)
    if kind is Kind.FP8:
        return fp8_rows(x)
    return Dense(x.to(dtype))


def numbers_of(tensor: Stored, device: torch.device) -> Tensor:
    """A checkpoint's tensor on the device: in its own type where torch has it, else float32."""
    dtype = _DTYPES.get(tensor.format)
    if dtype is None:
        return torch.from_numpy(tensor.to_float32()).to(device)
    raw = torch.from_numpy(np.array(tensor.data))  # a copy, since the file's pages are read-only
    return raw.view(dtype).reshape(tensor.shape).to(device)


def int8_blocks(x: Tensor) -> Blocks:
    """Q8_0: 32 numbers share a scale, their largest magnitude over 127."""
    n_rows, n_cols = x.shape
    layout = LAYOUTS[Format.Q8_0]
    groups = x.float().reshape(n_rows, -1, layout.block)
    d = groups.abs().amax(2, keepdim=True) / 127
    inverse = torch.where(d > 0, 1 / d, 0)
    q = torch.round(groups * inverse).clamp(-127, 127).to(torch.int8)
    low = q.reshape(n_rows, n_cols).view(torch.uint8)
    return Blocks(layout, n_cols, low, None, d.reshape(n_rows, -1).half())


def int4_blocks(x: Tensor) -> Blocks:
    """Whole numbers from -8 to 7, whose scale 128 numbers share (64 or 32 where K asks for it).

    The number that is farthest from zero becomes -8, as in Q4_0.
    """
    n_rows, n_cols = x.shape
    group = next(g for g in (_INT4_GROUP, 64, 32) if n_cols % g == 0)
    layout = Layout(4, group // 2, group, group, 8)
    groups = x.float().reshape(n_rows, -1, group)
    farthest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    d = (farthest / -8).half()
    inverse = torch.where(d == 0, 0, 1 / d.float())
    q = (torch.round(groups * inverse) + 8).clamp(0, 15).to(torch.uint8)
    pairs = q.reshape(n_rows, -1, 2, group // 2)
    low = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(n_rows, n_cols // 2)
    return Blocks(layout, n_cols, low.contiguous(), None, d.reshape(n_rows, -1))


def fp8_rows(x: Tensor) -> Fp8:
    """Each row scaled so that its largest number is the largest there is."""
    wide = x.float()
    scale = wide.abs().amax(1, keepdim=True).clamp(min=1e-12) / _FP8_LARGEST
    return Fp8((wide / scale).clamp(-_FP8_LARGEST, _FP8_LARGEST).to(_FP8), scale[:, 0].contiguous())


def joined(parts: Sequence[Matrix]) -> Weight:
    """The parts one below the other; neighbours of one kind become one matrix."""
    found: list[Matrix] = []
    for part in parts:
        both = None if not found else _stacked(found[-1], part)
        if both is None:
            found.append(part)
        else:
            found[-1] = both
    return tuple(found)


def n_rows(weight: Weight) -> int:
    return sum(matrix.n_rows for matrix in weight)


def _stacked(a: Matrix, b: Matrix) -> Matrix | None:
    """One matrix of both, or None where their kinds differ."""
    if isinstance(a, Dense) and isinstance(b, Dense):
        return Dense(torch.cat([a.value, b.value]))
    if isinstance(a, Fp8) and isinstance(b, Fp8):
        # Not every build can concatenate 8-bit floats.
        value = torch.cat([a.value.view(torch.uint8), b.value.view(torch.uint8)]).view(_FP8)
        return Fp8(value, torch.cat([a.scale, b.scale]))
    if isinstance(a, Blocks) and isinstance(b, Blocks) and _are_alike(a, b):

        def both(name: str) -> Any:
            plane = getattr(a, name)
            return None if plane is None else torch.cat([plane, getattr(b, name)])

        names = ("low", "high", "d", "s", "dmin", "m")
        return replace(a, **{name: both(name) for name in names})
    return None


def _are_alike(a: Blocks, b: Blocks) -> bool:
    return a.layout == b.layout and all(
        (getattr(a, name) is None) == (getattr(b, name) is None) for name in ("s", "dmin", "m")
    )


def _blocks(tensor: Stored, device: torch.device) -> Blocks:
    planes = planes_of(tensor)

    def there(x: np.ndarray | None) -> Tensor | None:
        return None if x is None else torch.from_numpy(np.array(x)).to(device)

    low, d = there(planes.low), there(planes.d)
    assert low is not None, "every format has numbers"
    assert d is not None, "every format has scales"
    return Blocks(
        planes.layout, tensor.shape[1], low, there(planes.high), d,
        there(planes.s), there(planes.dmin), there(planes.m),
    )  # fmt: skip
