"""Stored bytes mean the same numbers here and in the `gguf` package, whatever the bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codellama.quant.formats import Format, dequantise

BLOCKS = [format for format in Format if format.is_quantised]

# Where a block's F16 scales lie.
SCALES = {
    Format.Q8_0: (0,), Format.Q4_0: (0,), Format.Q4_1: (0, 2), Format.Q5_0: (0,),
    Format.Q5_1: (0, 2), Format.Q2_K: (80, 82), Format.Q3_K: (108,), Format.Q4_K: (0, 2),
    Format.Q5_K: (0, 2), Format.Q6_K: (208,),
}  # fmt: skip


def agree(format: Format, raw: NDArray[np.uint8]) -> None:
    """Bit for bit; a NaN is a NaN, since which of its bits survive is the processor's choice."""
    ours = dequantise(format, raw)
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(raw, gguf.GGMLQuantizationType[format.value])
    assert ours.shape == theirs.shape == (*raw.shape[:-1], ours.shape[-1])
    nan = np.isnan(theirs)
    assert (np.isnan(ours) == nan).all()
    assert (ours.view(np.uint32) == theirs.view(np.uint32))[~nan].all()


@pytest.mark.parametrize("format", BLOCKS)
def test_random_bytes(format: Format) -> None:
    rng = np.random.default_rng(0)
    agree(format, rng.integers(0, 256, (7, 50 * format.block_bytes), dtype=np.uint8))


@pytest.mark.parametrize("format", BLOCKS)
def test_every_byte_in_every_place(format: Format) -> None:
    """One block for each value of each byte, the others being as they may."""
    rng = np.random.default_rng(1)
    n = format.block_bytes
    raw = np.broadcast_to(rng.integers(0, 256, n, dtype=np.uint8), (n, 256, n)).copy()
    for at in SCALES[format]:
        raw[..., at : at + 2] = np.array([1.25], "<f2").view(np.uint8)
    for i in range(n):
        raw[i, :, i] = np.arange(256)
    agree(format, raw)
    assert len(np.unique(dequantise(format, raw).reshape(-1, format.block_size), axis=0)) > n


@pytest.mark.parametrize("format", BLOCKS)
def test_every_scale_there_is(format: Format) -> None:
    """Zeros of both signs, denormals, infinities and NaN among them, in each place for a scale."""
    rng = np.random.default_rng(2)
    every = np.arange(1 << 16, dtype="<u2")[:, None].view(np.uint8)
    body = rng.integers(0, 256, (256, format.block_bytes), dtype=np.uint8)
    for at in SCALES[format]:
        raw = np.tile(body, (256, 1))
        raw[:, at : at + 2] = every
        agree(format, raw)


@pytest.mark.parametrize("format", BLOCKS)
@pytest.mark.parametrize("byte", [0, 1, 15, 16, 0x55, 0xAA, 0xF0, 0x7F, 0x80, 0xFF])
def test_blocks_of_one_byte(format: Format, byte: int) -> None:
    agree(format, np.full((1, 3 * format.block_bytes), byte, np.uint8))
    none = np.full((0, format.block_bytes), byte, np.uint8)
    assert dequantise(format, none).shape == (0, format.block_size)


@settings(deadline=None)
@given(st.sampled_from(BLOCKS), st.data())
def test_any_bytes(format: Format, data: st.DataObject) -> None:
    n = format.block_bytes
    raw = data.draw(st.binary(min_size=n, max_size=n))
    agree(format, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize("format", BLOCKS)
def test_blocks_do_not_touch_each_other(format: Format) -> None:
    raw = np.random.default_rng(3).integers(0, 256, (9, format.block_bytes), dtype=np.uint8)
    alone = np.stack([dequantise(format, block) for block in raw])
    assert np.array_equal(dequantise(format, raw.reshape(-1)).reshape(9, -1), alone, equal_nan=True)
