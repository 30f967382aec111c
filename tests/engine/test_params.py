"""What `SamplingParams` takes and refuses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from codellama import RequestError, SamplingParams

LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
COUNTS = {
    "top_k": (1, 2**31 - 1),
    "max_tokens": (1, 2**31 - 1),
    "seed": (0, 2**64 - 1),
    "logprobs": (0, 20),
    "draft_tokens": (0, 64),
}


def made(**fields: Any) -> SamplingParams:
    return SamplingParams(**fields)


def test_defaults() -> None:
    params = made()
    assert (params.temperature, params.top_p, params.max_tokens) == (0.2, 0.95, 256)
    assert params.stops == ()
    assert params.seed is None


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_have_ranges(name: str) -> None:
    low, high = LIMITS[name]
    for good in (low, high, int(high)):
        assert getattr(made(**{name: good}), name) == good
        assert type(getattr(made(**{name: good}), name)) is float
    step = 1e-6
    for bad in (low - step, high + step, math.nan, math.inf, -math.inf, True, "1", None, [1.0]):
        with pytest.raises(RequestError, match=f"`{name}` is .*; expected a number from"):
            made(**{name: bad})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_have_ranges(name: str) -> None:
    low, high = COUNTS[name]
    for good in (None, low, high):
        assert getattr(made(**{name: good}), name) == good
    for bad in (low - 1, high + 1, -1, 2**70, 1.0, True, "1", math.nan):
        with pytest.raises(RequestError, match=f"`{name}` is .*; expected an integer from"):
            made(**{name: bad})


def test_stops() -> None:
    assert made(stop="x").stops == ("x",)
    assert made(stop=["a", "b"]).stops == ("a", "b")
    assert made(stop=("s" * 256,) * 32).stops == ("s" * 256,) * 32
    for bad in ("", [""], ["x" * 257], [1], None, 5, {"a"}, ["a", None], b"x"):
        with pytest.raises(RequestError, match="`stop`"):
            made(stop=bad)
    with pytest.raises(RequestError, match=r"`stop` has 33 entries; expected .* up to 32"):
        made(stop=["x"] * 33)


def test_biases() -> None:
    assert made(logit_bias={3: 1, 4: -100.0}).logit_bias == {3: 1.0, 4: -100.0}
    for bad in ({-1: 1.0}, {"3": 1.0}, {3: math.nan}, {3: 100.5}, {3: "1"}, {True: 1.0}, {3: True}):
        with pytest.raises(RequestError, match="`logit_bias`"):
            made(logit_bias=bad)
    with pytest.raises(RequestError, match="`logit_bias` has 301 entries"):
        made(logit_bias=dict.fromkeys(range(301), 0.0))
    with pytest.raises(RequestError, match="`logit_bias`"):
        made(logit_bias=[(3, 1.0)])


def test_a_caller_cannot_change_the_biases_afterwards() -> None:
    biases = {3: 1.0}
    params = made(logit_bias=biases)
    biases[4] = 2.0
    assert params.logit_bias == {3: 1.0}


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(RequestError) as caught:
        made(temperature="x" * 1000)
    assert len(str(caught.value)) < 150


def test_frozen_comparable_and_hashable() -> None:
    params = made(seed=3, logit_bias={1: 1.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 4  # type: ignore[misc]
    assert params == made(seed=3, logit_bias={1: 1.0})
    assert hash(params) == hash(made(seed=3, logit_bias={1: 1.0}))
    assert dataclasses.asdict(dataclasses.replace(params, top_k=5))["top_k"] == 5


@pytest.mark.parametrize("bad", ["yes", 1, None])
def test_ignore_eos_is_a_boolean(bad: Any) -> None:
    with pytest.raises(RequestError, match="`ignore_eos`"):
        made(ignore_eos=bad)
