"""A model's own completions of the corpus's functions, to learn from: the whole and the looping.

Each function's body is written several times. Of those that ended by themselves and parse the one
most like the author's is learned: rejection sampling, as in Llama 2 (arXiv 2307.09288, section
3.2.3) and RFT (arXiv 2308.01825). What should not have been becomes unlikely, as in unlikelihood
training on sequences (arXiv 1908.04319): a loop that ran into the limit from its second round on,
the word at which a text stopped being Python, an end before the beginning. A small model then
closes what it opens, and stops.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from codellama.errors import ConfigError
from codellama.train.corpus import Document
from codellama.train.data import Sample
from codellama.train.infilling import Encoder
from codellama.train.quality import MAX_TOKENS, BodyTask, body, body_tasks, parses
from codellama.train.self_instruct import append_line, read_lines

OWN_FILE = "own.jsonl"  # of a corpus
ROUNDS = 3  # as many make a loop
MAX_AVOIDED_CHARS = 120  # of a loop; the rest of it says nothing new
_MAX_ROUND_CHARS = 400
_AT_ONCE = 32  # functions


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How completions are drawn: `n` for each of `n_functions`."""

    n_functions: int = 3000
    n: int = 6
    temperature: float = 0.4
    top_p: float = 0.95
    max_tokens: int = MAX_TOKENS
    seed: int = 7


@dataclass(frozen=True)
class Lesson:
    """A prompt and what the model wrote, of which what lies behind `bad_from` should not have been.

    `bad_from` counts characters; when nothing lies behind it, the text should not have ended.
    """

    prompt: str
    text: str
    bad_from: int | None


class Reply(Protocol):
    """One completion; its `finish_reason` is "stop" when it ended by itself."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...


Write = Callable[[Sequence[str], Drawing], Sequence[Sequence[Reply]]]  # `n` replies to each prompt


def own_completions(
    write: Write,
    functions: Sequence[Document],
    path: Path,
    drawing: Drawing,
    by: str,
    note: Callable[[str], None] = lambda _: None,
) -> Counter[str]:
    """Writes `path`, a line for each function; how many of the completions were what.

    A run that was stopped goes on with the next function. `by` says which model writes.

    Raises:
        ConfigError: the file there is by another model or of another drawing.
    """
    tasks = body_tasks(functions, drawing.n_functions)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"by": by, "drawing": repr(drawing)}
    lines = list(read_lines(path))
    if not lines:
        append_line(path, head)
    elif lines[0] != head:
        raise ConfigError(
            f"{path} is by another model, or was drawn in another way",
            hint="delete or rename it to begin again",
        )
    n_done = max(0, len(lines) - 1)
    found = Counter[str]()
    for line in lines[1:]:
        found.update(line["found"])
    for some in _batched(tasks[n_done:], _AT_ONCE):
        replies = write([task.prompt for task in some], drawing)
        for task, its in zip(some, replies, strict=True):
            line = _line(task, its)
            found.update(line["found"])
            append_line(path, line)
        n_done += len(some)
        note(f"{n_done} of {len(tasks)} functions: {dict(found)}")
    return found


def read_own(path: Path) -> list[Lesson]:
    """The lessons of a file that `own_completions` wrote.

    Raises:
        ConfigError: there is none, or it is another kind of file.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            next(lines, None)
            return [Lesson(**lesson) for line in lines for lesson in json.loads(line)["lessons"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no completions: {error!r}", hint="`codellama data own MODEL` writes them"
        ) from error


@dataclass(frozen=True)
class OwnSource:
    """Lessons as samples; only what the model wrote counts."""

    lessons: Sequence[Lesson]
    tokenizer: Encoder

    def __len__(self) -> int:
        return len(self.lessons)

    def sample(self, number: int, key: str) -> Sample:
        """The ids of a lesson; `key` is not needed, nothing here is random."""
        lesson, encoder = self.lessons[number], self.tokenizer
        if lesson.bad_from is None:
            given = [encoder.bos_id, *encoder.encode(lesson.prompt)]
            ids = [*given, *encoder.encode_bare(lesson.text), encoder.eos_id]
            return Sample(ids, len(given))
        given = [encoder.bos_id, *encoder.encode(lesson.prompt + lesson.text[: lesson.bad_from])]
        bad = encoder.encode_bare(lesson.text[lesson.bad_from :]) or [encoder.eos_id]
        return Sample([*given, *bad], len(given), is_bad=True)


def loop_start(text: str) -> int | None:
    """Where the second round begins, when a text ends in at least `ROUNDS` equal rounds."""
    for size in range(1, min(_MAX_ROUND_CHARS, len(text) // ROUNDS) + 1):
        start = len(text)
        while start > size and text[start - 1] == text[start - 1 - size]:
            start -= 1
        if len(text) - start >= (ROUNDS - 1) * size and len(text) - start >= 24:
            return start
    return None


def broken_at(prompt: str, text: str) -> tuple[int, int] | None:
    """Begin and end, in `text`, of the word at which prompt and text stop being Python.

    The space before the word is a part of it. None when the parser cannot say: for brackets that
    are never closed, for indentation, and for places outside the text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(prompt + text)
    except IndentationError:
        return None
    except SyntaxError as error:
        if error.lineno is None or not error.offset or "never closed" in error.msg:
            return None
        lines = (prompt + text).split("\n")
        at = sum(len(line) + 1 for line in lines[: error.lineno - 1]) + error.offset - 1
        begin = len((prompt + text)[:at].rstrip(" ")) - len(prompt)
        if begin < 0:
            return None
        word = re.compile(r" *(?:\w+|\S|\n)").match(text, begin)
        return (begin, word.end()) if word else None
    except (ValueError, RecursionError, MemoryError):
        return None
    return None


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """Between 0 and 1: twice the words in common, in order, over the words of both."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _line(task: BodyTask, replies: Sequence[Reply]) -> dict[str, Any]:
    """What becomes of the replies to one function."""
    good: list[str] = []
    lessons: list[Lesson] = []
    found = Counter[str]()
    for reply in replies:
        ended = reply.finish_reason == "stop"
        if ended and parses(task.prompt, reply.text, is_cut=False):
            found["whole"] += 1
            good.append(body(reply.text, is_cut=False))
        elif ended and not body(reply.text, is_cut=False).strip():
            found["empty"] += 1
            lessons.append(Lesson(task.prompt, "", 0))
        elif not ended and (start := loop_start(reply.text)) is not None:
            found["loops"] += 1
            text = reply.text[: start + MAX_AVOIDED_CHARS]
            lessons.append(Lesson(task.prompt, text, start))
        elif (span := broken_at(task.prompt, reply.text)) is not None:
            found["broken"] += 1
            lessons.append(Lesson(task.prompt, reply.text[: span[1]], span[0]))
        else:
            found["other"] += 1
    if good:
        reference = task.reference.split()
        best = max(good, key=lambda text: likeness(reference, text.split()))
        lessons.append(Lesson(task.prompt, best, None))
    unique = [vars(lesson) for lesson in dict.fromkeys(lessons)]
    return {"path": f"{task.project}/{task.path}", "found": found, "lessons": unique}


def _batched(tasks: Sequence[BodyTask], size: int) -> Iterator[list[BodyTask]]:
    rest = iter(tasks)
    while some := list(islice(rest, size)):
        yield some
