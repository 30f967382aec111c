"""The sandbox as its users see it."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from codellama.errors import ConfigError, SandboxError, SandboxUnavailable
from codellama.sandbox import kernel, landlock, selftest
from codellama.sandbox.launching import Launching, Level, Refused
from codellama.sandbox.limits import Limits
from codellama.sandbox.results import Ran, Status, Verdict

_REDUCED_NEEDS_LANDLOCK = 4
_LAST_WORDS_S = 0.5
_TOO_LARGE = Verdict(False, "refused", "the program or its tests are too large", 0.0, 0.0)


class Sandbox:
    """Runs programs that nobody has read, isolated from the machine and from each other.

    Level "full": namespaces of every kind, a root that holds the interpreter and nothing else,
    Landlock, a filter of system calls, limits, no privileges. Level "reduced", where user
    namespaces are switched off: without the namespaces and the root; programs then have no place
    to write and start no processes. What neither stops is in docs/sandbox.md.

    Methods may be called from several threads.
    """

    def __init__(self, launching: Launching, level: Level, limits: Limits, n_workers: int) -> None:
        """Use `open`, which tests what it opens."""
        self.level: Level = level
        self.limits = limits
        self.n_workers = n_workers
        self._launching = launching
        self._threads = ThreadPoolExecutor(n_workers, thread_name_prefix="codellama-sandbox")

    @classmethod
    def open(
        cls,
        *,
        limits: Limits | None = None,
        n_workers: int | None = None,
        packages: Sequence[str | Path] = (),
        programs: Sequence[str | Path] = (),
    ) -> Self:
        """Starts a sandbox and tries to break out of it.

        Args:
            limits: bounds of each run.
            n_workers: runs at the same time in `check_many`; None takes one per processor.
            packages: directories that programs may import from, besides the standard library.
            programs: files and directories whose programs may be started, such as a compiler's.
                With any, what a run writes may be started too. Needs `limits` of several processes
                and the full level.

        Raises:
            SandboxUnavailable: programs cannot be isolated here; it names what is missing.
            ConfigError: a setting is out of range.
        """
        levels: tuple[Level, ...] = ("full",) if programs else ("full", "reduced")
        return cls._open(limits or Limits(), n_workers, packages, levels, frozenset(), programs)

    @classmethod
    def _open(
        cls,
        limits: Limits,
        n_workers: int | None,
        packages: Sequence[str | Path],
        levels: Sequence[Level],
        off: frozenset[str],
        programs: Sequence[str | Path] = (),
    ) -> Self:
        """`open` with a choice of levels and of layers to leave out, for tests of the sandbox."""
        missing = list(_missing_everywhere())
        if missing:
            raise SandboxUnavailable(tuple(missing))
        workers = len(os.sched_getaffinity(0)) if n_workers is None else n_workers
        if workers < 1:
            raise ConfigError(f"n_workers is {workers}; it has to be at least 1")
        folders = [str(Path(one).resolve(strict=True)) for one in packages]
        tools = [str(Path(one).absolute()) for one in programs]
        for level in levels:
            if level == "reduced" and landlock.version() < _REDUCED_NEEDS_LANDLOCK:
                missing.append(
                    f"without namespaces: Landlock {landlock.version()} of "
                    f"{_REDUCED_NEEDS_LANDLOCK} needed"
                )
                continue
            try:
                launching = Launching(level, folders, off, tools)
            except Refused as error:
                missing.append(f"{level} isolation: {error}")
                continue
            box = cls(launching, level, limits, workers)
            try:
                leaks = () if off else selftest.leaks(box)
            except SandboxError as error:
                leaks = (str(error),)
            if not leaks:
                return box
            box.close()
            missing.append(f"{level} isolation fails its test: {', '.join(leaks)}")
        raise SandboxUnavailable(tuple(missing))

    def run(
        self, program: str, *, stdin: str = "", files: Mapping[str, bytes] | None = None
    ) -> Ran:
        """Runs a program as `__main__`, in a directory that holds `files`.

        Raises:
            SandboxError: the sandbox failed; a program that fails is a `Ran`.
            ConfigError: a name in `files` is no relative path.
        """
        job = self._job("program", program, stdin=stdin, files=files)
        if self._is_too_large(job):
            return Ran("refused", None, "", "", 0.0, 0.0, "the program is too large")
        return _ran(self._launching.start(job).report())

    def check(self, solution: str, tests: str, entry_point: str | None) -> Verdict:
        """Whether a solution passes tests that it never sees.

        `tests` is Python: assertions on the names that the solution defines (as in MBPP), or a
        function `check(candidate)` (as in HumanEval), which is called with the solution's
        `entry_point`. Helpers that tests use, such as those of HumanEval's prompts, belong into
        `tests`: a name that only the solution defines means the solution's.

        Tests run in a process of their own. The solution's process gets arguments and gives back
        plain data: None, booleans, numbers, texts, bytes, lists, tuples, sets, dictionaries and the
        standard library's relatives of these; other objects stay there and are used from afar. It
        cannot compare, patch or end the tests. Tests that need an object's class on their side
        (`isinstance` with a class of the solution, or its own exception types) fail.

        `cpu_s` bounds all calls together, `wall_s` the whole check.

        Raises:
            SandboxError: the sandbox failed; a solution that fails is a `Verdict`.
        """
        started = time.monotonic()
        answering = self._job("answer", solution) | {"module": "solution"}
        testing = self._job("test", tests) | {"entry_point": entry_point}
        return self._judge(answering, testing, started)

    def run_pytest(
        self,
        files: Mapping[str, bytes],
        test_paths: Sequence[str],
        *,
        candidate: str,
        together: bool = False,
    ) -> Verdict:
        """Whether a user's own tests pass with a candidate for one of their files.

        `files` is the project as relative paths, `candidate` the one that a model wrote, and
        `test_paths` what pytest is given; it passes when pytest ends well and at least one test
        passed. The sandbox has to be opened with the `packages` that hold pytest.

        The candidate is loaded in a process of its own, as in `check`, and tests that import its
        module get stand-ins: it cannot end, patch or skip them, nor see what they expect. What the
        candidate's own objects say when they are compared with each other, or asked for their
        class, is its word. Tests that patch the module, subclass its classes or do arithmetic with
        its objects fail this way. `together` runs them in one process, where they work: then a
        candidate that sets out to deceive can reach pytest and report what it likes, and nothing
        prevents that.

        Raises:
            SandboxError: the sandbox failed; a candidate that fails is a `Verdict`.
            ConfigError: a name in `files` is no relative path, or `candidate` is not among them.
        """
        if candidate not in files or not candidate.endswith(".py"):
            raise ConfigError(f"the candidate {candidate!r} is no Python file among those given")
        started = time.monotonic()
        rest = {name: content for name, content in files.items() if name != candidate}
        testing = self._job("pytest", "", files=files if together else rest)
        folders = [str(PurePosixPath(path).parent) for path in (candidate, *test_paths)]
        testing |= {"test_paths": list(test_paths), "module": None, "folders": folders}
        if together:
            if self._is_too_large(testing):
                return _TOO_LARGE
            told = self._launching.start(testing).report()
            return _verdict(told, None, time.monotonic() - started)
        try:
            source = files[candidate].decode()
        except UnicodeDecodeError:
            return Verdict(False, "refused", "the candidate is not UTF-8", 0.0, 0.0)
        module = _module_name(candidate)
        answering = self._job("answer", source, files=rest)
        answering |= {"module": module, "folders": folders}
        return self._judge(answering, testing | {"module": module}, started)

    def _judge(self, answering: dict[str, Any], testing: dict[str, Any], started: float) -> Verdict:
        """Runs a candidate and its tests beside each other, with a line between them."""
        if self._is_too_large(answering) or self._is_too_large(testing):
            return _TOO_LARGE
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            candidate = self._launching.start(answering, theirs)
            try:
                tester = self._launching.start(testing, ours)
            except BaseException:
                candidate.close()
                raise
        try:
            told = tester.report()
            # The tests are over, and with them the reason to be of a candidate that still runs.
            ended = candidate.report_within(_LAST_WORDS_S)
        finally:
            candidate.close()
        return _verdict(told, ended, time.monotonic() - started)

    def check_many(self, checks: Iterable[tuple[str, str, str | None]]) -> Iterator[Verdict]:
        """`check` for each (solution, tests, entry_point), `n_workers` at a time, in order.

        Takes from `checks` a few ahead of what it gave.
        """
        waiting: deque[Future[Verdict]] = deque()
        try:
            for one in checks:
                waiting.append(self._threads.submit(self.check, *one))
                if len(waiting) >= 2 * self.n_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Ends the sandbox and whatever still runs in it."""
        self._launching.close()
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _job(
        self,
        mode: str,
        program: str,
        *,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        encoded = {}
        for name, content in (files or {}).items():
            _check_name(name)
            encoded[name] = base64.b64encode(content).decode()
        limits = asdict(self.limits)
        return {
            "mode": mode,
            "program": program,
            "stdin": stdin,
            "files": encoded,
            "limits": limits,
        }

    def _is_too_large(self, job: dict[str, Any]) -> bool:
        sizes = [len(job["program"]), len(job["stdin"]), *map(len, job["files"].values())]
        return sum(sizes) > self.limits.program_bytes


def _missing_everywhere() -> Iterator[str]:
    if sys.platform != "linux":
        yield f"Linux (this is {sys.platform})"
    elif kernel.MACHINE not in kernel.MACHINES:
        yield f"a processor of {' or '.join(kernel.MACHINES)} (this is {kernel.MACHINE})"
    elif landlock.version() == 0:
        yield "Landlock in the kernel"


def _module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[0] == "src":
        parts = parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\0" in name:
        raise ConfigError(f"{name!r} is no relative path below the program's directory")


def _ran(report: dict[str, Any]) -> Ran:
    status, code, cpu_s, reason = _ending(report)
    return Ran(status, code, report["stdout"], report["stderr"], cpu_s, report["wall_s"], reason)


def _ending(report: dict[str, Any]) -> tuple[Status, int | None, float, str]:
    """Status, exit code, CPU seconds and a clause from the launcher's report."""
    why = report["why"]
    if why == "wall":
        return "timeout", None, 0.0, "the time on the clock was over"
    if why == "output":
        return "killed", None, 0.0, "it wrote more than it may"
    if why != "end" or not report["end"]:
        return "killed", None, 0.0, "it was ended from outside"
    code_text, cpu_text, over = report["end"].split()
    code, cpu_s = int(code_text), float(cpu_text)
    if over == "1":
        return "timeout", code, cpu_s, "its CPU time was over"
    if code != 0 and report["note"] == "memory":
        return "memory", code, cpu_s, "it asked for more memory than it may have"
    if code < 0:
        return "killed", code, cpu_s, f"ended by signal {-code}"
    return ("error" if code else "ok"), code, cpu_s, f"exit code {code}"


def _verdict(told: dict[str, Any], ended: dict[str, Any] | None, wall_s: float) -> Verdict:
    status, _, cpu_s, reason = _ending(told)
    output, why = "", ""
    candidate: Status = "ok"
    if ended is not None:
        candidate, _, used_s, why = _ending(ended)
        cpu_s += used_s
        output = ended["stdout"] + ended["stderr"]
    if status != "ok" or not told["note"]:
        status = "error" if status == "ok" else status
        return Verdict(False, status, f"the check ended early: {reason}", cpu_s, wall_s, output)
    said = json.loads(told["note"])
    if said["status"] == "error" and candidate in ("timeout", "memory", "killed"):
        return Verdict(False, candidate, f"the solution: {why}", cpu_s, wall_s, output)
    return Verdict(said["status"] == "ok", said["status"], said["reason"], cpu_s, wall_s, output)
