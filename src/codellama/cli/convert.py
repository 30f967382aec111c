"""`codellama convert`: any checkpoint into a Hugging Face folder."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from codellama.cli import terminal
from codellama.cli.progress import Progress
from codellama.cli.terminal import Console


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama convert SRC DST [options]"
    parser.description = (
        "Write a checkpoint (a Hugging Face folder, a Meta folder, a .gguf file or a hub name) as "
        "a\nHugging Face folder. The folder appears whole or not at all."
    )
    parser.add_argument("src", metavar="SRC", help="the checkpoint to read")
    parser.add_argument("dst", metavar="DST", type=Path, help="the folder to make")
    parser.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16"),
        help="number format of the weights (default: as stored, quantised weights as bf16)",
    )
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    console = Console.open(args)
    from codellama.checkpoint.convert import convert
    from codellama.checkpoint.hub import resolve

    progress = Progress(console)
    try:
        notes = convert(
            resolve(args.src),
            args.dst,
            dtype=None if args.dtype is None else args.dtype.upper(),
            overwrite=args.force,
            progress=lambda done, total: progress.show(done, total, f"{total} tensors"),
        )
    finally:
        progress.end()
    for note in notes:
        console.say(note)
    console.write(f"{args.dst}\n")
    return 0
