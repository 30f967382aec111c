"""The number formats a weight may be stored in.

Names and layouts are GGUF's (the `ggml` block formats). A row of a matrix is a whole number of
blocks, little endian. F32, F16 and BF16 are one number each; `blocks_32` and `blocks_k` say what
the bytes of the other formats mean.

`quantise` and `dequantise` are the meaning of these formats: every kernel is compared with them.
Dequantised numbers agree bit for bit with the `gguf` package, and so do quantised blocks of 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.quant import blocks_32, blocks_k, encode_k, halves
from codellama.quant.halves import Bytes, Floats

__all__ = [
    "WRITTEN_BLOCKS", "Bytes", "Floats", "Format", "Tensor",
    "dequantise", "n_bytes", "quantise", "row_bytes",
]  # fmt: skip

_CHUNK = 1 << 20  # numbers worked on at once, which bounds the temporaries


class Format(StrEnum):
    """How the numbers of one tensor are stored."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q2_K = "Q2_K"
    Q3_K = "Q3_K"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"

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
    Format.Q4_1: (32, 20),
    Format.Q5_0: (32, 22),
    Format.Q5_1: (32, 24),
    Format.Q2_K: (256, 84),
    Format.Q3_K: (256, 110),
    Format.Q4_K: (256, 144),
    Format.Q5_K: (256, 176),
    Format.Q6_K: (256, 210),
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

    A scale that is NaN or an infinity spoils the numbers it scales and no others. The result may
    share `raw`'s memory when the format is F32.

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
    with np.errstate(invalid="ignore"):  # an infinite scale times zero is NaN, and may be
        _in_chunks(_DECODERS[format], flat, format.block_bytes, out, format.block_size, format)
    return out.reshape(shape)


def quantise(format: Format, x: Floats) -> Bytes:
    """`x` [..., n_cols] rounded to `format`, as bytes [..., row_bytes].

    F16 and BF16 round to nearest, ties to even, and keep NaN and infinities; the modules of the
    block formats say how those choose their scales.

    Raises:
        CheckpointError: a row is not a whole number of blocks, a number is too large for the
            format, a block format is given NaN or an infinity, or the format is only read.
    """
    if format is not Format.F32 and format not in _ENCODERS:
        raise CheckpointError(
            f"{format} is a format that is read and not written",
            hint=f"there are {', '.join((Format.F32, *_ENCODERS))}",
        )
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
    body: Callable[..., NDArray[np.generic]],
    source: NDArray[np.generic],
    source_width: int,
    target: NDArray[np.generic],
    target_width: int,
    format: Format,
) -> None:
    """Runs `body` over groups of blocks [n, width], from `source` into `target`."""
    blocks, results = source.reshape(-1, source_width), target.reshape(-1, target_width)
    step = max(1, _CHUNK // format.block_size)
    for start in range(0, len(blocks), step):
        results[start : start + step] = body(blocks[start : start + step])


_DECODERS: dict[Format, Callable[[Bytes], Floats]] = {
    Format.F16: halves.decode_f16,
    Format.BF16: halves.decode_bf16,
    Format.Q8_0: blocks_32.decode_q8_0,
    Format.Q4_0: blocks_32.decode_q4_0,
    Format.Q4_1: blocks_32.decode_q4_1,
    Format.Q5_0: blocks_32.decode_q5_0,
    Format.Q5_1: blocks_32.decode_q5_1,
    Format.Q2_K: blocks_k.decode_q2_k,
    Format.Q3_K: blocks_k.decode_q3_k,
    Format.Q4_K: blocks_k.decode_q4_k,
    Format.Q5_K: blocks_k.decode_q5_k,
    Format.Q6_K: blocks_k.decode_q6_k,
}
_ENCODERS: dict[Format, Callable[[Floats], Bytes]] = {
    Format.F16: halves.encode_f16,
    Format.BF16: halves.encode_bf16,
    Format.Q8_0: blocks_32.encode_q8_0,
    Format.Q4_0: blocks_32.encode_q4_0,
    Format.Q4_1: blocks_32.encode_q4_1,
    Format.Q5_0: blocks_32.encode_q5_0,
    Format.Q5_1: blocks_32.encode_q5_1,
    Format.Q4_K: encode_k.encode_q4_k,
    Format.Q5_K: encode_k.encode_q5_k,
    Format.Q6_K: encode_k.encode_q6_k,
}
WRITTEN_BLOCKS = frozenset(format for format in _ENCODERS if format.is_quantised)
"""The block formats that numbers can be rounded to."""
