"""A file of requests to a file of answers: exactly one line for each, also after a stop.

Answers are appended as they are ready, each in one write. What a stopped run left is read again:
its whole lines say which requests are done, and half a line at its end is cut off.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from codellama.cluster.lines import BadLine, Line, Routes, number_of, parse
from codellama.errors import ConfigError
from codellama.server.served import Served
from codellama.server.settings import Limits, Settings

_FOREVER_S = 30 * 24 * 3600.0
MOST_LINE_BYTES = 4 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a run ended. `earlier` lines had their answer before it; `bad` ones got an error."""

    lines: int
    earlier: int
    bad: int


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, one in memory at a time."""
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            yield Line(number, data.rstrip(b"\r\n"))


def count_lines(path: Path) -> int:
    """Raises ConfigError where a line is longer than a request may be, or there is no file."""
    n = 0
    try:
        with path.open("rb") as file:
            for n, data in enumerate(file, 1):
                if len(data) > MOST_LINE_BYTES:
                    raise ConfigError(
                        f"{path}: line {n} has {len(data)} bytes; expected at most "
                        f"{MOST_LINE_BYTES}"
                    )
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    return n


class Answers:
    """The output file: knows what is done and takes each answer once.

    Raises:
        ConfigError: the file holds something else, or answers to another input.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.done: set[int] = set()
        self.n_bad = 0
        self._file: BinaryIO | None = None
        try:
            if path.exists() and path.samefile(source):
                raise ConfigError(f"{path}: is the input itself", hint="give another OUTPUT")
            self._read(source)
            self._file = path.open("ab")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be used: {error.strerror or error}") from error
        self.n_earlier = len(self.done)

    def _read(self, source: Path) -> None:
        if not self.path.exists():
            return
        names: dict[int, str | None] = {}
        whole = 0
        with self.path.open("rb") as file:
            for data in file:
                if not data.endswith(b"\n"):
                    break  # a stop in the middle of a write
                whole += len(data)
                number = self._number(data)
                if number in names:
                    raise ConfigError(f"{self.path}: answers line {number} twice")
                names[number] = json.loads(data)["custom_id"]
        for line in read_lines(source):
            if line.number not in names:
                continue
            if _custom_id(line) != names.pop(line.number):
                raise ConfigError(
                    f"{self.path}: holds answers to another file: line {line.number} of {source} "
                    "has another custom_id",
                    hint="give another OUTPUT, or remove it to begin anew",
                )
            self.done.add(line.number)
        if names:
            raise ConfigError(
                f"{self.path}: answers line {min(names)}, and {source} has fewer lines",
                hint="give another OUTPUT, or remove it to begin anew",
            )
        os.truncate(self.path, whole)

    def _number(self, data: bytes) -> int:
        try:
            found = json.loads(data)
            number = number_of(found)
            found["custom_id"]
        except (ValueError, AttributeError, KeyError, TypeError):
            number = None
        if number is None:
            raise ConfigError(
                f"{self.path}: exists and is no output of this command",
                hint="give another OUTPUT, or remove it to begin anew",
            )
        return number

    def pending(self, source: Path) -> Iterator[Line]:
        """The lines that have no answer yet."""
        return (line for line in read_lines(source) if line.number not in self.done)

    def take(self, answer: bytes) -> bool:
        """Writes an answer; False where its line has one already."""
        assert self._file is not None, "the file is open"
        found = json.loads(answer)
        number = number_of(found)
        assert number is not None, "answers are ours"
        if number in self.done:
            return False
        self._file.write(answer)
        self._file.flush()
        self.done.add(number)
        self.n_bad += found["error"] is not None or found["response"]["status_code"] != 200
        return True

    def close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _custom_id(line: Line) -> str | None:
    try:
        return parse(line).custom_id
    except BadLine as error:
        return error.custom_id


def batch_settings(settings: Settings) -> Settings:
    """The settings of a server that nobody waits for: replies may take as long as they take, and
    a line may ask for as many as there are places."""
    limits = replace(settings.limits, run_s=_FOREVER_S, reply_bytes=4 << 30, cache_overcommit=64)
    assert isinstance(limits, Limits), "replace keeps the class"
    return replace(settings, limits=limits, log_level="warning")


def at_a_time(settings: Settings) -> int:
    """Lines in work at once: the engine's places, and as many waiting for one."""
    return 2 * settings.max_num_seqs


def run(
    source: Path,
    answers: Answers,
    served: list[Served],
    settings: Settings,
    version: str,
    progress: Progress,
    n_lines: int,
) -> None:
    """Answers what has no answer yet, in this process.

    Raises:
        EngineFailed: the engine stopped; run again to go on.
    """

    async def main() -> None:
        routes = Routes(served, settings, version)
        routes.start()
        try:
            found: AsyncIterator[bytes] = routes.answers(
                answers.pending(source), at_a_time(settings)
            )
            async for answer in found:
                answers.take(answer)
                progress(len(answers.done), n_lines)
        finally:
            routes.stop()

    asyncio.run(main())
