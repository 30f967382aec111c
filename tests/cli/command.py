"""The command line inside this process: much quicker than starting another."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from scripted import scripted_module

from codellama.cli.main import main


class Done(NamedTuple):
    """How it ended and what it wrote."""

    code: int
    out: bytes
    err: str


@contextmanager
def _model(script: Mapping[str, Any] | None) -> Iterator[None]:
    name = "codellama.engine.llm"
    before = sys.modules.get(name)
    if script is not None:
        sys.modules[name] = scripted_module(script)
    try:
        yield
    finally:
        if before is not None:
            sys.modules[name] = before
        elif script is not None:
            del sys.modules[name]


def run(
    *arguments: str | Path, stdin: bytes = b"", script: Mapping[str, Any] | None = None
) -> Done:
    """Runs `codellama` with these arguments; with a script, on a scripted model."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        _model(script),
    ):
        try:
            code = main([str(word) for word in arguments])
        except SystemExit as leaving:  # how argparse leaves
            code = int(leaving.code or 0)
    found = []
    for stream in (out, err):
        stream.flush()
        found.append(stream.buffer.getvalue())
    return Done(code, found[0], found[1].decode())
