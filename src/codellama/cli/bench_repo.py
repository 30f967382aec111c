"""`codellama bench-repo`: models on holes that the user's own history filled."""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli import loading, terminal
from codellama.cli.progress import Progress
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.cli.values import above_zero

if TYPE_CHECKING:
    from codellama.eval.repo.bench import Choice, Tests, Tried

_CONTEXTS = ("file", "file-spm", "near", "left", "repo")
_AS_IT_IS = "as-is"
_SUFFIXES = ".py"


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama bench-repo REPO [options]"
    parser.description = (
        "Measure models on your own code: holes are cut where commits added lines, and each\n"
        "model, number format and context fills them, one at a time, greedily."
    )
    parser.epilog = """\
contexts:
  file       the whole file around the hole, as far as it fits
  file-spm   the same, with what comes after the hole first
  near       twenty lines on either side
  left       only what comes before the hole
  repo       parts of other files that share names with it, then forty lines before, twenty after"""
    add = parser.add_argument
    add("repo", metavar="REPO", type=Path, help="a folder under git, such as `.`")
    add("--model", action="append", metavar="M", help="nano, a hub name, or the path of a folder "
        "or .gguf file; may be given several times (default: nano)")  # fmt: skip
    add("--format", type=_words, default=(_AS_IT_IS,), metavar="F,F", help="number formats to "
        "turn each model into, such as q8_0,q4_0; `as-is` is its own (default)")  # fmt: skip
    add("--context", type=_contexts, default=("file", "file-spm", "near", "left"), metavar="C,C",
        help="what the model is shown (default: file,file-spm,near,left)")  # fmt: skip
    add("--holes", type=above_zero, default=20, metavar="N", help="of each kind: one line, several "
        "lines, a function's body (default: 20)")  # fmt: skip
    add("--commits", type=above_zero, default=300, metavar="N", help="how far back (default: 300)")
    add("--suffix", type=_words, default=(_SUFFIXES,), metavar="S,S", help="files to take "
        "(default: .py)")  # fmt: skip
    add("--tests", action="append", metavar="PATH", help="tests of the repository to run in the "
        "sandbox with each hole filled; may be given several times")  # fmt: skip
    add("--packages", action="append", type=Path, default=[], metavar="DIR", help="a folder that "
        "the tests import from, such as a virtual environment's site-packages")  # fmt: skip
    add("--seed", type=int, default=0, help="which holes (default: 0)")
    add("--threads", type=above_zero, metavar="N", help="threads (default: one for each core)")
    add("--max-seq-len", type=above_zero, metavar="N", help="tokens of context (default: the "
        "model's)")  # fmt: skip
    loading.add_engine_arguments(parser)
    add("--html", type=Path, metavar="FILE", help="write a page with the replies to read")
    add("--json", action="store_true", help="one JSON object")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    console = Console.open(args)
    from codellama.bench import machine
    from codellama.eval.repo import bench, report
    from codellama.eval.repo.history import Repository
    from codellama.eval.repo.holes import KINDS, cut

    if args.html is not None and not args.html.absolute().parent.is_dir():
        raise UsageError(f"--html {args.html}: there is no such folder")
    repository = Repository(args.repo)
    holes = cut(repository.added(args.suffix, args.commits), args.holes, args.seed)
    if not holes:
        raise UsageError(
            f"the last {args.commits} commits of {args.repo} added no line to a file in "
            f"{', '.join(args.suffix)}"
        )
    counts = {kind: sum(hole.kind == kind for hole in holes) for kind in KINDS}
    console.say("holes: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    models = args.model or ["nano"]
    formats = [bench.AS_IT_IS if one == _AS_IT_IS else one for one in args.format]
    tried: list[tuple[Choice, list[Tried]]] = []
    rows: list[dict[str, Any]] = []
    progress = Progress(console)
    with ExitStack() as stack:
        stack.callback(progress.end)
        for choice, ones in bench.run(
            repository,
            holes,
            models=models,
            formats=formats,
            contexts=args.context,
            tests=_tests(args, stack),
            n_threads=args.threads,
            max_seq_len=args.max_seq_len,
            engine=loading.engine_options(args),
            say=console.say,
            progress=lambda done, total: progress.show(done, total, f"{total} replies"),
        ):
            tried.append((choice, ones))
            rows.append(bench.entry(choice, ones))
    facts = {
        "repository": repository.root.name,
        "head": repository.head,
        "commits": args.commits,
        "seed": args.seed,
        "holes": counts,
        "tests": args.tests,
        "machine": machine.describe(),
        "rows": rows,
    }
    if args.tests and all(row["passed"] is None for row in rows):
        console.warn(
            "no commit's own tests pass in the sandbox, so none could be run with a hole filled; "
            "what they import comes from --packages"
        )
    if args.html is not None:
        args.html.write_text(report.html(facts, tried), encoding="utf-8")
        console.say(f"page: {args.html}")
    console.write(json.dumps(facts) + "\n" if args.json else report.table(rows))
    return 0


def _tests(args: Namespace, stack: ExitStack) -> Tests | None:
    if not args.tests:
        return None
    from codellama.sandbox import Limits, Sandbox

    limits = Limits(cpu_s=60, wall_s=120, program_bytes=64 << 20, disk_bytes=128 << 20, files=8192)
    box = stack.enter_context(Sandbox.open(limits=limits, n_workers=1, packages=args.packages))

    def passed(files: dict[str, bytes], path: str) -> bool:
        # In one process, since tests patch and subclass what they test, and a completion does not
        # set out to deceive them.
        return box.run_pytest(files, args.tests, candidate=path, together=True).passed

    return passed


def _words(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise argparse.ArgumentTypeError("names nothing")
    return found


def _contexts(text: str) -> tuple[str, ...]:
    found = _words(text)
    for one in found:
        if one not in _CONTEXTS:
            raise argparse.ArgumentTypeError(
                f"there is no context {one!r}; there are {', '.join(_CONTEXTS)}"
            )
    return found
