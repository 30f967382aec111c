"""Fingerprints of evaluation problems, so that no training text contains them.

Two marks are taken from every string of an evaluation file: sentences of eight words or more, and
runs of code tokens. A run is `RUN` tokens long and holds at least `DISTINCT` different ones:
shorter or plainer runs ("for i in range ( len ( x ) )") are shared by all code and would empty the
corpus.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError

RUN = 24
DISTINCT = 12

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"[a-z0-9']+")


@dataclass(frozen=True)
class Match:
    """What a text shares with an evaluation problem: where the problem is, and the words."""

    problem: str  # file and line, as "HumanEval.jsonl.gz:13"
    shared: str


class Fingerprints:
    """The marks of a set of evaluation strings, and the problem each was first seen in."""

    def __init__(self) -> None:
        self._marks: dict[int, str] = {}
        self.digest = ""  # of the files they were read from

    def __len__(self) -> int:
        return len(self._marks)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Fingerprints:
        """Reads `.json`, `.jsonl` and `.jsonl.gz` files; every string inside counts.

        Raises:
            ConfigError: a file is absent or is not JSON.
        """
        found, digest = cls(), hashlib.sha256()
        for path in paths:
            try:
                raw = path.read_bytes()
                digest.update(raw)
                text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
                name = path.name.removesuffix(".gz")
                lines = text.splitlines() if name.endswith(".jsonl") else [text]
                for i, line in enumerate(lines, 1):
                    for string in _strings(json.loads(line)):
                        found.add(string, f"{path.name}:{i}")
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
        found.digest = digest.hexdigest()
        return found

    def add(self, text: str, problem: str) -> None:
        """Takes the marks of one string."""
        for mark, _ in _marks(text):
            self._marks.setdefault(mark, problem)

    def match(self, text: str) -> Match | None:
        """The first mark that `text` shares with the evaluation strings."""
        if self._marks:
            for mark, words in _marks(text):
                if mark in self._marks:
                    return Match(self._marks[mark], " ".join(words))
        return None


def _marks(text: str) -> Iterator[tuple[int, list[str]]]:
    tokens = _TOKEN.findall(text)
    for i in range(len(tokens) - RUN + 1):
        run = tokens[i : i + RUN]
        if len(set(run)) >= DISTINCT:
            yield hash(("code", *run)), run
    for sentence in re.split(r"[.!?:]\s|\n\s*\n|>>>|\"\"\"", text):
        words = _WORDS.findall(sentence.lower())
        if 8 <= len(words) <= 60:
            yield hash(("prose", *words)), words


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
