"""Few rows times a large matrix of plain numbers: the matrix is read once, and that is the time.

The RMS norm before a projection, the sum with the residual stream after it and silu(gate) * up
happen on the way, so that a layer of a decoding step is six launches. A norm's scale is one number
a row and can wait until after the product: (x * gain * r) W = r * ((x * gain) W).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.fused.weights import Dense, Fp8
from codellama.runners.triton.launch import OPTIONS, PRECISION, dot_type, power_of_2

MOST_ROWS = 16
"""Above this, a library's matrix product is as fast."""


@triton.jit
def _one_row(
    x, gain, w, w_scale, residual, out, n_out, eps,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_RESIDUAL: tl.constexpr, IS_GATED: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = n < n_out
    at = n.to(tl.int64)[:, None] * K
    at_up = (n_out + n).to(tl.int64)[:, None] * K
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    acc_up = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, K, COLUMNS, num_stages=3):
        k = start + tl.arange(0, COLUMNS)
        is_column = k < K
        row = tl.load(x + k, mask=is_column, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += row * row
            row *= tl.load(gain + k, mask=is_column, other=0.0).to(tl.float32)
        is_read = is_row[:, None] & is_column[None, :]
        tile = tl.load(w + at + k[None, :], mask=is_read, other=0.0,
                       eviction_policy="evict_first")  # fmt: skip
        acc += tile.to(tl.float32) * row[None, :]
        if IS_GATED:
            tile = tl.load(w + at_up + k[None, :], mask=is_read, other=0.0,
                           eviction_policy="evict_first")  # fmt: skip
            acc_up += tile.to(tl.float32) * row[None, :]
    factor = 1.0
    if HAS_NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
    y = tl.sum(acc, 1) * factor
    if HAS_SCALE:
        y *= tl.load(w_scale + n, mask=is_row, other=0.0)
    if IS_GATED:
        z = tl.sum(acc_up, 1) * factor
        if HAS_SCALE:
            z *= tl.load(w_scale + n_out + n, mask=is_row, other=0.0)
        y = y / (1.0 + tl.exp(-y)) * z
    if HAS_RESIDUAL:
        y += tl.load(residual + n, mask=is_row, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=is_row)


@triton.jit(do_not_specialize=["n_rows"])
def _several_rows(
    x, gain, w, w_scale, residual, out, n_rows, n_out, out_stride, eps,
    K: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    t = tl.arange(0, TOKENS)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_token, is_row = t < n_rows, n < n_out
    at = n.to(tl.int64)[:, None] * K
    at_up = (n_out + n).to(tl.int64)[:, None] * K
    acc = tl.zeros([TOKENS, ROWS], tl.float32)
    acc_up = tl.zeros([TOKENS, ROWS], tl.float32)
    squares = tl.zeros([TOKENS, COLUMNS], tl.float32)
    for start in tl.range(0, K, COLUMNS, num_stages=3):
        k = start + tl.arange(0, COLUMNS)
        is_column = k < K
        tokens = tl.load(x + t[:, None] * K + k[None, :],
                         mask=is_token[:, None] & is_column[None, :], other=0.0)  # fmt: skip
        if HAS_NORM:
            wide = tokens.to(tl.float32)
            squares += wide * wide
            gains = tl.load(gain + k, mask=is_column, other=0.0).to(tl.float32)
            tokens = (wide * gains[None, :]).to(DOT)
        else:
            tokens = tokens.to(DOT)
        is_read = is_row[:, None] & is_column[None, :]
        tile = tl.load(w + at + k[None, :], mask=is_read, other=0.0,
                       eviction_policy="evict_first").to(DOT)  # fmt: skip
        acc += tl.dot(tokens, tl.trans(tile), input_precision=PRECISION)
        if IS_GATED:
            tile = tl.load(w + at_up + k[None, :], mask=is_read, other=0.0,
                           eviction_policy="evict_first").to(DOT)  # fmt: skip
            acc_up += tl.dot(tokens, tl.trans(tile), input_precision=PRECISION)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(squares, 1) / K + eps)[:, None]
        acc *= scale
        acc_up *= scale
    if HAS_SCALE:
        acc *= tl.load(w_scale + n, mask=is_row, other=0.0)[None, :]
    if IS_GATED:
        if HAS_SCALE:
            acc_up *= tl.load(w_scale + n_out + n, mask=is_row, other=0.0)[None, :]
        acc = acc / (1.0 + tl.exp(-acc)) * acc_up
    at_out = t[:, None] * out_stride + n[None, :]
    is_out = is_token[:, None] & is_row[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + at_out, mask=is_out, other=0.0).to(tl.float32)
    tl.store(out + at_out, acc.to(out.dtype.element_ty), mask=is_out)


def multiply(
    x: Tensor,
    matrix: Dense | Fp8,
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
    what is stored is silu(gate) * up. T is at most `MOST_ROWS`. The meaning is that of
    `fused.kernels.PlainKernels`.
    """
    n_rows, n_in = x.shape
    assert n_rows <= MOST_ROWS, "these kernels are for few rows"
    n_out = len(matrix.value) // 2 if is_gated else len(matrix.value)
    scale = matrix.scale if isinstance(matrix, Fp8) else None
    flags = {
        "K": n_in,
        "HAS_NORM": gain is not None,
        "HAS_SCALE": scale is not None,
        "HAS_RESIDUAL": residual is not None,
        "IS_GATED": is_gated,
    }
    pointers = (
        x,
        x if gain is None else gain,
        matrix.value,
        x if scale is None else scale,
        out if residual is None else residual,
        out,
    )
    if n_rows == 1:
        rows = 2 if is_gated else 4
        columns = min(1024, power_of_2(n_in))
        _one_row[(triton.cdiv(n_out, rows),)](
            *pointers, n_out, eps, ROWS=rows, COLUMNS=columns, num_warps=4, **OPTIONS, **flags
        )
        return
    rows = 16  # more would leave processors without a program where N is 4096
    columns = 256 if x.element_size() == 2 else 64  # or registers spill
    _several_rows[(triton.cdiv(n_out, rows),)](
        *pointers, n_rows, n_out, out.stride(0), eps, TOKENS=power_of_2(n_rows, 16), ROWS=rows,
        COLUMNS=min(columns, power_of_2(n_in, 16)), DOT=dot_type(x.dtype), num_warps=4,
        **OPTIONS, **flags,
    )  # fmt: skip
