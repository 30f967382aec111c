"""How long it takes from starting a program to its first token."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from codellama.bench.cost import Choice
from codellama.errors import EngineFailed


@dataclass(frozen=True, kw_only=True)
class Startup:
    """The quickest of some starts: from starting the process to its first token.

    `interpreter_s` is what Python needs to do nothing, which is part of `start_s`.
    """

    start_s: float
    interpreter_s: float

    @property
    def own_s(self) -> float:
        """The package's own part."""
        return max(0.0, self.start_s - self.interpreter_s)


def measure(model: str, n_threads: int, n_repeats: int, choice: Choice | None = None) -> Startup:
    """Starts `codellama complete` and a Python that does nothing, in turns.

    Raises:
        EngineFailed: the model gives no token.
    """
    complete = [
        sys.executable, "-m", "codellama", "complete", "def", "--model", model, "--quiet",
        "--max-tokens", "1", "--max-seq-len", "128", "--temperature", "0",
        "--threads", str(n_threads),
    ]  # fmt: skip
    for name, value in {} if choice is None else asdict(choice).items():
        complete += [] if value is None else ["--" + name.replace("_", "-"), value]
    nothing = [sys.executable, "-c", "pass"]
    starts, empty = [], []
    for _ in range(n_repeats):
        empty.append(to_the_end(nothing))
        starts.append(to_the_end(complete))
    return Startup(start_s=min(starts), interpreter_s=min(empty))


def to_the_end(command: list[str]) -> float:
    """Seconds from the start to the end of a program that makes one token.

    To the end, since the token may be half a character and print nothing; what comes after it is a
    few milliseconds.

    Raises:
        EngineFailed: it ended with an error.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        reason = said[0].removeprefix("codellama: ") if said else f"code {done.returncode}"
        raise EngineFailed(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {reason}")
    return seconds
