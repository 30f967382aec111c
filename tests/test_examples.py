"""The model card's two programs, here and with `transformers`, give the same greedy ids on nano."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from codellama.checkpoint.convert import convert

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """nano as this package writes it."""
    from codellama.checkpoint.hub import resolve

    folder = tmp_path_factory.mktemp("card") / "nano"
    convert(resolve("nano"), folder, dtype="F32")
    return str(folder)


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("chat", "chat_transformers", "generate", "generate_transformers"):
        sys.modules.pop(name, None)


def without_end(ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == 2 else ids


def test_chat_with_a_system_turn(written: str) -> None:
    import chat
    import chat_transformers

    ours = chat.main(written)
    assert ours
    assert ours == without_end(chat_transformers.main(written))


def test_text_generation(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    import generate
    import generate_transformers

    ours = generate.main(written, "0")
    assert ours
    assert ours == without_end(generate_transformers.main(written, "0"))
    generate.main(written)  # as the card has it: temperature 0.2
    assert generate.PROMPT in capsys.readouterr().out
