"""From a cursor to suggestions, over a model that says what a test wants."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")

from codellama.errors import ConfigError
from codellama.lsp.languages import find_language
from codellama.lsp.model import Ask, LocalCounter
from codellama.lsp.rank import Candidate
from codellama.lsp.settings import Settings
from codellama.lsp.suggest import Request, Suggester
from codellama.lsp.turns import Turns
from codellama.text.tokenizer import Tokenizer
from fakes import ByteTokenizer

SUFFIX = "\n\n\ndef g():\n    pass\n"


class FakeModel:
    """Says `texts`, and how likely the suffix follows each."""

    def __init__(self, *texts: str, follows: dict[str, float] | None = None) -> None:
        self.texts = texts
        self.likely = follows or {}
        self.asks: list[Ask] = []
        self.scored: list[tuple[list[str], str]] = []

    async def fill(self, ask: Ask) -> list[Candidate]:
        self.asks.append(ask)
        await asyncio.sleep(0)
        return [Candidate(text=text, logprob=-1.0) for text in self.texts[: ask.n]]

    async def follows(self, texts: Sequence[str], after: str) -> list[float | None]:
        self.scored.append((list(texts), after))
        return [
            next((s for end, s in self.likely.items() if text.endswith(end)), None)
            for text in texts
        ]


def suggester(model: FakeModel, **settings: Any) -> Suggester:
    counter = LocalCounter(cast(Tokenizer, ByteTokenizer()))
    return Suggester(model, counter, Settings(**settings), 500)


def request(prefix: str, suffix: str = SUFFIX, **fields: Any) -> Request:
    fields = {"document": "a", "language": find_language("python"), "n": 1} | fields
    return Request(prefix=prefix, suffix=suffix, **fields)


def ask(made: Suggester, wanted: Request) -> tuple[str, ...]:
    return asyncio.run(made.suggest(wanted))


def test_what_the_model_says_is_cut_and_shown() -> None:
    model = FakeModel("    return 1\n\n\ndef h():\n    return 2\n")
    assert ask(suggester(model), request("def f():\n    ")) == ("return 1",)
    [asked] = model.asks
    assert asked.prefix == "def f():\n"  # the indentation is left to the model
    assert asked.suffix == SUFFIX
    assert asked.temperature == 0
    assert asked.is_over("    return 1\n\n\ndef h():\n")
    assert not asked.is_over("    return 1\n")


def test_typing_along_and_asking_again_need_no_model() -> None:
    model = FakeModel("    return value\n")
    made = suggester(model)
    assert ask(made, request("def f():\n    ")) == ("return value",)
    for typed in ("", "r", "return", "return v"):
        assert ask(made, request("def f():\n    " + typed)) == ("return value"[len(typed) :],)
    assert made.n_asked == len(model.asks) == 1
    ask(made, request("def f():\n    x"))
    assert made.n_asked == 2


def test_candidates_are_ordered_by_what_follows_them() -> None:
    model = FakeModel("    return 1", "    return 2", "    return 3",
                      follows={"1": -2.0, "2": -1.5, "3": -9.0})  # fmt: skip
    found = ask(suggester(model), request("def f():\n    ", n=3))
    assert found == ("return 2", "return 1")
    [(texts, after)] = model.scored
    assert texts[0] == "def f():\n    return 1"
    assert after == "\n\n\ndef g():\n    pass\n"
    assert model.asks[0].temperature > 0
    model = FakeModel("    return 1", "    return 2")
    assert len(ask(suggester(model, rank=False), request("def f():\n    ", n=2))) == 2
    assert not model.scored


def test_one_suggestion_is_not_all_of_them() -> None:
    model = FakeModel("    return 1", "    return 2")
    made = suggester(model)
    ask(made, request("def f():\n    "))
    assert len(ask(made, request("def f():\n    ", n=2))) == 2
    assert len(ask(made, request("def f():\n    "))) == 1
    assert made.n_asked == 2


def test_a_single_line_asks_for_a_line() -> None:
    model = FakeModel(" 5\nmore")
    assert ask(suggester(model), request("x = ", "\n")) == ("5",)
    assert model.asks[0].stop == ("\n",)
    assert model.asks[0].prefix == "x ="


def test_prompts_keep_to_the_budget() -> None:
    model = FakeModel("    return 1")
    ask(suggester(model), request("# much\n" * 500 + "def f():\n    ", "\n" + "# more\n" * 500))
    [asked] = model.asks
    n = 4 + len(" " + asked.prefix) + len(asked.suffix)
    assert 350 < n <= 500


def test_nothing_is_suggested_where_the_block_is_over() -> None:
    made = suggester(FakeModel("def g():\n"))
    assert ask(made, request("def f():\n    x = 1\n    ")) == ()


def test_a_newer_request_ends_the_older_one() -> None:
    async def run() -> tuple[Any, Any, list[str]]:
        turns, ended = Turns(), []

        async def work(name: str, seconds: float) -> str:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                ended.append(name)
                raise
            return name

        older = asyncio.ensure_future(turns.run("a", work("older", 60)))
        other = asyncio.ensure_future(turns.run("b", work("other", 0)))
        await asyncio.sleep(0.01)
        newer = await turns.run("a", work("newer", 0))
        assert await other == "other"
        return await older, newer, ended

    assert asyncio.run(run()) == (None, "newer", ["older"])


def test_a_caller_that_leaves_ends_its_work() -> None:
    async def run() -> bool:
        turns, ended = Turns(), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        caller = asyncio.ensure_future(turns.run("a", work()))
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        return ended.is_set()

    assert asyncio.run(run())


def test_settings_come_from_an_editor_and_are_checked() -> None:
    settings = Settings().changed({"debounce_ms": 5, "off_for": ["python"], "url": None})
    assert (settings.debounce_ms, settings.off_for) == (5, ("python",))
    assert settings.changed(None) is settings
    for bad, message in (
        ({"debounce": 5}, "there is no setting `debounce`"),
        ({"debounce_ms": "5"}, "expected a value of type int"),
        ({"candidates": 0}, "expected 1 to 8"),
        ({"completion": "maybe"}, "expected auto, on or off"),
        (["url"], "expected a table"),
    ):
        with pytest.raises(ConfigError, match=message):
            Settings().changed(bad)


def test_every_setting_is_described() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "editors.md").read_text()
    for field in dataclasses.fields(Settings):
        assert f"`{field.name}`" in page
