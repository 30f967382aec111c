"""What accepting suggestions does to real files: nothing breaks, nothing is said twice."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")

from harness import Running, nano, running

from codellama.lsp.connection import Connection
from codellama.lsp.model import HttpModel
from codellama.lsp.settings import Settings

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "suggestions.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("suggestions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["suggestions"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with running(("codellama-nano", nano())) as found:
        yield found


def measured(script: ModuleType, url: str, n: int, seed: int, candidates: int) -> tuple[Any, Any]:
    async def work() -> tuple[Any, Any]:
        connection = Connection(None)
        suggester = await connection.open(Settings(url=url, tokenizer="nano"))
        model = HttpModel(url, key=None, timeout_s=60)
        try:
            places = script.positions(script.standard_library(), n, seed)
            found: tuple[Any, Any] = await script.measure(suggester, model, places, candidates)
            return found
        finally:
            await model.close()
            await connection.close()

    return asyncio.run(work())


def test_no_suggestion_breaks_a_file_or_repeats_its_next_line(
    script: ModuleType, live: Running
) -> None:
    raw, ours = measured(script, live.url, 24, 7, 1)
    assert raw.broken > raw.offered / 5, "the positions are no test"
    assert ours.offered >= 6
    assert (ours.broken, ours.repeated) == (0, 0), ours.examples


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [1, 3])
def test_no_suggestion_of_500_breaks_a_file(
    script: ModuleType, live: Running, candidates: int
) -> None:
    raw, ours = measured(script, live.url, 500, 1, candidates)
    assert raw.broken > raw.offered / 5
    assert ours.offered > 150
    assert (ours.broken, ours.repeated) == (0, 0), ours.examples
