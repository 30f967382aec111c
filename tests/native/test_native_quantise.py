"""The native encoders give the bits of the NumPy ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from codellama import _native
from codellama.errors import CheckpointError
from codellama.quant import formats, native
from codellama.quant.formats import WRITTEN_BLOCKS, Format, n_bytes

Floats = NDArray[np.float32]
BLOCKS = sorted(WRITTEN_BLOCKS)
RNG = np.random.default_rng(0)

ODD = {
    "normal": RNG.standard_normal((32, 256)),
    "with outliers": RNG.standard_t(2, (32, 256)) * 0.02,
    "zeros": np.zeros((2, 256)),
    "zeros below zero": -np.zeros((2, 256)),
    "zeros of both signs": np.where(RNG.random((8, 256)) < 0.5, 0.0, -0.0),
    "one value": np.repeat([[0.3], [-0.3], [7.0], [1e-3]], 256, axis=1),
    "above zero": np.abs(RNG.standard_normal((8, 256))),
    "below zero": -np.abs(RNG.standard_normal((8, 256))),
    "whole numbers": RNG.integers(-8, 9, (32, 256)),
    "halves": RNG.integers(-16, 17, (32, 256)) / 2,
    "every size": RNG.standard_normal((64, 256)) * 10.0 ** RNG.uniform(-42, 4, (64, 1)),
    "every size at once": RNG.standard_normal((64, 256)) * 10.0 ** RNG.uniform(-12, 4, (64, 256)),
    "denormals": RNG.standard_normal((8, 256)) * 1e-41,
    "mostly zero": RNG.standard_normal((16, 256)) * (RNG.random((16, 256)) < 0.02),
    "large": RNG.uniform(-6e4, 6e4, (8, 256)),
    "nothing": np.zeros((0, 256)),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("format", BLOCKS)
def test_the_same_bits(format: Format, what: str) -> None:
    x = ODD[what].astype(np.float32)
    ours = native.quantise(format, x)
    assert ours.shape == (len(x), n_bytes(format, (1, 256)))
    assert ours.tobytes() == formats.quantise(format, x).tobytes()
    generic = np.empty(ours.size, np.uint8)
    assert _native.quantise(str(format), x.reshape(-1), generic, 1, "generic") == -1
    assert ours.tobytes() == generic.tobytes()


@settings(deadline=None)
@given(
    npst.arrays(
        np.float32,
        (2, 256),
        elements=st.floats(-1000, 1000, width=32)
        | st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 127.0, 1e-38, 1e-45]),
    ),
    st.sampled_from(BLOCKS),
)
def test_the_same_bits_for_any_numbers(x: Floats, format: Format) -> None:
    assert native.quantise(format, x).tobytes() == formats.quantise(format, x).tobytes()


@pytest.mark.parametrize("format", BLOCKS)
def test_threads_change_nothing(format: Format) -> None:
    x = np.random.default_rng(1).standard_normal((700, 512)).astype(np.float32)
    alone = native.quantise(format, x, n_threads=1)
    for n_threads in (2, 3, 16):
        assert (native.quantise(format, x, n_threads=n_threads) == alone).all()


@pytest.mark.parametrize("format", BLOCKS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("at", [0, 300, 99_000])
def test_the_first_block_that_cannot_be_stored_is_named(
    format: Format, value: float, at: int
) -> None:
    x = np.random.default_rng(2).standard_normal(100 * 1024).astype(np.float32)
    x[at] = value
    x[99_999] = np.nan
    out = np.empty(n_bytes(format, x.shape), np.uint8)
    assert _native.quantise(str(format), x, out, 3) == at // format.block_size
    with pytest.raises(CheckpointError, match=f"stored as {format}"):
        native.quantise(format, x)


def test_formats_that_are_no_blocks_go_the_slow_way() -> None:
    x = np.ones((2, 256), np.float32)
    assert (native.quantise(Format.F16, x) == formats.quantise(Format.F16, x)).all()
    with pytest.raises(CheckpointError, match="read and not written"):
        native.quantise(Format.Q2_K, x)


def test_arrays_that_lie_otherwise_are_copied() -> None:
    x = np.random.default_rng(3).standard_normal((256, 64)).astype(np.float32)
    assert (native.quantise(Format.Q4_K, x.T) == formats.quantise(Format.Q4_K, x.T)).all()


def test_bad_arguments_are_named() -> None:
    x, out = np.zeros(256, np.float32), np.zeros(144, np.uint8)
    for format, numbers, room, n_threads in [
        ("F16", x, out, 1),
        ("", x, out, 1),
        ("Q4_K", x[:255], out, 1),
        ("Q4_K", x, out[:143], 1),
        ("Q4_K", x, out, 0),
    ]:
        with pytest.raises(ValueError, match=r"fit|format"):
            _native.quantise(format, numbers, room, n_threads)
    with pytest.raises(ValueError, match="auto or generic"):
        _native.quantise("Q4_K", x, out, 1, "mmx")  # type: ignore[arg-type]
    for numbers, room in [(x.astype(np.float64), out), (x[::2], out), (x, out.astype(np.int8))]:
        with pytest.raises(TypeError):
            _native.quantise("Q4_K", numbers, room, 1)
    with pytest.raises(TypeError):
        _native.quantise("Q4_K", x, np.frombuffer(bytes(144), np.uint8), 1)
