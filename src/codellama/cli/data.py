"""`codellama data collect|build`: the corpus that a recipe trains on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "prepare a training corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="collect|build")
    collect = verbs.add_parser("collect", help="fetch the projects that a list names")
    build = verbs.add_parser(
        "build", help="clean what was collected, train the tokenizer, write conversations"
    )
    for verb in (collect, build):
        verb.add_argument("sources", type=Path, help="the list, such as recipes/corpus/sources.toml")
        verb.add_argument("--out", type=Path, default=Path("build/corpus"), help="corpus folder")
        verb.add_argument("--wheels", type=Path, help="folder of wheels (default: OUT/wheels)")
    build.add_argument(
        "--decontaminate",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="JSON files of evaluation problems; training files that share text with them go",
    )
    build.add_argument("--vocabulary", type=int, default=8192, help="pieces of the tokenizer")
    build.add_argument("--tokenizer", type=Path, help="use this one in place of training another")
    build.add_argument("--chat", type=Path, help="hand-written exchanges, for conversations")
    build.add_argument("--conversations", type=int, default=8000, help="how many to write")
    build.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> int:
    """Collects, or collects and builds."""
    from codellama.train.sources import SourceList, collect

    sources = SourceList.read(args.sources)
    distributions = collect(sources, args.wheels or args.out / "wheels")
    _say(f"{len(distributions)} projects are at hand")
    if args.action == "collect":
        return 0
    from codellama.train.build import BuildSettings, build

    build(
        distributions,
        args.out,
        BuildSettings(
            max_share=sources.max_share,
            evaluation_files=tuple(args.decontaminate),
            n_pieces=args.vocabulary,
            tokenizer=args.tokenizer,
            chat=args.chat,
            n_conversations=args.conversations,
            seed=args.seed,
        ),
        note=_say,
    )
    print(args.out)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
