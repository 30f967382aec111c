"""Matrices in block formats: multiplied by few rows as they lie, or dequantised for many.

A program reads runs of bytes that share a scale: [rows, runs, bytes of a run]. Where a byte holds
two numbers, those of the low nibbles come first and those of the high ones, `half` columns further
on, second. What is multiplied is summed within a run first and scaled then, so that a scale costs
one multiplication for 16 to 64 numbers. What the planes mean is in `quant.planes`; sums are kept in
float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.fused.weights import Blocks
from codellama.runners.triton.launch import OPTIONS, PRECISION, dot_type, power_of_2

MOST_ROWS = 64
"""Above this, dequantising once and a library's matrix product are faster."""


class Planes(NamedTuple):
    """What kernels read. Planes that a format lacks are `low` once more, and not read."""

    low: Tensor
    high: Tensor
    d: Tensor
    s: Tensor
    dmin: Tensor
    m: Tensor


@dataclass(frozen=True)
class Shape:
    """What kernels are compiled for: `quant.planes.Layout`, and which planes there are."""

    n_cols: int
    bits: int
    half: int
    group: int
    block: int
    offset: int
    has_s: bool
    has_min: bool
    has_m: bool

    @property
    def n_halves(self) -> int:
        """Numbers in a byte of `low`."""
        return 1 if self.bits == 8 else 2

    @property
    def zero(self) -> int:
        """What stands for zero where no number is stored below it."""
        return 128 if self.bits == 8 else self.offset

    @property
    def n_extra(self) -> int:
        """Bits of a number in `high`."""
        return self.bits - 4 if self.bits in (5, 6) else 0

    @property
    def width(self) -> int:
        """Bytes of `low` in a row."""
        return self.n_cols // self.n_halves

    @property
    def run(self) -> int:
        """Bytes of `low` whose numbers share their scales."""
        return self.group if self.bits == 8 else min(self.half, self.group)

    @property
    def n_runs(self) -> int:
        return self.width // self.run


@triton.jit
def _column(run, SECOND: tl.constexpr, W: tl.constexpr):
    """The column of a run's first number, among the first or the second numbers of its bytes."""
    column = run * W.run
    if W.n_halves == 2:
        column = column // W.half * (2 * W.half) + column % W.half + SECOND * W.half
    return column


