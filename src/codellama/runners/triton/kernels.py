"""The fused layers' steps on a GPU: few rows by our kernels, many by the library's product."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.model.transformer import Rope
from codellama.runners.fused import reference
from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Paged
from codellama.runners.fused.kernels import Norm, Stream
from codellama.runners.fused.weights import Blocks, Dense, Fp8, Matrix, Weight, n_rows
from codellama.runners.triton import blocks, few_rows
from codellama.runners.triton.attention_rows import attend_rows
from codellama.runners.triton.attention_tiles import attend_tiles
from codellama.runners.triton.norm import add_and_norm
from codellama.runners.triton.rope import rotate_and_store
from codellama.runners.triton.silu import silu_and_multiply

AttendPrompts = Callable[[Tensor, LayerCache, Paged, Tensor], None]
"""Fills the output for the tokens of `Paged.tiles`: queries, cache, where, output."""


def attend_prompts(q: Tensor, cache: LayerCache, paged: Paged, out: Tensor) -> None:
    """Attention of prompts by our own kernel."""
    assert paged.tiles is not None, "there are prompts"
    attend_tiles(q, cache, paged.tiles, paged.tables, paged.block_size, out)


class TritonKernels:
    """See `Kernels`. Sums are kept in float32 everywhere.

    Args:
        attend_prompts: attention of prompts, ours unless a library brings a faster one.
    """

    def __init__(self, attend_prompts: AttendPrompts = attend_prompts) -> None:
        self._attend_prompts = attend_prompts

    def project(self, stream: Stream, norm: Norm, weight: Weight) -> Tensor:
        x = stream.x
        if stream.delta is not None or not _are_few(len(x), weight):
            return self.product(self.norm(stream, norm), weight)
        return _few(x, weight, norm)

    def gate(self, stream: Stream, norm: Norm, weight: Weight) -> Tensor:
        x, matrix = stream.x, weight[0]
        is_one = len(weight) == 1 and (len(x) == 1 or not isinstance(matrix, Blocks))
        if stream.delta is not None or not is_one or not _are_few(len(x), weight):
            return silu_and_multiply(self.project(stream, norm, weight))
        out = torch.empty(len(x), matrix.n_rows // 2, dtype=x.dtype, device=x.device)
        _multiply(x, matrix, out, gain=norm.gain, eps=norm.eps, is_gated=True)
        return out

    def add(self, stream: Stream, x: Tensor, weight: Weight) -> None:
        if len(weight) == 1 and stream.delta is None and _are_few(len(x), weight):
            _multiply(x, weight[0], stream.x, residual=stream.x)
        else:
            stream.delta = self.product(x, weight)

    def norm(self, stream: Stream, norm: Norm) -> Tensor:
        out = add_and_norm(stream.x, stream.delta, norm.gain, norm.eps)
        stream.delta = None
        return out

    def product(self, x: Tensor, weight: Weight) -> Tensor:
        if _are_few(len(x), weight):
            return _few(x, weight, None)
        parts = [_many(x, matrix) for matrix in weight]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def rotate_and_store(
        self, qkv: Tensor, rope: Rope, slots: Tensor, cache: LayerCache, n_heads: int
    ) -> Tensor:
        return rotate_and_store(qkv, *rope, slots, cache, n_heads)

    def attend(self, q: Tensor, cache: LayerCache, paged: Paged) -> Tensor:
        out = torch.empty_like(q)
        if paged.rows is not None:
            attend_rows(q, cache, paged.rows, paged.tables, paged.block_size, out)
        if paged.tiles is not None:
            self._attend_prompts(q, cache, paged, out)
        return out


def _are_few(n_tokens: int, weight: Weight) -> bool:
    """Whether our own product is the faster one for so many rows of x."""
    return all(
        n_tokens <= (blocks.MOST_ROWS if isinstance(matrix, Blocks) else few_rows.MOST_ROWS)
        for matrix in weight
    )


def _few(x: Tensor, weight: Weight, norm: Norm | None) -> Tensor:
    gain, eps = (None, 0.0) if norm is None else (norm.gain, norm.eps)
    out = torch.empty(len(x), n_rows(weight), dtype=x.dtype, device=x.device)
    begin = 0
    for matrix in weight:
        end = begin + matrix.n_rows
        _multiply(x, matrix, out[:, begin:end], gain=gain, eps=eps)
        begin = end
    return out


def _multiply(
    x: Tensor,
    matrix: Matrix,
    out: Tensor,
    *,
    gain: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    is_gated: bool = False,
) -> None:
    if isinstance(matrix, Blocks):
        blocks.multiply(x, matrix, out, gain=gain, eps=eps, residual=residual, is_gated=is_gated)
    else:
        few_rows.multiply(x, matrix, out, gain=gain, eps=eps, residual=residual, is_gated=is_gated)


def _many(x: Tensor, matrix: Matrix) -> Tensor:
    if isinstance(matrix, Dense):
        return F.linear(x, matrix.value)
    if isinstance(matrix, Blocks):
        numbers = torch.empty(matrix.n_rows, matrix.n_cols, dtype=x.dtype, device=x.device)
        blocks.dequantise(matrix, numbers)
        return F.linear(x, numbers)
    return _scaled_product(x, matrix)


def _scaled_product(x: Tensor, matrix: Fp8) -> Tensor:
    """Both sides in 8-bit floats: rows of x are scaled as the matrix's are."""
    if x.device.type != "cuda" or not fits_matrix_units(matrix):
        return reference.product(x, matrix)
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / largest
    rounded = (x / scale).clamp(-largest, largest).to(torch.float8_e4m3fn)
    return torch._scaled_mm(
        rounded, matrix.value.t(), scale_a=scale, scale_b=matrix.scale[None], out_dtype=x.dtype,
        use_fast_accum=True,
    )  # fmt: skip


def fits_matrix_units(matrix: Fp8) -> bool:
    """Whether the library multiplies in 8-bit floats by a matrix of this shape."""
    n_out, n_in = matrix.value.shape
    return n_out % 16 == 0 and n_in % 16 == 0
