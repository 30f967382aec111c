"""Samples on disk: a line for each as it comes, so that a run can stop at any moment and go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from codellama.errors import ConfigError
from codellama.eval.suite import Reply

Key = tuple[str, int]


def sample_of(row: Mapping[str, Any]) -> tuple[str, int, Reply]:
    """A line's problem, number and reply. Raises KeyError, TypeError or ValueError for another."""
    task, text = row["task_id"], row["completion"]
    if isinstance(task, int) and not isinstance(task, bool):  # as MBPP's are elsewhere
        task = str(task)
    if not isinstance(task, str) or not isinstance(text, str):
        raise TypeError("`task_id` and `completion` are texts")
    logprobs = row.get("logprobs")
    reply = Reply(
        text=text,
        finish=str(row.get("finish", "stop")),
        n_tokens=int(row.get("n_tokens", 0)),
        logprobs=None if logprobs is None else tuple(map(float, logprobs)),
        error=row.get("error"),
    )
    return task, int(row.get("sample", 0)), reply


class SampleFile:
    """`<stem>.samples.jsonl`, and beside it `<stem>.settings.json` with what they depend on.

    Raises:
        ConfigError: the file holds samples of other settings, and `restart` does not say that they
            may go.
    """

    def __init__(self, stem: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = stem.with_name(stem.name + ".samples.jsonl")
        self._settings_path = stem.with_name(stem.name + ".settings.json")
        stem.parent.mkdir(parents=True, exist_ok=True)
        self.found: dict[Key, Reply] = {}
        wanted = json.loads(json.dumps(settings))
        if restart:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            self._require_same(wanted)
            self._read()
        self._settings_path.write_text(json.dumps(wanted, indent=1, sort_keys=True) + "\n")
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def add(self, problem: str, sample: int, seed: int, reply: Reply) -> None:
        """Appends a sample; it is in the file when this returns."""
        line: dict[str, Any] = {
            "task_id": problem,
            "sample": sample,
            "completion": reply.text,
            "finish": reply.finish,
            "n_tokens": reply.n_tokens,
            "seed": seed,
        }
        if reply.logprobs is not None:
            line["logprobs"] = [round(one, 5) for one in reply.logprobs]
        if reply.error is not None:
            line["error"] = reply.error
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.found[problem, sample] = reply

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_same(self, wanted: Mapping[str, Any]) -> None:
        try:
            before = json.loads(self._settings_path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.path} holds samples, and {self._settings_path.name} beside it does not say "
                "of what",
                hint="give another --out, or --restart to draw them anew",
            ) from error
        found = _difference(before, wanted)
        if found is not None:
            name, was, now = found
            raise ConfigError(
                f"{self.path} holds samples of another run: `{name}` was {_short(was)} and is "
                f"{_short(now)}",
                hint="give another --out, or --restart to draw them anew",
            )

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a line that was being written when the run ended
            os.truncate(self.path, whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                task, sample, reply = sample_of(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.path}, line {number} is damaged: {error}",
                    hint="remove the line, or give --restart to draw all samples anew",
                ) from error
            self.found[task, sample] = reply


def _difference(
    before: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[str, object, object] | None:
    """The first key whose values differ, within tables too, and both values."""
    for name in sorted({*before, *wanted}):
        was, now = before.get(name), wanted.get(name)
        if was == now:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            inner = _difference(was, now)
            if inner is not None:
                return f"{name}.{inner[0]}", inner[1], inner[2]
            continue  # what one of them says is nothing, the other does not say
        return name, was, now
    return None


def _short(value: object) -> str:
    said = json.dumps(value)
    return said if len(said) <= 60 else said[:57] + "..."
