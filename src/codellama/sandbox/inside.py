"""What runs in the isolated process: a program, a candidate that answers calls, or tests."""

from __future__ import annotations

import _sitebuiltins
import builtins
import contextlib
import importlib
import io
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any, NoReturn

NOTE_FD, LINK_FD = 3, 4
_THREAD_STACK = 512 << 10
_PRELOADED = (
    "abc", "array", "ast", "atexit", "base64", "bisect", "calendar", "cmath", "collections",
    "collections.abc", "contextlib", "copy", "csv", "ctypes", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io",
    "itertools", "json", "linecache", "math", "mmap", "numbers", "operator", "random", "re",
    "resource", "socket", "statistics", "string", "struct", "subprocess", "sys", "textwrap",
    "time", "traceback", "typing", "unicodedata", "codellama.sandbox.answering",
    "codellama.sandbox.testing", "codellama.sandbox.user_tests",
)  # fmt: skip


def preload(if_there: list[str]) -> None:
    """Imports what programs import most, once, before the launcher forks."""
    for name in _PRELOADED:
        importlib.import_module(name)
    for name in if_there:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in ("exit", "quit"):  # what `site` would have given
        setattr(builtins, name, _sitebuiltins.Quitter(name, ""))


def write_files(folder: str, files: dict[str, str]) -> None:
    """Writes base64 texts under relative names, which the host has checked."""
    import base64

    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(text))


def note(text: str) -> None:
    """Tells the host something short; what it is worth depends on whose process this is."""
    os.write(NOTE_FD, text.encode("utf-8", "replace"))


def main(job: dict[str, Any]) -> NoReturn:
    """Does the job and leaves with an exit code; nothing of the launcher runs after it."""
    # These import this module, and were loaded before the fork.
    sandbox = importlib.import_module("codellama.sandbox")
    threading.stack_size(_THREAD_STACK)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), encoding="utf-8")
    sys.stdout = _writer(1)
    sys.stderr = _writer(2)
    try:
        mode = job["mode"]
        if mode == "program":
            run_program(job["program"])
        elif mode == "answer":
            if "folders" in job:
                sandbox.user_tests.add_project_paths(job["folders"])
            sandbox.answering.answer(job["program"], LINK_FD, job["module"])
        elif mode == "test":
            sandbox.testing.test(job["program"], job["entry_point"], LINK_FD)
        else:
            sandbox.user_tests.test(job)
        code = 0
    except SystemExit as leaving:
        code = _exit_code(leaving)
    except MemoryError:
        note("memory")
        code = 1
    except BaseException as error:
        _show(error)
        code = 1
    _leave(code)


def run_program(source: str) -> None:
    """Runs a text as `__main__`."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    sys.path.insert(0, str(Path.cwd()))
    exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)


def _writer(fd: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    sys.stderr.write(f"{leaving.code}\n")
    return 1


def _show(error: BaseException) -> None:
    import traceback

    ours = str(Path(__file__).parent)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    try:
        traceback.print_exception(type(error), error, trace)
    except MemoryError:
        note("memory")
    except BaseException:
        os.write(2, b"the error could not be shown\n")


def _leave(code: int) -> NoReturn:
    import atexit

    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as leaving does
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        code = code or 1
    finally:
        os._exit(code)
