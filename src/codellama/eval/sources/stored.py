"""Samples that are already there: JSONL with `task_id` and `completion`, as the official scorers
take it and as runs of this package leave it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError
from codellama.eval.samples import sample_of
from codellama.eval.sources import Request
from codellama.eval.suite import Reply


class StoredSource:
    """A file's samples; those of a problem are taken in their order.

    Raises:
        ConfigError: a line is no sample.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._samples: dict[str, list[Reply]] = defaultdict(list)
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                    task, _, reply = sample_of(row)
                except (ValueError, KeyError, TypeError) as error:
                    raise ConfigError(
                        f"{path}, line {number} is no sample: {error}",
                        hint="a line is a JSON object with `task_id` and `completion`",
                    ) from error
                self._samples[task].append(reply)
        if not self._samples:
            raise ConfigError(f"{path} has no samples")

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def n(self) -> int:
        """Samples to each problem: as many as every problem of the file has."""
        return min(map(len, self._samples.values()))

    def facts(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        return {"name": self.name, "sha256": None, "samples_sha256": digest}

    def count(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        self._samples.clear()

    def replies(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        for request in requests:
            stored = self._samples.get(request.problem, [])
            if request.sample < len(stored):
                yield request, stored[request.sample]
            else:
                yield request, Reply(finish="error", error="the file has no such sample")
