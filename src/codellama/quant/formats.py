"""The number formats a weight may be stored in, and what their bytes mean.

Names and layouts are GGUF's (the `ggml` block formats). A row of a matrix is a whole number of
blocks, little endian:

    F32, F16, BF16   one number each
    Q8_0             32 numbers: an F16 scale d, then 32 signed bytes q; a number is d * q
    Q4_0             32 numbers: an F16 scale d, then 16 bytes; byte j holds number j in its low
                     nibble and number j + 16 in its high one; a number is d * (nibble - 8)

`quantise` and `dequantise` are the meaning of these formats: every kernel is compared with them,
and they agree bit for bit with the `gguf` package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_CHUNK = 1 << 20  # numbers worked on at once, which bounds the temporaries


class Format(StrEnum):
    """How the numbers of one tensor are stored."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"

    @property
    def block_size(self) -> int:
        """Numbers in a block."""
        return _LAYOUT[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes in a block."""
        return _LAYOUT[self][1]

    @property
    def is_quantised(self) -> bool:
        """Whether numbers share a scale."""
        return self.block_size > 1


_LAYOUT = {
    Format.F32: (1, 4),
    Format.F16: (1, 2),
    Format.BF16: (1, 2),
    Format.Q8_0: (32, 34),
    Format.Q4_0: (32, 18),
}


def row_bytes(format: Format, n_cols: int) -> int:
    """Bytes of a row of `n_cols` numbers.

    Raises:
        CheckpointError: the row is not a whole number of blocks.
    """
    if n_cols % format.block_size:
        raise CheckpointError(
            f"a row of {n_cols} numbers cannot be stored as {format}, "
            f"which needs a multiple of {format.block_size}"
        )
    return n_cols // format.block_size * format.block_bytes


def n_bytes(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; exact for any size, since Python's integers do not overflow.

    Raises:
        CheckpointError: a dimension is negative, or a row is not a whole number of blocks.
    """
    if any(n < 0 for n in shape):
        raise CheckpointError(f"a tensor cannot have the shape {list(shape)}")
    if not shape:
        return row_bytes(format, 1)
    return math.prod(shape[:-1]) * row_bytes(format, shape[-1])


def dequantise(format: Format, raw: Bytes) -> Floats:
    """The numbers behind `raw` [..., row_bytes], as float32 [..., n_cols].

    The result may share `raw`'s memory when the format is F32.

    Raises:
        CheckpointError: the last axis of `raw` is not a whole number of blocks.
    """
    if raw.shape[-1] % format.block_bytes:
        raise CheckpointError(
            f"{raw.shape[-1]} bytes are not a row of {format}, "
            f"whose blocks have {format.block_bytes} bytes"
        )
    shape = (*raw.shape[:-1], raw.shape[-1] // format.block_bytes * format.block_size)
    flat = np.ascontiguousarray(raw).reshape(-1)
    if format is Format.F32:
        numbers = flat.view("<f4").astype(np.float32, copy=False)
        return np.require(numbers, requirements="A").reshape(shape)
    out = np.empty(math.prod(shape), dtype=np.float32)
    _in_chunks(_DECODERS[format], flat, format.block_bytes, out, format.block_size, format)
    return out.reshape(shape)


def quantise(format: Format, x: Floats) -> Bytes:
    """`x` [..., n_cols] rounded to `format`, as bytes [..., row_bytes].

    F16 and BF16 round to nearest, ties to even. Q8_0 divides a block by its largest magnitude over
    127 and rounds halves away from zero; Q4_0 divides by its largest number (with sign) over -8.
    NaN and infinities survive in F32, F16 and BF16.

    Raises:
        CheckpointError: a row is not a whole number of blocks, a number is too large for the
            format, or a block format is given NaN or an infinity.
    """
    x = np.asarray(x, dtype=np.float32)
    shape = (*x.shape[:-1], row_bytes(format, x.shape[-1]))
    flat = np.ascontiguousarray(x).reshape(-1)
    if format is Format.F32:
        return flat.astype("<f4", copy=False).view(np.uint8).reshape(shape)
    out = np.empty(math.prod(shape), dtype=np.uint8)
    _in_chunks(_ENCODERS[format], flat, format.block_size, out, format.block_bytes, format)
    return out.reshape(shape)


@dataclass(frozen=True, eq=False)
class Tensor:
    """One weight as it is stored: its format, its shape and its bytes.

    `data` is one-dimensional, contiguous and read-only; the last dimension of `shape` runs fastest.

    Raises:
        CheckpointError: the number of bytes does not fit format and shape.
    """

    format: Format
    shape: tuple[int, ...]
    data: Bytes

    def __post_init__(self) -> None:
        expected = n_bytes(self.format, self.shape)
        if self.data.dtype != np.uint8 or self.data.ndim != 1 or self.data.size != expected:
            raise CheckpointError(
                f"a tensor {list(self.shape)} in {self.format} has {expected} bytes, "
                f"not {self.data.dtype} {list(self.data.shape)}"
            )

    @classmethod
    def from_float32(cls, x: Floats, format: Format = Format.F32) -> Tensor:
        """`x` rounded to `format`. Raises as `quantise` does."""
        data = quantise(format, x).reshape(-1)
        if np.shares_memory(data, x):
            data = data.copy()
        data.flags.writeable = False
        return cls(format, tuple(x.shape), data)

    @property
    def n_bytes(self) -> int:
        return self.data.size

    def to_float32(self) -> Floats:
        """The numbers, in `shape`. Shares memory, and is read-only, when the format is F32."""
        return dequantise(self.format, self.data).reshape(self.shape)

    def to(self, format: Format) -> Tensor:
        """The same numbers rounded to another format. Raises as `quantise` does."""
        if format is self.format:
            return self
        n_cols = self.shape[-1] if self.shape else 1
        out = np.empty(n_bytes(format, self.shape), dtype=np.uint8)
        source = self.data.reshape(-1, row_bytes(self.format, n_cols))
        target = out.reshape(-1, row_bytes(format, n_cols))
        step = max(1, _CHUNK // max(1, n_cols))
        for start in range(0, len(source), step):
            rows = slice(start, start + step)
            target[rows] = quantise(format, dequantise(self.format, source[rows]))
        out.flags.writeable = False
        return Tensor(format, self.shape, out)


def _in_chunks(
    body: Callable[[NDArray[np.generic]], NDArray[np.generic]],
    source: NDArray[np.generic],
    source_width: int,
    target: NDArray[np.generic],
    target_width: int,
    format: Format,
) -> None:
    """Runs `body` over groups of blocks [n, width], from `source` into `target`."""
    blocks, results = source.reshape(-1, source_width), target.reshape(-1, target_width)
    step = _CHUNK // format.block_size
    for start in range(0, len(blocks), step):
        results[start : start + step] = body(blocks[start : start + step])


def _decode_f16(raw: Bytes) -> Floats:
    return raw.view("<f2").astype(np.float32)


def _decode_bf16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _decode_q8_0(blocks: Bytes) -> Floats:
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)  # [n, 1]
    return blocks[:, 2:].view(np.int8).astype(np.float32) * scales


def _decode_q4_0(blocks: Bytes) -> Floats:
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)  # [n, 1]
    pairs = blocks[:, 2:]
    nibbles = np.concatenate([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=1)
    return scales * (nibbles.astype(np.float32) - np.float32(8))


def _encode_f16(x: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        halves = x.astype("<f2")
    if np.any(np.isinf(halves) & np.isfinite(x)):
        raise _too_large(x, Format.F16)
    return halves.view(np.uint8)


def _encode_bf16(x: Floats) -> Bytes:
    bits = x.view(np.uint32)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    # Adding 0x7fff plus the lowest kept bit carries upwards exactly when rounding must go up.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # a NaN stays one whatever bits are cut off
    halves = np.where(is_nan, quiet, rounded).astype("<u2")
    if np.any(((halves & 0x7FFF) == 0x7F80) & np.isfinite(x)):
        raise _too_large(x, Format.BF16)
    return halves.view(np.uint8)


def _encode_q8_0(blocks: Floats) -> Bytes:
    scale, inverse = _scales(np.abs(blocks).max(axis=1, keepdims=True), 127, Format.Q8_0)
    ratios = blocks * inverse
    whole = np.trunc(ratios)
    rounded = whole + np.trunc(2 * (ratios - whole))  # halves away from zero
    return np.concatenate([scale, rounded.astype(np.int8).view(np.uint8)], axis=1)


def _encode_q4_0(blocks: Floats) -> Bytes:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale, inverse = _scales(largest, -8, Format.Q4_0)
    nibbles = np.trunc(blocks * inverse + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate([scale, nibbles[:, :16] | (nibbles[:, 16:] << np.uint8(4))], axis=1)


def _scales(largest: Floats, steps: int, format: Format) -> tuple[Bytes, Floats]:
    """The stored scale [n, 2] of blocks whose extreme is `largest` [n, 1], and its inverse."""
    if not np.isfinite(largest).all():
        raise CheckpointError(f"NaN or an infinity cannot be stored as {format}")
    d = largest / np.float32(steps)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
        stored = d.astype("<f2")
    if np.isinf(stored).any():
        raise _too_large(largest, format)
    # A scale of zero, or so small that its inverse overflows, is a block of zeros.
    return stored.view(np.uint8), np.where(np.isfinite(inverse), inverse, np.float32(0))


def _too_large(x: Floats, format: Format) -> CheckpointError:
    peak = float(np.abs(x[np.isfinite(x)]).max())
    return CheckpointError(
        f"the number {peak:g} is too large to be stored as {format}",
        hint="keep F32 or BF16, which reach further",
    )


_DECODERS: dict[Format, Callable[..., Floats]] = {
    Format.F16: _decode_f16,
    Format.BF16: _decode_bf16,
    Format.Q8_0: _decode_q8_0,
    Format.Q4_0: _decode_q4_0,
}
_ENCODERS: dict[Format, Callable[..., Bytes]] = {
    Format.F16: _encode_f16,
    Format.BF16: _encode_bf16,
    Format.Q8_0: _encode_q8_0,
    Format.Q4_0: _encode_q4_0,
}
