"""silu(gate) * up of a joint projection."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.triton.launch import OPTIONS

_COLUMNS = 1024


@triton.jit
def _silu_and_multiply(gate_up, out, F: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_live = i < F
    gate = tl.load(gate_up + row * 2 * F + i, mask=is_live, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * F + F + i, mask=is_live, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * F + i, result.to(out.dtype.element_ty), mask=is_live)


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """[T, 2 F] -> [T, F]; see `reference.silu_and_multiply`."""
    n_rows, width = gate_up.shape
    out = torch.empty(n_rows, width // 2, dtype=gate_up.dtype, device=gate_up.device)
    grid = n_rows, triton.cdiv(width // 2, _COLUMNS)
    _silu_and_multiply[grid](gate_up, out, F=width // 2, COLUMNS=_COLUMNS, num_warps=4, **OPTIONS)
    return out
