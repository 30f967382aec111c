"""Every matrix kernel against its meaning: dequantise, then multiply, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from codellama import _native
from codellama.quant.formats import Format, dequantise, quantise

LEVELS = _native.simd_levels()
SCALARS = [Format.F32, Format.F16, Format.BF16]
QUANTISED = [Format.Q8_0, Format.Q4_0]
# Rows and tokens around the tiles' sizes; columns around a vector's and a block's.
ROWS = (1, 3, 4, 7, 8, 9, 16, 17, 31, 33)
TOKENS = (1, 2, 3, 4, 5, 6, 7, 12, 13)
COLUMNS = {
    **dict.fromkeys(SCALARS, (1, 15, 31, 32, 33, 63, 96, 200)),
    **dict.fromkeys(QUANTISED, (32, 96, 160)),
}


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", list(Format))
def test_product_is_dequantise_then_multiply(format: Format, simd: str) -> None:
    rng = np.random.default_rng(1)
    for cols in COLUMNS[format]:
        x = rng.normal(size=(max(TOKENS), cols)).astype(np.float32)
        raw = quantise(format, rng.normal(size=(max(ROWS), cols)).astype(np.float32))
        wide = dequantise(format, raw).astype(np.float64)
        bound = 1e-6 * (np.abs(x).astype(np.float64) @ np.abs(wide).T) + 1e-12
        for rows in ROWS:
            data = raw[:rows].reshape(-1)
            for n in TOKENS:
                got = _native.matmul(x[:n], str(format), rows, data, simd)
                error = np.abs(got - x[:n].astype(np.float64) @ wide[:rows].T)
                assert got.shape == (n, rows)
                assert (error <= bound[:n, :rows]).all(), (cols, rows, n)


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", list(Format))
def test_a_product_has_the_same_bits_in_every_tile(format: Format, simd: str) -> None:
    rng = np.random.default_rng(2)
    cols = COLUMNS[format][-1]
    x = rng.normal(size=(40, cols)).astype(np.float32)
    raw = quantise(format, rng.normal(size=(45, cols)).astype(np.float32))
    whole = _native.matmul(x, str(format), 45, raw.reshape(-1), simd)
    for n in range(1, 14):
        part = _native.matmul(x[3 : 3 + n], str(format), 45, raw.reshape(-1), simd)
        assert (part == whole[3 : 3 + n]).all()
    part = _native.matmul(x, str(format), 5, raw[31:36].reshape(-1), simd)
    assert (part == whole[:, 31:36]).all()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", list(Format))
def test_expanding_first_gives_the_same_bits(format: Format, simd: str) -> None:
    rng = np.random.default_rng(3)
    cols = COLUMNS[format][-1]
    raw = quantise(format, rng.normal(size=(19, cols)).astype(np.float32))
    plain = dequantise(format, raw).view(np.uint8).reshape(-1)
    for n in (1, 2, 9):
        x = rng.normal(size=(n, cols)).astype(np.float32)
        direct = _native.matmul(x, str(format), 19, raw.reshape(-1), simd)
        assert (direct == _native.matmul(x, "F32", 19, plain, simd)).all()


@pytest.mark.parametrize("simd", LEVELS)
def test_every_half_and_every_bfloat_is_read_exactly(simd: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    one = np.ones((1, 1), np.float32)
    for format in (Format.F16, Format.BF16):
        want = dequantise(format, bits.view(np.uint8).reshape(-1, 2))[:, 0]
        got = _native.matmul(one, str(format), 1 << 16, bits.view(np.uint8), simd)[0]
        assert np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize("simd", LEVELS)
def test_weights_may_lie_at_any_address(simd: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 40)).astype(np.float32)
    weights = rng.normal(size=(5, 40)).astype(np.float32)
    shifted = np.zeros(weights.nbytes + 1, np.uint8)[1:]
    shifted[:] = weights.view(np.uint8).reshape(-1)
    want = _native.matmul(x, "F32", 5, weights.view(np.uint8).reshape(-1), simd)
    assert (_native.matmul(x, "F32", 5, shifted, simd) == want).all()
