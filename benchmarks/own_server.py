"""`codellama serve` over nano, for as long as something is measured."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The server's port, and its process, which has ended when the block has."""
    command = [sys.executable, "-m", "codellama", "serve", "--port", "0", "--log-level", "error"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(r":(\d+)$", line)
            if found is not None:
                break
        else:
            raise SystemExit("the server did not start")
        yield int(found[1]), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
