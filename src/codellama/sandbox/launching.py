"""The host's end of the launcher: start it, give it jobs, read its reports."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal

from codellama.errors import SandboxError
from codellama.sandbox.framing import Ended, read_message, write_message

Level = Literal["full", "reduced"]
_GRACE_S = 20.0
"""How long after a run's own time the launcher may be silent before it counts as lost."""


class Refused(Exception):
    """The kernel does not give what this level needs; the text says what."""


class Launching:
    """A running launcher."""

    def __init__(
        self, level: Level, packages: list[str], off: frozenset[str], programs: list[str]
    ) -> None:
        """Starts one.

        Raises:
            Refused: this level cannot be had here.
            SandboxError: the launcher did not start at all.
        """
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control = ours
        # Programs of the reduced level have no file system of their own; this is their folder.
        self._folder = tempfile.TemporaryDirectory(prefix="codellama-sandbox-")
        Path(self._folder.name).chmod(0o755)
        source = str(Path(__file__).parents[2])
        start = (
            f"import sys; sys.path.insert(0, {source!r}); "
            f"from codellama.sandbox.zygote import main; main({theirs.fileno()})  "
            f"# {Path(self._folder.name).name}"  # tells one sandbox's processes from another's
        )
        environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"}
        if "environment" in off:
            environment = dict(os.environ) | environment
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                pass_fds=[theirs.fileno()],
            )
        try:
            setup = {
                "level": level,
                "packages": packages,
                "off": sorted(off),
                "programs": programs,
            }
            write_message(ours.fileno(), setup)
            answer = read_message(ours.fileno())
        except Ended as error:
            detail = self._last_words()
            self.close()
            raise SandboxError(f"the sandbox's launcher did not start: {detail or error}") from None
        if not answer["ok"]:
            self.close()
            raise Refused(answer["error"])

    def start(self, job: dict[str, Any], link: socket.socket | None = None) -> Running:
        """Gives the launcher a job; `link` becomes descriptor 4 of the program."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            fds = [theirs.fileno()] + ([] if link is None else [link.fileno()])
            try:
                with self._lock:
                    socket.send_fds(self._control, [b"j"], fds)
            except OSError as error:
                ours.close()
                raise SandboxError(f"the sandbox's launcher is gone: {error.strerror}") from None
        return Running(ours, {"folder": self._folder.name, **job})

    def close(self) -> None:
        """Ends the launcher and with it every run."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._folder.cleanup()

    def _last_words(self) -> str:
        self._process.kill()
        errors = self._process.stderr
        lines = [] if errors is None else errors.read().decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else ""


class Running:
    """One run; closing it early ends the program and everything it started."""

    def __init__(self, channel: socket.socket, job: dict[str, Any]) -> None:
        self._channel = channel
        channel.settimeout(None)
        self._wall_s = job["limits"]["wall_s"]
        with contextlib.suppress(Ended):  # then the report is missing too
            write_message(channel.fileno(), job)

    def report(self) -> dict[str, Any]:
        """Waits for the end.

        Raises:
            SandboxError: the launcher could not run it, or no longer answers.
        """
        found = self.report_within(self._wall_s + _GRACE_S)
        if found is None:
            raise SandboxError("the sandbox's launcher does not answer")
        return found

    def report_within(self, patience_s: float) -> dict[str, Any] | None:
        """Waits this long for the end; None means that the run was ended from here.

        Raises:
            SandboxError: the launcher could not run it.
        """
        waiting = select.poll()
        waiting.register(self._channel.fileno(), select.POLLIN)
        try:
            if not waiting.poll(patience_s * 1000):
                return None
            found: dict[str, Any] = read_message(self._channel.fileno())
        except Ended as error:
            raise SandboxError(f"the sandbox lost a run: {error}") from None
        finally:
            self.close()
        failed = found.get("failed")
        if failed is None and found["end"].startswith("!"):
            failed = found["end"].splitlines()[0][1:]
        if failed:
            raise SandboxError(f"the sandbox could not start a program: {failed}")
        return found

    def close(self) -> None:
        self._channel.close()
