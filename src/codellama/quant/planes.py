"""Block formats as planes: the same bits, laid out for processors that read many blocks at once.

A block's bytes mix scales with numbers, at odd addresses. Here each kind of byte of a matrix
[N, K] has an array of its own, so that rows of numbers can be read in aligned runs. Nothing is
rounded: with q the stored whole number of column c,

    number = d[c // block] * s[c // group] * (q - offset) + dmin[c // block] * m[c // group]

where formats without s, m or dmin leave the factor or the term out. `dequantise` is the meaning of
a set of planes; kernels are compared with it.

Where q has fewer than 8 bits, byte b of `low` holds the low four bits of two columns:
`2 * half * (b // half) + b % half` in its low nibble and the column `half` further on in its high
one, as in the blocks themselves. Upper bits are in `high`: the `bits - 4` bits of the first column
and then those of the second, byte after byte of `low`, without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.quant import blocks_k
from codellama.quant.formats import Bytes, Floats, Format, Tensor

Halves = NDArray[np.float16]
Signed = NDArray[np.int8]


class Layout(NamedTuple):
    """How planes are read: bits of q, columns between the two of a byte, and columns per scale.

    With 8 bits `low` holds whole numbers with their sign and `half` means nothing.
    """

    bits: int
    half: int
    group: int
    block: int
    offset: int


LAYOUTS = {
    Format.Q8_0: Layout(8, 32, 32, 32, 0),
    Format.Q4_0: Layout(4, 16, 32, 32, 8),
    Format.Q4_1: Layout(4, 16, 32, 32, 0),
    Format.Q5_0: Layout(5, 16, 32, 32, 16),
    Format.Q5_1: Layout(5, 16, 32, 32, 0),
    Format.Q2_K: Layout(4, 16, 16, 256, 0),
    Format.Q3_K: Layout(4, 16, 16, 256, 4),
    Format.Q4_K: Layout(4, 32, 32, 256, 0),
    Format.Q5_K: Layout(5, 32, 32, 256, 0),
    Format.Q6_K: Layout(6, 64, 16, 256, 32),
}
"""Q2_K and Q3_K have four bits here, two and one of them zero."""


@dataclass(frozen=True, kw_only=True)
class Planes:
    """A matrix [N, K] in planes.

    low [N, K / 2] (8 bits: [N, K]), high [N, K * (bits - 4) / 8], d and dmin [N, K / block],
    s and m [N, K / group].
    """

    layout: Layout
    low: Bytes
    high: Bytes | None
    d: Halves
    s: Signed | None
    dmin: Halves | None
    m: Signed | None

    @property
    def n_bytes(self) -> int:
        parts = (self.low, self.high, self.d, self.s, self.dmin, self.m)
        return sum(part.nbytes for part in parts if part is not None)


def planes_of(tensor: Tensor) -> Planes:
    """The planes of a matrix in a block format.

    Raises:
        CheckpointError: the tensor is no matrix, or its format has no blocks.
    """
    format = tensor.format
    if format not in LAYOUTS or len(tensor.shape) != 2:
        raise CheckpointError(
            f"a tensor {list(tensor.shape)} in {format} cannot be laid out in planes, "
            "which are for matrices in a block format"
        )
    layout = LAYOUTS[format]
    n_rows = tensor.shape[0]
    blocks = tensor.data.reshape(-1, format.block_bytes)
    fields = _FIELDS[format](blocks)

    def per_row(x: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
        return None if x is None else np.ascontiguousarray(x).reshape(n_rows, -1)

    if layout.bits == 8:
        low, high = fields.q, None
    else:
        pairs = fields.q.reshape(len(blocks), -1, 2, layout.half)
        low = (pairs[:, :, 0] & np.uint8(15)) | (pairs[:, :, 1] << np.uint8(4))
        high = _upper_bits(pairs, layout.bits - 4)
    return Planes(
        layout=layout,
        low=per_row(low),  # type: ignore[arg-type]  # the dtype goes through unchanged
        high=per_row(high),  # type: ignore[arg-type]  # the dtype goes through unchanged
        d=per_row(fields.d),  # type: ignore[arg-type]  # the dtype goes through unchanged
        s=per_row(fields.s),  # type: ignore[arg-type]  # the dtype goes through unchanged
        dmin=per_row(fields.dmin),  # type: ignore[arg-type]  # the dtype goes through unchanged
        m=per_row(fields.m),  # type: ignore[arg-type]  # the dtype goes through unchanged
    )


def dequantise(planes: Planes) -> Floats:
    """The numbers [N, K], in float32."""
    layout, n_rows = planes.layout, len(planes.low)
    if layout.bits == 8:
        q = planes.low.view(np.int8).astype(np.float32)
    else:
        low = planes.low.reshape(n_rows, -1, 1, layout.half)
        whole = np.concatenate([low & np.uint8(15), low >> np.uint8(4)], axis=2)
        if planes.high is not None:
            n = layout.bits - 4
            bits = np.unpackbits(planes.high, axis=1, bitorder="little")
            upper = np.packbits(bits.reshape(n_rows, -1, n), axis=2, bitorder="little")
            pairs = upper.reshape(n_rows, -1, layout.half, 2).swapaxes(2, 3)
            whole = whole | (pairs << np.uint8(4))
        q = whole.reshape(n_rows, -1).astype(np.float32)
    out = _scales(planes.d, planes.s, layout) * (q - np.float32(layout.offset))
    if planes.dmin is not None:
        out = out + _scales(planes.dmin, planes.m, layout)
    return out


def _scales(d: Halves, s: Signed | None, layout: Layout) -> Floats:
    scales = np.repeat(d.astype(np.float32), layout.block, axis=1)
    if s is not None:
        scales = scales * np.repeat(s.astype(np.float32), layout.group, axis=1)
    return scales


class _Fields(NamedTuple):
    """What blocks hold: q [n, block_size] with the low four bits and those above, and the rest."""

    q: Bytes
    d: Halves
    s: Signed | None = None
    dmin: Halves | None = None
    m: Signed | None = None


def _upper_bits(pairs: Bytes, n: int) -> Bytes | None:
    """The bits above four of q [blocks, runs, 2, half], packed in the order of the docstring."""
    if n == 0:
        return None
    upper = (pairs >> np.uint8(4)).swapaxes(2, 3).reshape(len(pairs), -1, 1)
    bits = (upper >> np.arange(n, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(bits.reshape(len(pairs), -1), axis=1, bitorder="little")


def _half(blocks: Bytes, at: int) -> Halves:
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float16)


def _nibbles(raw: Bytes) -> Bytes:
    return blocks_k.fields(raw, 16, 4)


def _fives(bits: Bytes, raw: Bytes) -> Bytes:
    fifth = np.unpackbits(bits, axis=1, bitorder="little")
    return _nibbles(raw) | (fifth << np.uint8(4))


def _q8_0(blocks: Bytes) -> _Fields:
    return _Fields(blocks[:, 2:], _half(blocks, 0))


def _q4_0(blocks: Bytes) -> _Fields:
    return _Fields(_nibbles(blocks[:, 2:]), _half(blocks, 0))


def _q4_1(blocks: Bytes) -> _Fields:
    return _Fields(_nibbles(blocks[:, 4:]), _half(blocks, 0), dmin=_half(blocks, 2))


def _q5_0(blocks: Bytes) -> _Fields:
    return _Fields(_fives(blocks[:, 2:6], blocks[:, 6:]), _half(blocks, 0))


def _q5_1(blocks: Bytes) -> _Fields:
    q = _fives(blocks[:, 4:8], blocks[:, 8:])
    return _Fields(q, _half(blocks, 0), dmin=_half(blocks, 2))


def _q2_k(blocks: Bytes) -> _Fields:
    s, m = blocks[:, :16] & np.uint8(15), blocks[:, :16] >> np.uint8(4)
    q = blocks_k.fields(blocks[:, 16:80], 32, 2)
    return _with_minima(q, _half(blocks, 80), s, _half(blocks, 82), m)


def _q3_k(blocks: Bytes) -> _Fields:
    low = blocks_k.fields(blocks[:, 96:104], 8, 4)
    high = blocks_k.fields(blocks[:, 104:108], 4, 2)
    s = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    q = blocks_k.fields(blocks[:, 32:96], 32, 2)
    q = q | (blocks_k.fields(blocks[:, :32], 32, 1) << np.uint8(2))
    return _Fields(q, _half(blocks, 108), s)


def _q4_k(blocks: Bytes) -> _Fields:
    q = blocks_k.fields(blocks[:, 16:], 32, 4)
    s, m = blocks_k.six_bit_scales(blocks)
    return _with_minima(q, _half(blocks, 0), s, _half(blocks, 2), m)


def _q5_k(blocks: Bytes) -> _Fields:
    q = blocks_k.fields(blocks[:, 48:], 32, 4)
    q = q | (blocks_k.fields(blocks[:, 16:48], 32, 1) << np.uint8(4))
    s, m = blocks_k.six_bit_scales(blocks)
    return _with_minima(q, _half(blocks, 0), s, _half(blocks, 2), m)


def _q6_k(blocks: Bytes) -> _Fields:
    q = blocks_k.fields(blocks[:, :128], 64, 4)
    q = q | (blocks_k.fields(blocks[:, 128:192], 32, 2) << np.uint8(4))
    return _Fields(q, _half(blocks, 208), blocks[:, 192:208].view(np.int8))


def _with_minima(q: Bytes, d: Halves, s: Bytes, dmin: Halves, m: Bytes) -> _Fields:
    """The K formats take the minimum away; planes add it."""
    return _Fields(q, d, s.view(np.int8), -dmin, m.view(np.int8))


_FIELDS = {
    Format.Q8_0: _q8_0,
    Format.Q4_0: _q4_0,
    Format.Q4_1: _q4_1,
    Format.Q5_0: _q5_0,
    Format.Q5_1: _q5_1,
    Format.Q2_K: _q2_k,
    Format.Q3_K: _q3_k,
    Format.Q4_K: _q4_k,
    Format.Q5_K: _q5_k,
    Format.Q6_K: _q6_k,
}
