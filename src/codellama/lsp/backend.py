"""A server of our own, which lives as long as the language server does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import re
import signal
import sys
from collections import deque

from codellama.errors import EngineFailed

_PR_SET_PDEATHSIG = 1
_URL = re.compile(r"serving .* at (http://\S+)")
_END_S = 5.0


class Backend:
    """`codellama serve` as a child process on a port that was free.

    It ends with us: when `stop` is called, and where we are killed the kernel ends it.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self.process = process
        self._reader = asyncio.ensure_future(_drain(process))

    @classmethod
    async def start(cls, model: str) -> Backend:
        """Starts it over a model and waits until it serves.

        Raises:
            EngineFailed: it ended instead, with what it said last.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "codellama", "serve", model, "--port", "0",
            "--max-num-seqs", "8", "--log-level", "error",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, preexec_fn=_die_with_parent,
        )  # fmt: skip
        assert process.stderr is not None, "it was asked for"
        said: deque[str] = deque(maxlen=5)
        try:
            async for raw in process.stderr:
                line = raw.decode("utf-8", "replace").rstrip()
                found = _URL.search(line)
                if found is not None:
                    return cls(process, found[1])
                said.append(line.removeprefix("codellama: "))
        except BaseException:  # we were cancelled
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        await process.wait()
        raise EngineFailed(
            f"codellama serve {model} ended with code {process.returncode}: {' '.join(said)}"
        )

    async def stop(self) -> None:
        """Ends it, at once: nobody waits for its replies any more."""
        for _ in range(2):  # the first asks it to drain, the second to leave
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), _END_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        await self._reader


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Reads what it says, so that it never waits for a reader."""
    assert process.stderr is not None, "it was asked for"
    while await process.stderr.read(1 << 16):
        pass


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
