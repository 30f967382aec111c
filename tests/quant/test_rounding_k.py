"""The K formats lose little: less than scales from the range alone would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.quant.formats import Format, dequantise, quantise

Floats = NDArray[np.float32]
K = [Format.Q4_K, Format.Q5_K, Format.Q6_K]

WEIGHTS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "normal": lambda rng: rng.standard_normal((64, 256)),
    "with outliers": lambda rng: rng.standard_t(3, (64, 256)) * 0.02,
    "above zero": lambda rng: np.abs(rng.standard_normal((64, 256))) + 0.5,
    "below zero": lambda rng: -np.abs(rng.standard_normal((64, 256))) - 0.5,
    "rows of many sizes": lambda rng: (
        rng.standard_normal((64, 256)) * np.exp(rng.uniform(-6, 6, (64, 1)))
    ),
    "groups of many sizes": lambda rng: (
        rng.standard_normal((64, 256)) * np.repeat(np.exp(rng.uniform(-3, 3, (64, 8))), 32, axis=1)
    ),
}


def weights(what: str, seed: int = 0) -> Floats:
    return WEIGHTS[what](np.random.default_rng(seed)).astype(np.float32)


def loss(x: Floats, y: Floats) -> float:
    """Mean squared error where an error at a large number weighs more."""
    groups = x.reshape(-1, 32)
    w = np.abs(groups) + np.sqrt((groups**2).mean(axis=1, keepdims=True))
    return float((w * (groups - y.reshape(-1, 32)) ** 2).sum() / (w * groups**2).sum())


def by_range(x: Floats, format: Format) -> Floats:
    """Each group cut evenly between its extremes: scales are kept exact, so only q rounds."""
    if format is Format.Q6_K:
        groups = x.reshape(-1, 16)
        step = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1) / -32
        return (np.rint(groups / step).clip(-32, 31) * step).reshape(x.shape)
    groups, top = x.reshape(-1, 32), 15 if format is Format.Q4_K else 31
    low = np.minimum(groups.min(axis=1, keepdims=True), 0)
    step = (groups.max(axis=1, keepdims=True) - low) / top
    return (np.rint((groups - low) / step) * step + low).reshape(x.shape)


@pytest.mark.parametrize("what", WEIGHTS)
@pytest.mark.parametrize("format", K)
def test_the_search_pays_for_the_rounded_scales(format: Format, what: str) -> None:
    """No worse than the range with exact scales, though stored scales have six or eight bits."""
    x = weights(what)
    found = loss(x, dequantise(format, quantise(format, x)))
    allowed = 1.35 if what in ("above zero", "below zero", "groups of many sizes") else 1.0
    assert found < allowed * loss(x, by_range(x, format))


@pytest.mark.parametrize("what", WEIGHTS)
def test_more_bits_lose_less(what: str) -> None:
    x = weights(what)
    losses = [loss(x, dequantise(format, quantise(format, x))) for format in K]
    assert losses[0] > 2 * losses[1]
    assert losses[0] > 2 * losses[2]  # which has no minimum, so far from zero Q5_K comes near
    assert losses[0] < 0.02


@pytest.mark.parametrize("format", K)
def test_what_a_block_can_hold_survives(format: Format) -> None:
    """Numbers that came out of a block go into one nearly unchanged."""
    once = dequantise(format, quantise(format, weights("normal")))
    twice = dequantise(format, quantise(format, once))
    assert loss(once, twice) < loss(weights("normal"), once) / 20


@pytest.mark.parametrize("format", K)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.25, -0.25, 1000.0, -1000.0, 0.01])
def test_a_block_of_one_value(format: Format, value: float) -> None:
    x = np.full((2, 256), value, np.float32)
    found = dequantise(format, quantise(format, x))
    assert np.allclose(found, x, rtol=5e-3, atol=1e-7)  # small F16 scales are coarse


@pytest.mark.parametrize("format", K)
def test_a_single_number_in_a_block(format: Format) -> None:
    for at in (0, 31, 32, 100, 255):
        for value in (1.0, -1.0):
            x = np.zeros((1, 256), np.float32)
            x[0, at] = value
            found = dequantise(format, quantise(format, x))
            assert abs(found[0, at] - value) < 1e-3
            assert np.abs(np.delete(found, at)).max() < 1e-3


@pytest.mark.parametrize("format", K)
def test_numbers_far_below_any_scale_become_zeros(format: Format) -> None:
    x = np.full((1, 256), 1e-30, np.float32)
    assert not dequantise(format, quantise(format, x)).any()


@pytest.mark.parametrize("format", K)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9])
def test_what_does_not_fit_is_refused(format: Format, value: float) -> None:
    x = weights("normal")
    x[3, 77] = value
    with pytest.raises(CheckpointError, match=f"stored as {format}"):
        quantise(format, x)
