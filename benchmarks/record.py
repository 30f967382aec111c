"""Result files: how one begins, where it lies, and what a script says while it measures."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def head(theme: str) -> dict[str, Any]:
    """What a result begins with: what it is about, and when and by what it was measured."""
    script = Path(sys.argv[0]).name
    return {
        "theme": theme,
        "date": now(),
        "commit": commit(),
        "command": " ".join([f"python benchmarks/{script}", *sys.argv[1:]]),
    }


def save(record: dict[str, Any], path: Path) -> None:
    """Writes the file, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def now() -> str:
    """UTC to the second; the first ten characters are the day."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """The state of the sources."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
