"""What a key press costs in each order of an infilling prompt, and what the orders are worth.

Starts `codellama serve` with nano and types 500 characters, one request each, into the middle of
500 lines of the standard library: plainly, and in an editor that closes brackets by itself. Then
asks for the rest of lines of other files, from greedy replies: how many are the file's own.

    python benchmarks/keystrokes.py [--characters 500] [--lines 240] [--orders auto psm spm]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load import request
from own_server import serving

LIBRARY = Path(sysconfig.get_path("stdlib"))
ORDERS = ("auto", "psm", "spm")
_CLOSING = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}


def ask(port: int, path: str, body: dict[str, Any]) -> Any:
    status, content = asyncio.run(request(port, "POST", path, body))
    if status != 200:
        raise SystemExit(f"{path}: {status} {content[:200]!r}")
    return json.loads(content)


def plainly(text: str) -> Iterator[tuple[str, str]]:
    """What stands before and after the cursor at each key press."""
    for n in range(1, len(text) + 1):
        yield text[:n], ""


def with_brackets(text: str) -> Iterator[tuple[str, str]]:
    """The same where an opening bracket or quote brings its closing one, typed over later."""
    closing = ""
    for n, char in enumerate(text, 1):
        if closing.startswith(char):
            closing = closing[1:]
        elif char in _CLOSING:
            closing = _CLOSING[char] + closing
        elif char == "\n":
            closing = ""
        yield text[:n], closing


def typing(port: int, n_chars: int, order: str, keys: Any) -> tuple[float, float]:
    """Mean tokens computed of a prompt at a key press, and the median of its milliseconds."""
    lines = (LIBRARY / "argparse.py").read_text().splitlines(True)[600:1100]
    before, after = "".join(lines[:250]), "".join(lines[250:])
    typed = (LIBRARY / "shutil.py").read_text()[20000 : 20000 + n_chars]
    computed, took = [], []
    for left, right in keys(typed):
        began = time.perf_counter()
        answer = ask(port, "/infill", {
            "input_prefix": before + left, "input_suffix": right + after, "n_predict": 8,
            "temperature": 0, "order": order,
        })  # fmt: skip
        took.append(1000 * (time.perf_counter() - began))
        computed.append(answer["timings"]["prompt_n"])
    return statistics.fmean(computed), statistics.median(took)


def cuts(n: int, seed: int = 5) -> Iterator[tuple[str, str, str, str]]:
    """Places in lines of the standard library: kind, text before, rest of the line, text after."""
    chance = random.Random(seed)
    files = [f for f in sorted(LIBRARY.glob("*.py")) if 3000 < f.stat().st_size < 60_000]
    kinds = ("inside a word", "after a word", "after the indentation")
    found = 0
    while found < n:
        lines = chance.choice(files).read_text(errors="ignore").split("\n")
        at = chance.randrange(10, len(lines) - 3)
        line, kind = lines[at], kinds[found % 3]
        indent = len(line) - len(line.lstrip())
        if not 8 <= len(line.strip()) <= 70 or line.lstrip().startswith("#"):
            continue
        if kind == kinds[2]:
            places = [indent]
        else:
            pattern = r"\w(?=\w)" if kind == kinds[0] else r"\w(?!\w)"
            places = [m.end() for m in re.finditer(pattern, line) if indent < m.end() < len(line)]
        if not places:
            continue
        cut = chance.choice(places)
        before = "\n".join([*lines[:at], line[:cut]])[-1500:]
        yield kind, before, line[cut:], "\n" + "\n".join(lines[at + 1 :])[:600]
        found += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=500)
    parser.add_argument("--lines", type=int, default=240)
    parser.add_argument("--orders", nargs="+", default=list(ORDERS), choices=ORDERS)
    args = parser.parse_args()
    if args.characters:
        report_typing(args.characters, args.orders)
    if args.lines:
        report_lines(list(cuts(args.lines)), [order for order in args.orders if order != "auto"])


def report_typing(n_chars: int, orders: list[str]) -> None:
    """Each row and column with a server of its own, whose cache holds nothing yet."""
    lines = (LIBRARY / "argparse.py").read_text().splitlines(True)[600:1100]
    halves = "".join(lines[:250]), "".join(lines[250:])
    with serving() as (port, _):
        n_file = sum(len(ask(port, "/tokenize", {"content": half})["tokens"]) for half in halves)
    print(f"the file has {n_file} tokens\n")
    print("| order | tokens computed at a key press | the same, with brackets that close "
          "themselves | ms, median |\n| --- | ---: | ---: | ---: |", flush=True)  # fmt: skip
    for order in orders:
        with serving() as (port, _):
            plain, ms = typing(port, n_chars, order, plainly)
        with serving() as (port, _):
            brackets, _ = typing(port, n_chars, order, with_brackets)
        print(f"| {order} | {plain:.0f} ({plain / n_file:.1%}) | {brackets:.0f} "
              f"({brackets / n_file:.1%}) | {ms:.0f} |", flush=True)  # fmt: skip


def report_lines(places: list[tuple[str, str, str, str]], orders: list[str]) -> None:
    print("\n| order | " + " | ".join(dict.fromkeys(kind for kind, *_ in places)) + " |")
    print("| --- | ---: | ---: | ---: |", flush=True)
    with serving() as (port, _):
        for order in orders:
            right: dict[str, list[bool]] = {}
            for kind, before, rest, after in places:
                answer = ask(port, "/v1/completions", {
                    "prompt": before, "suffix": after, "max_tokens": 24, "temperature": 0,
                    "stop": "\n", "order": order,
                })  # fmt: skip
                right.setdefault(kind, []).append(answer["choices"][0]["text"] == rest)
            cells = [f"{sum(each)} of {len(each)}" for each in right.values()]
            print(f"| {order} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
