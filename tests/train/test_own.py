"""A model's own completions: what is learned of them, and that a stopped run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from codellama.checkpoint.hub import resolve
from codellama.errors import ConfigError
from codellama.text.tokenizer import Tokenizer
from codellama.train.corpus import Document
from codellama.train.data import row
from codellama.train.loss import IGNORED
from codellama.train.own import (
    Drawing,
    Lesson,
    OwnSource,
    broken_at,
    likeness,
    loop_start,
    own_completions,
    read_own,
)

PROMPT = 'def f{}(x):\n    """Doc."""\n'
FUNCTIONS = [
    Document("p", f"a.py:{i}", "train", "function", PROMPT.format(i) + "    return x + 1\n")
    for i in range(40)
]
DRAWING = Drawing(n_functions=40, n=4)


@dataclass(frozen=True)
class Reply:
    text: str
    finish_reason: str = "stop"


class Scripted:
    """Writes the same replies for every prompt, and counts the prompts."""

    def __init__(self, *replies: Reply, fails_after: int = 1000) -> None:
        self._replies, self._left, self.n_prompts = replies, fails_after, 0

    def __call__(self, prompts: Sequence[str], drawing: Drawing) -> list[Sequence[Reply]]:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self.n_prompts += len(prompts)
        return [self._replies] * len(prompts)


def test_the_reply_most_like_the_author_s_is_learned(tmp_path: Path) -> None:
    model = Scripted(
        Reply("    return x + 1\n", "length"),  # it would have gone on
        Reply("    return (x + 1\n"),
        Reply("    pass\n"),
        Reply("    return x + 2\n\n\nprint(f)\n"),
    )
    path = tmp_path / "own.jsonl"
    assert own_completions(model, FUNCTIONS, path, DRAWING, "m") == {"whole": 80, "other": 80}
    lessons = read_own(path)
    assert len(lessons) == 40
    assert lessons[7] == Lesson(PROMPT.format(7), "    return x + 2\n", None)


def test_loops_and_empty_bodies_are_to_be_avoided(tmp_path: Path) -> None:
    loop = "    a = [\n" + "        1,\n" * 60
    model = Scripted(Reply(loop, "length"), Reply(""), Reply("\n# nothing\n"))
    path = tmp_path / "own.jsonl"
    assert own_completions(model, FUNCTIONS, path, DRAWING, "m") == {"loops": 40, "empty": 80}
    looping, empty = read_own(path)[:2]
    assert looping.bad_from is not None
    assert looping.text[: looping.bad_from].count("1,") == 1
    assert looping.text[looping.bad_from :].count("1,") > 8
    assert empty == Lesson(PROMPT.format(0), "", 0)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("abc", None),
        ("x" + "ab = 1234\n" * 2, None),  # twice is no loop
        ("x\n" + "abcdef = 1234\n" * 3, 15),
        ("head\n" + "(" * 40, 6),
        ("a = 1\nb = 2\nc = 3\nd = 4\n", None),
        ("x = 1\n" + "if a:\n    b\n" * 9 + "if a:\n   ", 17),  # cut within a round
    ],
)
def test_where_a_loop_begins(text: str, start: int | None) -> None:
    assert loop_start(text) == start


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("    return self._ raw\n", " raw"),
        ("    a = 1\n    return (a))\n", ")"),
        ("    a = 1\n  b = 2\n", None),
        ("    return (a\n", None),  # it may be closed anywhere
        ("    return a\n", None),
        ("    if a:\n", None),
        ("    x = 'a\n", " '"),
    ],
)
def test_where_a_text_stops_being_python(text: str, word: str | None) -> None:
    span = broken_at(PROMPT.format(0), text)
    assert (span and text[slice(*span)]) == word


def test_only_what_the_model_wrote_counts() -> None:
    tokenizer = Tokenizer.open(Path(resolve("nano")) / "tokenizer.model")
    text = "    a\n    a\n    a\n"
    good, bad, empty = (Lesson("def f():\n", text, None), Lesson("def f():\n", text, 6),
                        Lesson("def f():\n", "", 0))  # fmt: skip
    source = OwnSource([good, bad, empty], tokenizer)
    samples = [source.sample(i, "") for i in range(3)]
    assert [s.is_bad for s in samples] == [False, True, True]
    assert samples[0].ids[-1] == samples[2].ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(samples[1].ids[samples[1].n_given :]).lstrip() == "a\n    a\n"
    packed = row(samples[1:], 64)
    labels = packed.labels[packed.labels != IGNORED]
    assert (labels < IGNORED).all()
    assert len(labels) == len(samples[1].ids) - samples[1].n_given + 1


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    reply, path = Reply("    return x\n"), tmp_path / "own.jsonl"
    with pytest.raises(KeyboardInterrupt):
        own_completions(Scripted(reply, fails_after=1), FUNCTIONS, path, DRAWING, "m")
    with path.open("a") as file:
        file.write('{"path": "torn')
    rest = Scripted(reply)
    assert own_completions(rest, FUNCTIONS, path, DRAWING, "m") == {"whole": 40}
    assert rest.n_prompts == 40 - 32
    assert len(read_own(path)) == 40
    with pytest.raises(ConfigError, match="by another model"):
        own_completions(rest, FUNCTIONS, path, DRAWING, "another")


def test_likeness() -> None:
    assert likeness(["a", "b"], ["a", "b"]) == 1
    assert likeness(["a", "b"], ["a", "c"]) == 0.5
    assert likeness(["a"], []) == 0


def test_a_file_that_holds_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data own MODEL"):
        read_own(tmp_path / "own.jsonl")
