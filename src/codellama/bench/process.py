"""An engine in a process of its own, told what to do by lines of JSON; see `worker`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from codellama.errors import ConfigError, EngineFailed

_HERE = Path(__file__).parent
BODIES = _HERE / "bodies"
_PATIENCE_S = 10  # to end by itself


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """How an engine is started: by which Python, with which body, on which model.

    `context` is the tokens of one sequence, of which there are `n_streams` at most; `options` are
    further keywords of the body's `load`.
    """

    name: str
    body: Path
    model: str
    n_threads: int
    context: int
    n_streams: int
    python: Path = Path(sys.executable)
    options: Mapping[str, Any] = field(default_factory=dict)


class EngineProcess:
    """A started engine. Leave it by `close` or as a context; it never outlives this process.

    Raises:
        ConfigError: its Python cannot be run.
        EngineFailed: the model cannot be loaded, or any time later that the process ended.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.name = spec.name
        self._complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # `close` does
        command = [
            spec.python, _HERE / "worker.py", spec.body, spec.model, spec.n_threads, spec.context,
            spec.n_streams, json.dumps(dict(spec.options)),
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                text=True,
                bufsize=1,
            )
        except OSError as error:
            self._complaints.close()
            raise ConfigError(f"{spec.python} cannot be run: {error.strerror}") from error
        try:
            self.about: dict[str, Any] = self._answer()["about"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def prefill(self, n: int) -> float:
        """Seconds that reading n tokens takes."""
        return self._ask(do="prefill", n=n)["s"]

    def decode(self, n: int, n_streams: int) -> float:
        """Seconds that n steps of n_streams sequences take."""
        return self._ask(do="decode", n=n, streams=n_streams)["s"]

    def memory(self) -> tuple[float, float]:
        """Resident MB now, and the most there ever were."""
        found = self._ask(do="memory")
        return found["rss_mb"], found["peak_mb"]

    def limits(self) -> dict[str, float]:
        """What the engine's own device can do, measured now: `read` and `product` a second."""
        return self._ask(do="limits")

    def close(self) -> None:
        """Ends the process; once is enough."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()  # which is how it knows that there is no more work
                self._process.wait(_PATIENCE_S)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None, "it was opened with a pipe"
            self._process.stdout.close()
            self._complaints.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, **request: Any) -> dict[str, float]:
        assert self._process.stdin is not None, "it was opened with a pipe"
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
        except OSError:
            self._answer()  # which says why
            raise
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was opened with a pipe"
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._complaints.seek(0)
            said = self._complaints.read().strip().splitlines()
            raise EngineFailed(
                f"{self.name} ended with code {code} and no answer"
                + (f": {said[-1]}" if said else "")
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(f"{self.name}: {answer['error']}", hint=answer.get("hint"))
        return answer
