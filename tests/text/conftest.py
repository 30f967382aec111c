"""Each tokenizer at hand as a fixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tokenizers_at_hand import FILES, SMALL, Pair, pair


@pytest.fixture(params=[*SMALL, *FILES])
def each(request: pytest.FixtureRequest) -> Pair:
    """Each tokenizer in turn."""
    return pair(request.param)


@pytest.fixture(params=["small", "codellama-32016"])
def infilling(request: pytest.FixtureRequest) -> Pair:
    """Each tokenizer with infilling markers that text can reach."""
    return pair(request.param)


@pytest.fixture
def small() -> Pair:
    return pair("small")


@pytest.fixture
def family() -> Callable[[str], Pair]:
    """The family's tokenizers by name; skips where a file is not at hand."""
    return pair


@pytest.fixture(params=["small-step", "codellama-70b-instruct"])
def stepping(request: pytest.FixtureRequest) -> Pair:
    """Each tokenizer of the turn form: with `<step>`, and no space in front of text."""
    return pair(request.param)
