"""Matrices in block formats: multiplied by few rows as they lie, or dequantised for many.

A program reads runs of bytes that share a scale: [rows, runs, bytes of a run]. What is multiplied
is summed within a run first and scaled then, so that a scale costs one multiplication for 16 to 64
numbers. What the planes mean is in `quant.planes`; sums are kept in float32.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.fused.weights import Blocks
from codellama.runners.triton.launch import dot_type, power_of_2

MOST_ROWS = 64
"""Above this, dequantising once and a library's matrix product are faster."""


@triton.jit
def _columns(run, K: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr, RUN: tl.constexpr):
    """The first column of each run's low nibbles; those of the high ones are HALF further."""
    column = run * RUN
    if BITS < 8:
        column = column // HALF * (2 * HALF) + column % HALF
    return column


@triton.jit
def _whole(low, high, row, run, is_live, K: tl.constexpr, BITS: tl.constexpr, RUN: tl.constexpr):
    """Stored numbers [rows, runs, RUN] of the first columns and of those HALF further."""
    byte = run[:, None] * RUN + tl.arange(0, RUN)[None, :]
    at = row[:, None, None]
    WIDTH: tl.constexpr = K if BITS == 8 else K // 2
    raw = tl.load(low + at * WIDTH + byte[None, :, :], mask=is_live[:, :, None], other=0)
    if BITS == 8:
        first = raw.to(tl.int8, bitcast=True).to(tl.int32)
        second = first
    else:
        pairs = raw.to(tl.int32)
        first = pairs & 15
        second = pairs >> 4
    if BITS == 5 or BITS == 6:
        EXTRA: tl.constexpr = BITS - 4
        bit = byte * (2 * EXTRA)
        at_high = at * (K * EXTRA // 8) + (bit // 8)[None, :, :]
        upper = tl.load(high + at_high, mask=is_live[:, :, None], other=0).to(tl.int32)
        upper = upper >> (bit % 8)[None, :, :]
        first |= (upper & ((1 << EXTRA) - 1)) << 4
        second |= ((upper >> EXTRA) & ((1 << EXTRA) - 1)) << 4
    return first, second


@triton.jit
def _factor(d, s, row, column, is_live, K: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
            HAS_S: tl.constexpr):  # fmt: skip
    """d * s [rows, runs] of the groups that hold `column`."""
    at = row[:, None] * (K // BLOCK) + (column // BLOCK)[None, :]
    factor = tl.load(d + at, mask=is_live, other=0.0).to(tl.float32)
    if HAS_S:
        at = row[:, None] * (K // GROUP) + (column // GROUP)[None, :]
        factor *= tl.load(s + at, mask=is_live, other=0).to(tl.float32)
    return factor


@triton.jit
def _product(
    x_first, x_second, low, high, d, s, dmin, m, row, run, is_live,
    K: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, OFFSET: tl.constexpr, RUN: tl.constexpr, HAS_S: tl.constexpr,
    HAS_MIN: tl.constexpr, HAS_M: tl.constexpr,
):  # fmt: skip
    """Products [rows, runs] of the runs with x [runs, RUN]."""
    first, second = _whole(low, high, row, run, is_live, K, BITS, RUN)
    column = _columns(run, K, BITS, HALF, RUN)
    sums = tl.sum((first - OFFSET).to(tl.float32) * x_first[None, :, :], 2)
    out = sums * _factor(d, s, row, column, is_live, K, GROUP, BLOCK, HAS_S)
    if HAS_MIN:
        minimum = _factor(dmin, m, row, column, is_live, K, GROUP, BLOCK, HAS_M)
        out += minimum * tl.sum(x_first, 1)[None, :]
    if BITS < 8:
        sums = tl.sum((second - OFFSET).to(tl.float32) * x_second[None, :, :], 2)
        out += sums * _factor(d, s, row, column + HALF, is_live, K, GROUP, BLOCK, HAS_S)
        if HAS_MIN:
            minimum = _factor(dmin, m, row, column + HALF, is_live, K, GROUP, BLOCK, HAS_M)
            out += minimum * tl.sum(x_second, 1)[None, :]
    return out


@triton.jit
def _numbers(
    low, high, d, s, dmin, m, row, run, is_live,
    K: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, OFFSET: tl.constexpr, RUN: tl.constexpr, HAS_S: tl.constexpr,
    HAS_MIN: tl.constexpr, HAS_M: tl.constexpr,
):  # fmt: skip
    """Dequantised numbers [rows, runs, RUN] of the first columns and of those HALF further."""
    first, second = _whole(low, high, row, run, is_live, K, BITS, RUN)
    column = _columns(run, K, BITS, HALF, RUN)
    factor = _factor(d, s, row, column, is_live, K, GROUP, BLOCK, HAS_S)
    a = (first - OFFSET).to(tl.float32) * factor[:, :, None]
    if HAS_MIN:
        a += _factor(dmin, m, row, column, is_live, K, GROUP, BLOCK, HAS_M)[:, :, None]
    b = a
    if BITS < 8:
        factor = _factor(d, s, row, column + HALF, is_live, K, GROUP, BLOCK, HAS_S)
        b = (second - OFFSET).to(tl.float32) * factor[:, :, None]
        if HAS_MIN:
            minimum = _factor(dmin, m, row, column + HALF, is_live, K, GROUP, BLOCK, HAS_M)
            b += minimum[:, :, None]
    return a, b


@triton.jit
def _one_row(
    x, gain, low, high, d, s, dmin, m, residual, out, n_out, eps,
    ROWS: tl.constexpr, RUNS: tl.constexpr, HAS_NORM: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, RUN: tl.constexpr,
    HAS_S: tl.constexpr, HAS_MIN: tl.constexpr, HAS_M: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64)
    N_RUNS: tl.constexpr = K // RUN if BITS == 8 else K // 2 // RUN
    acc = tl.zeros([ROWS, RUNS], tl.float32)
    acc_up = tl.zeros([ROWS, RUNS], tl.float32)
    squares = tl.zeros([RUNS, RUN], tl.float32)
    for start in tl.range(0, N_RUNS, RUNS, num_stages=3):
        run = start + tl.arange(0, RUNS)
        is_run = run < N_RUNS
        is_live = (n < n_out)[:, None] & is_run[None, :]
        at = _columns(run, K, BITS, HALF, RUN)[:, None] + tl.arange(0, RUN)[None, :]
        first = tl.load(x + at, mask=is_run[:, None], other=0.0).to(tl.float32)
        second = first
        if BITS < 8:
            second = tl.load(x + at + HALF, mask=is_run[:, None], other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += first * first
            first *= tl.load(gain + at, mask=is_run[:, None], other=0.0).to(tl.float32)
            if BITS < 8:
                squares += second * second
                gains = tl.load(gain + at + HALF, mask=is_run[:, None], other=0.0)
                second *= gains.to(tl.float32)
        acc += _product(
            first,
            second,
            low,
            high,
            d,
            s,
            dmin,
            m,
            row,
            run,
            is_live,
            K,
            BITS,
            HALF,
            GROUP,
            BLOCK,
            OFFSET,
            RUN,
            HAS_S,
            HAS_MIN,
            HAS_M,
        )
        if IS_GATED:
            acc_up += _product(first, second, low, high, d, s, dmin, m, row + n_out, run, is_live,
                               K, BITS, HALF, GROUP, BLOCK, OFFSET, RUN, HAS_S, HAS_MIN,
                               HAS_M)  # fmt: skip
    factor = 1.0
    if HAS_NORM:
        factor = tl.rsqrt(tl.sum(tl.sum(squares, 1), 0) / K + eps)
    y = tl.sum(acc, 1) * factor
    if IS_GATED:
        y = y / (1.0 + tl.exp(-y)) * (tl.sum(acc_up, 1) * factor)
    if HAS_RESIDUAL:
        y += tl.load(residual + n, mask=n < n_out, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < n_out)


@triton.jit
def _several_rows(
    x, gain, low, high, d, s, dmin, m, residual, out, n_rows, n_out, out_stride, eps,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, DOT: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr,
    HALF: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr,
    RUN: tl.constexpr, HAS_S: tl.constexpr, HAS_MIN: tl.constexpr, HAS_M: tl.constexpr,
):  # fmt: skip
    t = tl.arange(0, TOKENS)
    is_token = t < n_rows
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64)
    N_RUNS: tl.constexpr = K // RUN if BITS == 8 else K // 2 // RUN
    acc = tl.zeros([TOKENS, ROWS], tl.float32)
    squares = tl.zeros([TOKENS, RUNS * RUN], tl.float32)
    for start in tl.range(0, N_RUNS, RUNS):
        run = start + tl.arange(0, RUNS)
        is_run = run < N_RUNS
        is_live = (n < n_out)[:, None] & is_run[None, :]
        a, b = _numbers(
            low,
            high,
            d,
            s,
            dmin,
            m,
            row,
            run,
            is_live,
            K,
            BITS,
            HALF,
            GROUP,
            BLOCK,
            OFFSET,
            RUN,
            HAS_S,
            HAS_MIN,
            HAS_M,
        )
        i = tl.arange(0, RUNS * RUN)
        at = _columns(start + i // RUN, K, BITS, HALF, RUN) + i % RUN
        is_read = is_token[:, None] & (start + i // RUN < N_RUNS)[None, :]
        tokens = tl.load(x + t[:, None] * K + at[None, :], mask=is_read, other=0.0)
        if HAS_NORM:
            wide = tokens.to(tl.float32)
            squares += wide * wide
            gains = tl.load(gain + at, mask=start + i // RUN < N_RUNS, other=0.0).to(tl.float32)
            tokens = (wide * gains[None, :]).to(DOT)
        tile = tl.reshape(a, [ROWS, RUNS * RUN]).to(DOT)
        acc += tl.dot(tokens.to(DOT), tl.trans(tile), input_precision="ieee")
        if BITS < 8:
            tokens = tl.load(x + t[:, None] * K + at[None, :] + HALF, mask=is_read, other=0.0)
            if HAS_NORM:
                wide = tokens.to(tl.float32)
                squares += wide * wide
                gains = tl.load(gain + at + HALF, mask=start + i // RUN < N_RUNS, other=0.0)
                tokens = (wide * gains.to(tl.float32)[None, :]).to(DOT)
            tile = tl.reshape(b, [ROWS, RUNS * RUN]).to(DOT)
            acc += tl.dot(tokens.to(DOT), tl.trans(tile), input_precision="ieee")
    if HAS_NORM:
        acc *= tl.rsqrt(tl.sum(squares, 1) / K + eps)[:, None]
    at_out = t[:, None] * out_stride + n[None, :]
    is_out = is_token[:, None] & (n < n_out)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + at_out, mask=is_out, other=0.0).to(tl.float32)
    tl.store(out + at_out, acc.to(out.dtype.element_ty), mask=is_out)


@triton.jit
def _dequantise(
    low, high, d, s, dmin, m, out, n_out,
    ROWS: tl.constexpr, RUNS: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr,
    HALF: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr,
    RUN: tl.constexpr, HAS_S: tl.constexpr, HAS_MIN: tl.constexpr, HAS_M: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64)
    N_RUNS: tl.constexpr = K // RUN if BITS == 8 else K // 2 // RUN
    run = tl.program_id(1) * RUNS + tl.arange(0, RUNS)
    is_live = (n < n_out)[:, None] & (run < N_RUNS)[None, :]
    a, b = _numbers(
        low,
        high,
        d,
        s,
        dmin,
        m,
        row,
        run,
        is_live,
        K,
        BITS,
        HALF,
        GROUP,
        BLOCK,
        OFFSET,
        RUN,
        HAS_S,
        HAS_MIN,
        HAS_M,
    )
    column = _columns(run, K, BITS, HALF, RUN)[:, None] + tl.arange(0, RUN)[None, :]
    at = row[:, None, None] * K + column[None, :, :]
    tl.store(out + at, a.to(out.dtype.element_ty), mask=is_live[:, :, None])
    if BITS < 8:
        tl.store(out + at + HALF, b.to(out.dtype.element_ty), mask=is_live[:, :, None])


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
    """Fills `out` [T, N], a view whose rows may lie further apart; see `reference.project`.

    T is at most `MOST_ROWS`, and 1 with `is_gated`, where the matrix has 2 N rows, the gates first.
    `residual`, of `out`'s strides, may be `out` itself.
    """
    n_rows, _ = x.shape
    assert n_rows <= (1 if is_gated else MOST_ROWS), "these kernels are for few rows"
    n_out = len(matrix.low) // 2 if is_gated else len(matrix.low)
    planes, meaning, n_runs = _described(matrix)
    flags = {"HAS_NORM": gain is not None, "HAS_RESIDUAL": residual is not None}
    pointers = (x, x if gain is None else gain, *planes, out if residual is None else residual, out)
    if n_rows == 1:
        rows = 2 if is_gated else 4
        _one_row[(triton.cdiv(n_out, rows),)](
            *pointers, n_out, eps, ROWS=rows, RUNS=min(power_of_2(n_runs), 1024 // meaning["RUN"]),
            IS_GATED=is_gated, num_warps=4, **flags, **meaning,
        )  # fmt: skip
        return
    rows = 16  # more would leave processors without a program where N is 4096
    _several_rows[(triton.cdiv(n_out, rows),)](
        *pointers, n_rows, n_out, out.stride(0), eps, TOKENS=power_of_2(n_rows, 16), ROWS=rows,
        RUNS=min(power_of_2(n_runs), max(1, 128 // meaning["RUN"])), DOT=dot_type(x.dtype),
        num_warps=4, **flags, **meaning,
    )  # fmt: skip


def dequantise(matrix: Blocks, out: Tensor) -> None:
    """Fills `out` [N, K]; see `reference.numbers`."""
    planes, meaning, n_runs = _described(matrix)
    rows, runs = 4, min(power_of_2(n_runs), max(1, 512 // meaning["RUN"]))
    n_out = len(matrix.low)
    _dequantise[triton.cdiv(n_out, rows), triton.cdiv(n_runs, runs)](
        *planes, out, n_out, ROWS=rows, RUNS=runs, num_warps=4, **meaning
    )


def _described(matrix: Blocks) -> tuple[tuple[Tensor, ...], dict[str, Any], int]:
    """What kernels are told of a matrix: pointers, constants, and runs in a row."""
    layout, n_cols = matrix.layout, matrix.n_cols
    run = layout.group if layout.bits == 8 else min(layout.half, layout.group)
    planes = (matrix.low, matrix.high, matrix.d, matrix.s, matrix.dmin, matrix.m)
    meaning = {
        "K": n_cols,
        "BITS": layout.bits,
        "HALF": layout.half,
        "GROUP": layout.group,
        "BLOCK": layout.block,
        "OFFSET": layout.offset,
        "RUN": run,
        "HAS_S": matrix.s is not None,
        "HAS_MIN": matrix.dmin is not None,
        "HAS_M": matrix.m is not None,
    }
    n_runs = n_cols // run if layout.bits == 8 else n_cols // 2 // run
    return tuple(matrix.low if p is None else p for p in planes), meaning, n_runs