@triton.jit
def _bytes(planes, row, run, is_live, W: tl.constexpr):
    """Bytes of runs [rows, runs, RUN], and beside each the bits of `high` from its own on."""
    RUN: tl.constexpr = W.run
    N_EXTRA: tl.constexpr = W.n_extra
    byte = run[:, None] * RUN + tl.arange(0, RUN)[None, :]
    at = row[:, None, None] * W.width + byte[None, :, :]
    low = tl.load(planes.low + at, mask=is_live[:, :, None], other=0).to(tl.int32)
    high = low
    if N_EXTRA > 0:
        bit = byte * (2 * N_EXTRA)
        at = row[:, None, None] * (W.n_cols * N_EXTRA // 8) + (bit // 8)[None, :, :]
        high = tl.load(planes.high + at, mask=is_live[:, :, None], other=0).to(tl.int32)
        high = high >> (bit % 8)[None, :, :]
    return low, high


@triton.jit
def _whole(low, high, SECOND: tl.constexpr, W: tl.constexpr):
    """The first or second numbers of bytes, less the offset, in float32.

    They are put where 2 ** 23 has its last bits, and that is taken away again, exactly: a GPU
    converts whole numbers at a fraction of the rate at which it does either.
    """
    if W.bits == 8:
        q = low ^ 128  # from -128 .. 127 to 0 .. 255
    else:
        q = (low >> (4 * SECOND)) & 15
        if W.n_extra > 0:
            q |= ((high >> (W.n_extra * SECOND)) & ((1 << W.n_extra) - 1)) << 4
    return (q | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + W.zero)


@triton.jit
def _factor(d, s, row, column, is_live, HAS_S: tl.constexpr, W: tl.constexpr):
    """d * s [rows, runs] of the groups that hold `column`."""
    at = row[:, None] * (W.n_cols // W.block) + (column // W.block)[None, :]
    factor = tl.load(d + at, mask=is_live, other=0.0).to(tl.float32)
    if HAS_S:
        at = row[:, None] * (W.n_cols // W.group) + (column // W.group)[None, :]
        factor *= tl.load(s + at, mask=is_live, other=0).to(tl.float32)
    return factor


@triton.jit
def _product(x, planes, low, high, row, column, is_live, SECOND: tl.constexpr, W: tl.constexpr):
    """Products [rows, runs] of runs with x [runs, RUN]."""
    sums = tl.sum(_whole(low, high, SECOND, W) * x[None, :, :], 2)
    out = sums * _factor(planes.d, planes.s, row, column, is_live, W.has_s, W)
    if W.has_min:
        minimum = _factor(planes.dmin, planes.m, row, column, is_live, W.has_m, W)
        out += minimum * tl.sum(x, 1)[None, :]
    return out


@triton.jit
def _numbers(planes, low, high, row, column, is_live, SECOND: tl.constexpr, W: tl.constexpr):
    """Dequantised numbers [rows, runs, RUN]."""
    factor = _factor(planes.d, planes.s, row, column, is_live, W.has_s, W)
    out = _whole(low, high, SECOND, W) * factor[:, :, None]
    if W.has_min:
        minimum = _factor(planes.dmin, planes.m, row, column, is_live, W.has_m, W)
        out += minimum[:, :, None]
    return out


@triton.jit
def _one_row(
    x, gain, planes, residual, out, n_out, eps,
    W: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, IS_GATED: tl.constexpr,
):  # fmt: skip
    RUN: tl.constexpr = W.run
    N_RUNS: tl.constexpr = W.n_runs
    N_HALVES: tl.constexpr = W.n_halves
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64)
    acc = tl.zeros([ROWS, RUNS], tl.float32)
    acc_up = tl.zeros([ROWS, RUNS], tl.float32)
    squares = tl.zeros([RUNS, RUN], tl.float32)
    for start in tl.range(0, N_RUNS, RUNS, num_stages=3):
        run = start + tl.arange(0, RUNS)
        is_run = run < N_RUNS
        is_live = (n < n_out)[:, None] & is_run[None, :]
        low, high = _bytes(planes, row, run, is_live, W)
        low_up, high_up = low, high
        if IS_GATED:
            low_up, high_up = _bytes(planes, row + n_out, run, is_live, W)
        for SECOND in tl.static_range(N_HALVES):
            column = _column(run, SECOND, W)
            at = column[:, None] + tl.arange(0, RUN)[None, :]
            tokens = tl.load(x + at, mask=is_run[:, None], other=0.0).to(tl.float32)
            if HAS_NORM:
                squares += tokens * tokens
                tokens *= tl.load(gain + at, mask=is_run[:, None], other=0.0).to(tl.float32)
            acc += _product(tokens, planes, low, high, row, column, is_live, SECOND, W)
            if IS_GATED:
                acc_up += _product(tokens, planes, low_up, high_up, row + n_out, column, is_live,
                                   SECOND, W)  # fmt: skip
    factor = 1.0
    if HAS_NORM:
        factor = tl.rsqrt(tl.sum(tl.sum(squares, 1), 0) / W.n_cols + eps)
    y = tl.sum(acc, 1) * factor
    if IS_GATED:
        y = y / (1.0 + tl.exp(-y)) * (tl.sum(acc_up, 1) * factor)
    if HAS_RESIDUAL:
        y += tl.load(residual + n, mask=n < n_out, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < n_out)


@triton.jit(do_not_specialize=["n_rows"])
def _several_rows(
    x, gain, planes, residual, out, n_rows, n_out, out_stride, eps,
    W: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_RESIDUAL: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    RUN: tl.constexpr = W.run
    N_RUNS: tl.constexpr = W.n_runs
    N_HALVES: tl.constexpr = W.n_halves
    t = tl.arange(0, TOKENS)
    is_token = t < n_rows
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64)
    i = tl.arange(0, RUNS * RUN)
    acc = tl.zeros([TOKENS, ROWS], tl.float32)
    squares = tl.zeros([TOKENS, RUNS * RUN], tl.float32)
    for start in tl.range(0, N_RUNS, RUNS):
        run = start + tl.arange(0, RUNS)
        is_live = (n < n_out)[:, None] & (run < N_RUNS)[None, :]
        is_column = start + i // RUN < N_RUNS
        low, high = _bytes(planes, row, run, is_live, W)
        for SECOND in tl.static_range(N_HALVES):
            column = _column(run, SECOND, W)
            tile = _numbers(planes, low, high, row, column, is_live, SECOND, W)
            tile = tl.reshape(tile, [ROWS, RUNS * RUN]).to(DOT)
            at = _column(start + i // RUN, SECOND, W) + i % RUN
            tokens = tl.load(x + t[:, None] * W.n_cols + at[None, :],
                             mask=is_token[:, None] & is_column[None, :], other=0.0)  # fmt: skip
            if HAS_NORM:
                wide = tokens.to(tl.float32)
                squares += wide * wide
                gains = tl.load(gain + at, mask=is_column, other=0.0).to(tl.float32)
                tokens = wide * gains[None, :]
            acc += tl.dot(tokens.to(DOT), tl.trans(tile), input_precision=PRECISION)
    if HAS_NORM:
        acc *= tl.rsqrt(tl.sum(squares, 1) / W.n_cols + eps)[:, None]
    at_out = t[:, None] * out_stride + n[None, :]
    is_out = is_token[:, None] & (n < n_out)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + at_out, mask=is_out, other=0.0).to(tl.float32)
    tl.store(out + at_out, acc.to(out.dtype.element_ty), mask=is_out)


@triton.jit
def _dequantise(planes, out, n_out, W: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr):
    RUN: tl.constexpr = W.run
    N_HALVES: tl.constexpr = W.n_halves
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64)
    run = tl.program_id(1) * RUNS + tl.arange(0, RUNS)
    is_live = (n < n_out)[:, None] & (run < W.n_runs)[None, :]
    low, high = _bytes(planes, row, run, is_live, W)
    for SECOND in tl.static_range(N_HALVES):
        column = _column(run, SECOND, W)
        numbers = _numbers(planes, low, high, row, column, is_live, SECOND, W)
        at = (column[:, None] + tl.arange(0, RUN)[None, :])[None, :, :]
        at = row[:, None, None] * W.n_cols + at
        tl.store(out + at, numbers.to(out.dtype.element_ty), mask=is_live[:, :, None])


def multiply(
    x: Tensor,
    matrix: Blocks,
    out: Tensor,
    *,
    gain: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    is_gated: bool = False,
) -> None:
    """Fills `out` [T, N], a view whose rows may lie further apart, with x [T, K] times the matrix.

    `gain` and `eps` put an RMS norm before the product, `residual`, of `out`'s strides and perhaps
    `out` itself, a sum behind it. With `is_gated` the matrix has 2 N rows, the gates first, and
    what is stored is silu(gate) * up. T is at most `MOST_ROWS`, and 1 with `is_gated`. The meaning
    is that of `fused.kernels.PlainKernels`.
    """
    n_rows, _ = x.shape
    assert n_rows <= (1 if is_gated else MOST_ROWS), "these kernels are for few rows"
    n_out = len(matrix.low) // 2 if is_gated else len(matrix.low)
    planes, shape = _described(matrix)
    before = x, x if gain is None else gain, planes, out if residual is None else residual, out
    flags = {"HAS_NORM": gain is not None, "HAS_RESIDUAL": residual is not None}
    if n_rows == 1:
        rows, runs = 2 if is_gated else 4, min(power_of_2(shape.n_runs), 1024 // shape.run)
        _one_row[(triton.cdiv(n_out, rows),)](
            *before, n_out, eps, W=shape, ROWS=rows, RUNS=runs, IS_GATED=is_gated, num_warps=4,
            **OPTIONS, **flags,
        )  # fmt: skip
        return
    rows = 16  # more would leave processors without a program where N is 4096
    columns = 128 if x.element_size() == 2 else 64  # or registers spill
    runs = min(power_of_2(shape.n_runs), max(1, columns // shape.run))
    _several_rows[(triton.cdiv(n_out, rows),)](
        *before, n_rows, n_out, out.stride(0), eps, W=shape, TOKENS=power_of_2(n_rows, 16),
        ROWS=rows, RUNS=runs, DOT=dot_type(x.dtype), num_warps=4, **OPTIONS, **flags,
    )  # fmt: skip


def dequantise(matrix: Blocks, out: Tensor) -> None:
    """Fills `out` [N, K]; see `reference.numbers`."""
    planes, shape = _described(matrix)
    rows, runs = 4, min(power_of_2(shape.n_runs), max(1, 512 // shape.run))
    n_out = len(matrix.low)
    _dequantise[triton.cdiv(n_out, rows), triton.cdiv(shape.n_runs, runs)](
        planes, out, n_out, W=shape, ROWS=rows, RUNS=runs, num_warps=4, **OPTIONS
    )


def _described(matrix: Blocks) -> tuple[Planes, Shape]:
    planes = matrix.low, matrix.high, matrix.d, matrix.s, matrix.dmin, matrix.m
    shape = Shape(
        n_cols=matrix.n_cols,
        bits=matrix.layout.bits,
        half=matrix.layout.half,
        group=matrix.layout.group,
        block=matrix.layout.block,
        offset=matrix.layout.offset,
        has_s=matrix.s is not None,
        has_min=matrix.dmin is not None,
        has_m=matrix.m is not None,
    )
    return Planes(*(matrix.low if plane is None else plane for plane in planes)), shape
