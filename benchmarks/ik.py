"""ik_llama.cpp by its own programs: every repetition is a process that loads the model anew.

Weights are laid out again while loading (`-rtr 1`), its best setting for decoding; the time is what
the programs say themselves, after a warm-up of their own.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from codellama.errors import EngineFailed

_POLL_S = 0.02


class Ik:
    """What `codellama.bench.measure` asks of an engine, in the folder of the programs."""

    name = "ik_llama.cpp"

    def __init__(self, folder: Path, model: str, n_threads: int) -> None:
        self._folder = folder.resolve()
        self._common = ["-m", str(Path(model).resolve()), "-t", str(n_threads)]
        self._peak_mb = 0.0
        self.pid = 0  # of no process that lives between repetitions

    def prefill(self, n: int) -> float:
        return n / self._bench("-p", str(n), "-n", "0")

    def decode(self, n: int, n_streams: int) -> float:
        if n_streams == 1:
            return n / self._bench("-p", "0", "-n", str(n))
        n_cached = str((n + 16) * n_streams)
        sizes = ["-c", n_cached, "-npp", "1", "-ntg", str(n), "-npl", str(n_streams)]
        said = "\n".join(self._run("llama-batched-bench", *self._common, *sizes, "-rtr"))
        rows = [line.split("|")[1:-1] for line in said.splitlines() if line.startswith("|")]
        heads = [cell.strip() for cell in rows[0]]
        return n * n_streams / float(rows[-1][heads.index("S_TG t/s")])

    def memory(self) -> tuple[float, float]:
        """The most that any repetition had, twice."""
        return self._peak_mb, self._peak_mb

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def _bench(self, *sizes: str) -> float:
        how = ["-r", "1", "-rtr", "1", "-o", "json"]
        out, _ = self._run("llama-bench", *self._common, *sizes, *how)
        return float(json.loads(out)[0]["avg_ts"])

    def _run(self, program: str, *arguments: str) -> tuple[str, str]:
        process = subprocess.Popen(
            [str(self._folder / program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),  # it writes a log where it is started
        )
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, done))
        watcher.start()
        try:
            out, err = process.communicate()
        finally:
            done.set()
            watcher.join()
        if process.returncode != 0:
            last = (err.strip().splitlines() or [""])[-1]
            raise EngineFailed(f"{program} of ik_llama.cpp ended with {process.returncode}: {last}")
        return out, err

    def _watch(self, pid: int, done: threading.Event) -> None:
        while not done.wait(_POLL_S):
            try:
                status = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                return
            for line in status:
                if line.startswith("VmHWM:"):
                    self._peak_mb = max(self._peak_mb, int(line.split()[1]) * 1024 / 1e6)
