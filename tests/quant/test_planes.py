"""Planes hold the numbers of the blocks they were made from, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from codellama.errors import CheckpointError
from codellama.quant.formats import Format, Tensor, n_bytes
from codellama.quant.planes import LAYOUTS, dequantise, planes_of


def random_tensor(format: Format, shape: tuple[int, int]) -> Tensor:
    """Blocks of random bits, with scales that are numbers."""
    rng = np.random.default_rng(len(format))
    raw = rng.integers(0, 256, n_bytes(format, shape), np.uint8).reshape(-1, format.block_bytes)
    for at in {Format.Q6_K: [208], Format.Q3_K: [108], Format.Q2_K: [80, 82]}.get(format, [0, 2]):
        if at == 2 and format in (Format.Q8_0, Format.Q4_0, Format.Q5_0):
            continue
        scales = rng.normal(0, 0.1, len(raw)).astype("<f2")
        raw[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return Tensor(format, shape, raw.reshape(-1))


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 256), (3, 512), (5, 1280)])
def test_planes_as_blocks(format: Format, shape: tuple[int, int]) -> None:
    tensor = random_tensor(format, shape)
    planes = planes_of(tensor)
    np.testing.assert_array_equal(dequantise(planes), tensor.to_float32())
    # Q2_K and Q3_K grow to four bits; scales of six bits take a byte each.
    grown = {Format.Q2_K: 2.0, Format.Q3_K: 1.4, Format.Q4_K: 1.04, Format.Q5_K: 1.03}
    assert planes.n_bytes <= tensor.n_bytes * grown.get(format, 1.0)


@pytest.mark.parametrize("format", [f for f in LAYOUTS if f.block_size == 32])
def test_rows_of_a_few_blocks(format: Format) -> None:
    tensor = random_tensor(format, (7, 96))
    np.testing.assert_array_equal(dequantise(planes_of(tensor)), tensor.to_float32())


def test_what_has_no_blocks_is_refused() -> None:
    with pytest.raises(CheckpointError, match="F16 cannot be laid out in planes"):
        planes_of(Tensor.from_float32(np.ones((2, 32), np.float32), Format.F16))
    with pytest.raises(CheckpointError, match=r"\[32\] in Q8_0"):
        planes_of(Tensor.from_float32(np.ones(32, np.float32), Format.Q8_0))
