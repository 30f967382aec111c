"""`codellama bench`: how fast a model runs here, and how fast it could."""

from __future__ import annotations

import argparse
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path

from codellama.cli import loading, terminal
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.errors import MissingExtra

_SHAPES = ("s", "1.1b", "7b")
_FORMATS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1",
            "q4_0", "q4_0-pure")  # fmt: skip
_PEERS = ("llama-cpp",)
_MOST = 1 << 20


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama bench [MODEL | --shape S] [options]"
    parser.description = (
        "Measure how fast a model reads prompts and makes tokens, beside what the machine can do:\n"
        "reading memory limits decoding, arithmetic limits prompts. Repetitions of all that is\n"
        "measured take turns, and a speed is the median of its repetitions. With --device the\n"
        "limits are that device's, and steps draw their tokens there."
    )
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="nano, a hub name, or the path of a folder or "
        ".gguf file (default: nano)")  # fmt: skip
    add("--shape", choices=_SHAPES, help="random weights instead of a model: s (42 M), 1.1b, or "
        "7b, which is Code Llama's")  # fmt: skip
    add("--format", choices=_FORMATS, help="number format of a shape's weights (default: q4_0), or "
        "to turn MODEL's into first")  # fmt: skip
    add("--prefill", type=_counts, default=(512, 128), metavar="N,N", help="lengths of prompts "
        "(default: 512,128)")  # fmt: skip
    add("--decode", type=_count, default=64, metavar="N", help="tokens to make (default: 64)")
    add("--streams", type=_count, default=1, metavar="N", help="also decode N sequences at once")
    add("--repeat", type=_count, default=5, metavar="N", help="repetitions (default: 5)")
    add("--threads", type=_count, metavar="N", help="threads (default: one for each core)")
    loading.add_engine_arguments(parser)
    add("--against", choices=_PEERS, help="another engine, measured on the same file in turns")
    add("--peer-python", type=Path, metavar="P", help="the Python that engine is installed in "
        "(default: this one)")  # fmt: skip
    add("--no-start", action="store_true", help="leave out the time from start to first token")
    add("--plot", type=Path, metavar="FILE", help="draw a roofline picture, .svg or .png")
    add("--cache", type=Path, metavar="DIR", help="where files of shapes are kept (default: "
        "~/.cache/codellama/bench)")  # fmt: skip
    add("--json", action="store_true", help="one JSON object")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    if args.model is not None and args.shape is not None:
        raise UsageError("give MODEL or --shape, not both")
    if args.peer_python is not None and args.against is None:
        raise UsageError("--peer-python says where --against's engine is, and there is none")
    console = Console.open(args)
    from codellama.bench import report, roofline
    from codellama.bench.cost import Choice
    from codellama.bench.measure import Work
    from codellama.bench.peers import PEERS, require
    from codellama.bench.run import Settings, default_threads, doubts
    from codellama.bench.run import run as measure
    from codellama.engine.loading import engine_of

    chosen = loading.engine_options(args)
    chosen["engine"] = engine_of(args.engine, args.device, args.weights)
    if args.against is not None and chosen["engine"] != "cpu":
        raise UsageError("--against measures another engine on the CPU, beside the native core's")
    if chosen["engine"] == "torch":
        _require_device(args.device)
    peer = None if args.against is None else PEERS[args.against]
    python = Path(sys.executable) if args.peer_python is None else args.peer_python.absolute()
    # What will not work is said before minutes are spent.
    if args.plot is not None:
        roofline.require(args.plot)
    if peer is not None:
        require(peer, python)
    works = [Work(kind="prefill", n=n) for n in args.prefill]
    works.append(Work(kind="decode", n=args.decode))
    if args.streams > 1:
        works.append(Work(kind="decode", n=args.decode, n_streams=args.streams))
    settings = Settings(
        works=works,
        n_threads=default_threads() if args.threads is None else args.threads,
        n_repeats=args.repeat,
        choice=Choice(**chosen),
        peer=peer,
        peer_python=python,
        with_startup=not args.no_start,
    )
    with ExitStack() as stack:
        model, name = _model(args, console, stack)
        found = measure(model, settings, name=name, progress=console.say)
    if args.plot is not None:
        roofline.draw(found, args.plot)
        console.say(f"drawn: {args.plot}")
    doubt = doubts(found)
    if doubt is not None:
        console.warn(doubt)
    console.write(report.to_json(found) + "\n" if args.json else report.page(found))
    return 0


def _require_device(name: str | None) -> None:
    """Raises ConfigError or MissingExtra unless PyTorch and the device are there."""
    try:
        from codellama.runners.fused.memory import require_device
    except ModuleNotFoundError as error:
        raise MissingExtra("the torch engine", "torch") from error
    require_device(name or "cpu")


def _model(args: Namespace, console: Console, stack: ExitStack) -> tuple[str, str]:
    """The path or name of what is measured, and what it is called."""
    if args.shape is not None:
        from codellama.bench.shapes import random_model

        folder = args.cache or Path("~/.cache/codellama/bench").expanduser()
        format = args.format or "q4_0"
        path = random_model(args.shape, format, folder, progress=console.say)
        return str(path), f"{args.shape} with random weights"
    name = args.model or "nano"
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve

    reader = checkpoint.open(resolve(name))
    if args.format is None and (args.against is None or reader.kind == "gguf"):
        return name, name
    from codellama.bench.gguf_file import gguf_of
    from codellama.quant.formats import Format

    if args.format is not None and args.format.upper() not in list(Format):
        raise UsageError(f"--format {args.format} is for shapes; a model takes one of its own")
    format = None if args.format is None else Format(args.format.upper())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codellama-bench-")))
    console.say(f"writing {name} as GGUF, which every engine is given")
    gguf_of(reader, folder / "model.gguf", format)
    return str(folder / "model.gguf"), name


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(word.strip()) for word in text.split(",")))
