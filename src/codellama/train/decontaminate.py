"""Fingerprints of evaluation problems, so that no training text contains them.

Two marks are taken from every string of an evaluation file: sentences of eight words or more, and
runs of code tokens. A run is `RUN` tokens long and holds at least `DISTINCT` different ones:
shorter or plainer runs ("for i in range ( len ( x ) )") are shared by all code and would empty the
corpus.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError

RUN = 24
DISTINCT = 12

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"[a-z0-9']+")


class Fingerprints:
    """The marks of a set of evaluation strings."""

    def __init__(self) -> None:
        self._marks: set[int] = set()

    def __len__(self) -> int:
        return len(self._marks)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Fingerprints:
        """Reads `.json`, `.jsonl` and `.jsonl.gz` files; every string inside counts.

        Raises:
            ConfigError: a file is absent or is not JSON.
        """
        found = cls()
        for path in paths:
            try:
                raw = path.read_bytes()
                text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
                name = path.name.removesuffix(".gz")
                lines = text.splitlines() if name.endswith(".jsonl") else [text]
                for line in lines:
                    for string in _strings(json.loads(line)):
                        found.add(string)
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
        return found

    def add(self, text: str) -> None:
        """Takes the marks of one string."""
        self._marks.update(_marks(text))

    def match(self, text: str) -> bool:
        """Whether `text` shares a mark with the evaluation strings."""
        return bool(self._marks) and any(mark in self._marks for mark in _marks(text))


def _marks(text: str) -> Iterator[int]:
    tokens = _TOKEN.findall(text)
    for i in range(len(tokens) - RUN + 1):
        run = tokens[i : i + RUN]
        if len(set(run)) >= DISTINCT:
            yield hash(("code", *run))
    for sentence in re.split(r"[.!?:]\s|\n\s*\n|>>>|\"\"\"", text):
        words = _WORDS.findall(sentence.lower())
        if 8 <= len(words) <= 60:
            yield hash(("prose", *words))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
