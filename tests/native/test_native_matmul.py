"""Every matrix kernel against its meaning, in float64.

F32, F16 and BF16: widen, then multiply. The block formats: round the activations to 8 bits in
groups of 32, dequantise, then multiply.
"""

from __future__ import annotations

import numpy as np
import pytest
from native_models import stored
from numpy.typing import NDArray

from codellama import _native
from codellama.quant.formats import Format, Tensor, dequantise

LEVELS = _native.simd_levels()
SCALARS = [format for format in Format if not format.is_quantised]
QUANTISED = [format for format in Format if format.is_quantised]
# Rows and tokens around the tiles' sizes; columns around a vector's and a block's.
ROWS = (1, 3, 4, 7, 8, 9, 16, 17, 31, 33)
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13)

Floats = NDArray[np.float32]


def columns(format: Format) -> tuple[int, ...]:
    if format in SCALARS:
        return (1, 15, 31, 32, 33, 63, 96, 200)
    return tuple(n * format.block_size for n in (1, 3, 5))


def rounded(x: Floats) -> NDArray[np.float64]:
    """Activations as packed products read them: 8 bits and a scale for each 32 of a row."""
    groups = x.reshape(len(x), -1, 32)
    most = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    codes = np.rint(groups * inverse).astype(np.float64)
    return (codes * (most / np.float32(127))).reshape(x.shape)


def product(x: Floats, w: Tensor, simd: str, first: int = 0, end: int | None = None) -> Floats:
    """x times rows [first, end) of w."""
    end = w.shape[0] if end is None else end
    data = w.data.reshape(w.shape[0], -1)[first:end].reshape(-1)
    return _native.matmul(x, str(w.format), end - first, data, simd)


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", list(Format))
def test_product_is_its_meaning(format: Format, simd: str) -> None:
    rng = np.random.default_rng(1)
    for cols in columns(format):
        x = rng.normal(size=(max(TOKENS), cols)).astype(np.float32)
        w = stored(rng, format, (max(ROWS), cols))
        exact = x.astype(np.float64) if format in SCALARS else rounded(x)
        wide = w.to_float32().astype(np.float64)
        # Codes cancel against their zero or minimum, so their sizes bound the rounding.
        size = np.abs(wide) + 300 * np.abs(wide).max()
        bound = (1e-6 if format in SCALARS else 3e-8) * (np.abs(exact) @ size.T) + 1e-12
        for rows in ROWS:
            for n in TOKENS:
                got = product(x[:n], w, simd, 0, rows)
                error = np.abs(got - exact[:n] @ wide[:rows].T)
                assert got.shape == (n, rows)
                assert (error <= bound[:n, :rows]).all(), (cols, rows, n)


@pytest.mark.parametrize("format", QUANTISED)
def test_rounded_activations_are_close(format: Format) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(8, 2048)).astype(np.float32)
    w = stored(rng, format, (64, 2048))
    want = x @ w.to_float32().T
    assert np.abs(product(x, w, "auto") - want).max() < 0.03 * want.std()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", list(Format))
def test_a_product_has_the_same_bits_in_every_tile(format: Format, simd: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, columns(format)[-1])).astype(np.float32)
    w = stored(rng, format, (45, x.shape[1]))
    whole = product(x, w, simd)
    for n in range(1, 14):
        assert (product(x[3 : 3 + n], w, simd) == whole[3 : 3 + n]).all()
    assert (product(x, w, simd, 31, 36) == whole[:, 31:36]).all()


@pytest.mark.parametrize("format", QUANTISED)
def test_wide_registers_give_the_same_bits(format: Format) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(5, 1024)).astype(np.float32)
    w = stored(rng, format, (20, 1024))
    first, *rest = (product(x, w, simd) for simd in LEVELS if simd != "generic")
    for other in rest:
        assert (other == first).all()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", QUANTISED)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_extreme_codes_and_activations_do_not_overflow(
    format: Format, simd: str, byte: int
) -> None:
    w = stored(np.random.default_rng(3), format, (16, 256))
    blocks = np.full((16 * 256 // format.block_size, format.block_bytes), byte, np.uint8)
    for at in (0, 2) if format.block_size == 32 else (0, 2, 80, 82, 108, 208):
        if at + 2 <= format.block_bytes:
            blocks[:, at : at + 2] = np.array([1.0], np.float16).view(np.uint8)
    w = Tensor(format, (16, 256), blocks.reshape(-1))
    signs = np.where(np.arange(256) % 3 > 0, 1, -1)
    x = np.stack([np.ones(256), -np.ones(256), signs]).astype(np.float32)
    want = rounded(x) @ w.to_float32().astype(np.float64).T
    np.testing.assert_allclose(product(x, w, simd), want, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(bad: float, simd: str) -> None:
    rng = np.random.default_rng(9)
    w = stored(rng, Format.Q8_0, (16, 96))
    x = rng.normal(size=(3, 96)).astype(np.float32)
    want = product(x, w, simd)
    x[1, 40] = bad
    got = product(x, w, simd)
    assert not np.isfinite(got[1]).any()
    assert (got[[0, 2]] == want[[0, 2]]).all()


@pytest.mark.parametrize("simd", LEVELS)
def test_zeros_and_tiny_numbers(simd: str) -> None:
    w = stored(np.random.default_rng(10), Format.Q4_0, (16, 32))
    x = np.zeros((2, 32), np.float32)
    x[1, 3] = 1e-42
    assert np.abs(product(x, w, simd)).max() < 1e-38


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", SCALARS)
def test_widening_first_gives_the_same_bits(format: Format, simd: str) -> None:
    rng = np.random.default_rng(3)
    w = stored(rng, format, (19, columns(format)[-1]))
    plain = w.to(Format.F32)
    for n in (1, 2, 9):
        x = rng.normal(size=(n, w.shape[1])).astype(np.float32)
        assert (product(x, w, simd) == product(x, plain, simd)).all()


@pytest.mark.parametrize("simd", LEVELS)
def test_every_half_and_every_bfloat_is_read_exactly(simd: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    one = np.ones((1, 1), np.float32)
    for format in (Format.F16, Format.BF16):
        want = dequantise(format, bits.view(np.uint8).reshape(-1, 2))[:, 0]
        got = _native.matmul(one, str(format), 1 << 16, bits.view(np.uint8), simd)[0]
        assert np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", [Format.F32, Format.Q8_0, Format.Q4_K])
def test_weights_may_lie_at_any_address(format: Format, simd: str) -> None:
    rng = np.random.default_rng(4)
    w = stored(rng, format, (5, 256))
    x = rng.normal(size=(2, 256)).astype(np.float32)
    shifted = np.zeros(w.n_bytes + 1, np.uint8)[1:]
    shifted[:] = w.data
    assert (_native.matmul(x, str(format), 5, shifted, simd) == product(x, w, simd)).all()
