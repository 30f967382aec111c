"""A model for each shape and format, measured one after another: what two scripts do alike."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from record import RESULTS, head, save, say

from codellama.bench import machine, report
from codellama.bench.run import default_threads
from codellama.errors import CodeLlamaError

BUILD = Path(__file__).parents[1] / "build"

Measure = Callable[[str, str, argparse.Namespace, list[str]], dict[str, Any]]


def parser(
    doc: str, shapes: Sequence[str], formats: Sequence[str], *, cache: str
) -> argparse.ArgumentParser:
    """The options that both take; `cache` says what becomes of the files."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--shapes", type=words, default=list(shapes))
    made.add_argument("--formats", type=words, default=list(formats))
    made.add_argument("--repeat", type=int, default=5)
    made.add_argument("--threads", type=int, default=default_threads())
    made.add_argument("--cache", type=Path, default=BUILD / "bench", help=cache)
    made.add_argument("--out", type=Path, help="the file to write")
    return made


def run(
    theme: str,
    name: str,
    args: argparse.Namespace,
    measure: Measure,
    summary: Callable[[dict[str, Any]], str],
    *,
    minutes: float = math.inf,
) -> int:
    """Measures all, writes `<date>_<name>_<machine>.json`, and returns the exit status.

    Args:
        measure: one model, by shape and format; what it leaves out it adds to the list. Where it
            raises CodeLlamaError, all of the model is left out, and the record says why.
        minutes: after which no further model is begun.
    """
    runs: list[dict[str, Any]] = []
    skipped: list[str] = []
    end = time.monotonic() + 60 * minutes
    for shape in args.shapes:
        for format in args.formats:
            label = f"{shape} {format}"
            if time.monotonic() > end:
                skipped.append(f"{label}: no time was left")
                continue
            try:
                runs.append(measure(shape, format, args, skipped))
            except CodeLlamaError as error:
                skipped.append(f"{label}: {error}")
                say(f"left out: {skipped[-1]}")
                continue
            say(summary(runs[-1]))
    if not runs:
        return 1
    record = head(theme) | {
        "machine": machine.describe(),
        "threads": args.threads,
        "repeat": args.repeat,
        "runs": runs,
        "skipped": skipped,
    }
    hardware = "-".join(f"{record['machine']['cpu']} {report.threads(args.threads)}".split())
    path = args.out or RESULTS / f"{record['date'][:10]}_{name}_{hardware}.json"
    save(record, path)
    print(path)
    return 0


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
