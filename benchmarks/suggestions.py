"""What accepting suggestions does to real files, beside what the raw model would do to them.

At positions drawn from files that parse (the standard library's, unless others are given), half of
them as the files are and half with some text taken out, one suggestion is accepted. Counted is how
many of the files no longer parse by Python's own parser, and how many suggestions say again the
first line that stands after them; for the suggestions of the language server, and for the model's
text as it comes, from the same text around the cursor.

    python benchmarks/suggestions.py [--positions 500] [--seed 1] [--url URL] [FILE ...]
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import random
import sys
import sysconfig
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codellama.lsp.connection import Connection
from codellama.lsp.languages import PYTHON
from codellama.lsp.model import Ask, HttpModel
from codellama.lsp.overlap import repeats_first_line
from codellama.lsp.settings import Settings
from codellama.lsp.suggest import Request, Suggester

_RAW_TOKENS = 128
_RAW_CHARS = (
    2400  # of the text before the cursor that the raw model is shown; a third as much after
)


@dataclass(frozen=True, kw_only=True)
class Position:
    path: Path
    prefix: str
    suffix: str
    removed: str


@dataclass
class Tally:
    offered: int = 0
    broken: int = 0
    repeated: int = 0
    as_removed: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, position: Position, text: str) -> None:
        if not text.strip():
            return
        self.offered += 1
        is_broken = not parses(position.prefix + text + position.suffix)
        is_repeated = repeats_first_line(text, position.suffix)
        self.broken += is_broken
        self.repeated += is_repeated
        first = position.removed.strip().partition("\n")[0]
        self.as_removed += bool(first) and text.strip().partition("\n")[0] == first
        if is_broken or is_repeated:
            line = position.prefix.count("\n") + 1
            self.examples.append(f"{position.path}:{line}: {text!r}")


def parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError):
            return False
    return True


def standard_library() -> list[Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    skipped = ("test", "tests", "idlelib", "site-packages", "lib2to3")
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not any(part in skipped for part in path.relative_to(folder).parts)
        and path.stat().st_size < 120_000
    )


def positions(files: Sequence[Path], n: int, seed: int) -> list[Position]:
    """`n` cursors in files that parse with the cursor's text as it is."""
    chance = random.Random(seed)
    found: list[Position] = []
    while len(found) < n:
        path = chance.choice(files)
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if text.count("\n") < 20 or not parses(text):
            continue
        at = chance.randrange(len(text))
        kind = len(found) % 4
        if kind == 0:  # anywhere
            end = at
        elif kind == 1:  # at a line's end, as it is
            at = end = text.find("\n", at)
        elif kind == 2:  # the rest of a line is gone
            end = text.find("\n", at)
        else:  # some lines are gone, and the cursor is at their indentation
            at = text.rfind("\n", 0, at) + 1
            line = text[at:].partition("\n")[0]
            at += len(line) - len(line.lstrip())
            end = at
            for _ in range(chance.randint(1, 6)):
                end = max(end, text.find("\n", end + 1))
        if at < 0 or end < at:
            continue
        position = Position(path=path, prefix=text[:at], suffix=text[end:], removed=text[at:end])
        if parses(position.prefix + position.suffix):
            found.append(position)
    return found


async def measure(
    suggester: Suggester, model: HttpModel, places: Sequence[Position], n: int = 1
) -> tuple[Tally, Tally]:
    """What the raw model does, and what accepting the first of `n` suggestions does."""
    raw, ours = Tally(), Tally()
    for i, place in enumerate(places):
        [one] = await model.fill(
            Ask(prefix=place.prefix[-_RAW_CHARS:], suffix=place.suffix[: _RAW_CHARS // 3], n=1,
                max_tokens=_RAW_TOKENS, temperature=0.0, stop=(), is_over=lambda text: False)
        )  # fmt: skip
        raw.add(place, one.text)
        texts = await suggester.suggest(
            Request(document=f"{i}", language=PYTHON, prefix=place.prefix, suffix=place.suffix, n=n)
        )
        for text in texts[:1]:
            ours.add(place, text)
        suggester.forget(f"{i}")
    return raw, ours


async def main(args: argparse.Namespace) -> int:
    connection = Connection(None)
    suggester = await connection.open(Settings(url=args.url))
    assert connection.url is not None, "it is open"
    model = HttpModel(connection.url, key=None, timeout_s=60)
    try:
        places = positions(args.files or standard_library(), args.positions, args.seed)
        raw, ours = await measure(suggester, model, places, args.candidates)
    finally:
        await model.close()
        await connection.close()
    for name, tally in (("raw model", raw), ("language server", ours)):
        print(
            f"{name:<16} {tally.offered:4} of {args.positions} positions offered something; "
            f"{tally.broken} ({share(tally.broken, tally.offered)}) broke the file, "
            f"{tally.repeated} ({share(tally.repeated, tally.offered)}) repeated the line after, "
            f"{tally.as_removed} began with the line taken out"
        )
    for line in ours.examples:
        print(line, file=sys.stderr)
    if args.json:
        fields = ("offered", "broken", "repeated", "as_removed")
        made = {k: {f: getattr(t, f) for f in fields} for k, t in (("raw", raw), ("ours", ours))}
        args.json.write_text(json.dumps(made | {"positions": args.positions, "seed": args.seed}))
    return 1 if ours.broken or ours.repeated else 0


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--positions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--url", help="a running server (default: one over nano is started)")
    parser.add_argument("--json", type=Path)
    sys.exit(asyncio.run(main(parser.parse_args())))
