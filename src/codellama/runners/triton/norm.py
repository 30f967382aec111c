"""The residual stream's sum and its RMS norm in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.triton.launch import OPTIONS, power_of_2


@triton.jit
def _add_and_norm(x, delta, gain, out, eps, D: tl.constexpr, D_PAD: tl.constexpr,
                  HAS_DELTA: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, D_PAD)
    is_live = i < D
    wide = tl.load(x + row * D + i, mask=is_live, other=0.0).to(tl.float32)
    if HAS_DELTA:
        wide += tl.load(delta + row * D + i, mask=is_live, other=0.0).to(tl.float32)
        rounded = wide.to(x.dtype.element_ty)
        tl.store(x + row * D + i, rounded, mask=is_live)
        wide = rounded.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / D + eps)
    narrow = wide.to(out.dtype.element_ty).to(tl.float32)  # the model rounds before its gain
    result = narrow * tl.load(gain + i, mask=is_live, other=0.0).to(tl.float32)
    tl.store(out + row * D + i, result.to(out.dtype.element_ty), mask=is_live)


def add_and_norm(x: Tensor, delta: Tensor | None, gain: Tensor, eps: float) -> Tensor:
    """Adds `delta` to `x` [T, D] in place and returns the norm; see `reference.add_and_norm`."""
    n_rows, dim = x.shape
    out = torch.empty_like(x)
    _add_and_norm[(n_rows,)](
        x, x if delta is None else delta, gain, out, eps, D=dim, D_PAD=power_of_2(dim),
        HAS_DELTA=delta is not None, num_warps=8 if dim > 2048 else 4, **OPTIONS,
    )  # fmt: skip
    return out
