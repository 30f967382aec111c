"""`codellama quantize`: a checkpoint as a smaller GGUF file, and what that cost."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli import terminal
from codellama.cli.progress import Progress
from codellama.cli.sizes import counted, human_bytes, table
from codellama.cli.source import SourceFile
from codellama.cli.terminal import Console
from codellama.errors import CodeLlamaError, PromptError
from codellama.quant.mixes import MIXES

if TYPE_CHECKING:
    from codellama.checkpoint.quantize import Quantized
    from codellama.engine.fidelity import Fidelity

_SAMPLE = "model/transformer.py"  # of this package: code, and in every installation
_LABEL = 14


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama quantize SRC DST --format F [options]"
    parser.description = (
        "Write a checkpoint as a GGUF file, usually a smaller one, for this program and llama.cpp\n"
        "to run. It appears whole or not at all. Then both models read a text, and what the\n"
        "smaller one lost is reported."
    )
    add = parser.add_argument
    add("src", metavar="SRC", help="nano, a hub name, or the path of a folder or .gguf file")
    add("dst", metavar="DST", type=Path, help="the .gguf file to make")
    add("--format", choices=tuple(MIXES), required=True, help="number format, largest first; the "
        "names are llama.cpp's")  # fmt: skip
    add("--force", action="store_true", help="replace DST if it exists")
    add(
        "--allow-requantize",
        action="store_true",
        help="take a SRC that is quantised already, though that loses more than the original would",
    )
    add("--threads", type=int, metavar="N", help="threads (default: one for each core)")
    report = parser.add_argument_group("report")
    add = report.add_argument
    add("--text", type=Path, metavar="FILE", help="text to compare on (default: a module of this "
        "program)")  # fmt: skip
    add("--tokens", type=int, default=1024, metavar="N", help="compare on the first N tokens of it "
        "(default: 1024)")  # fmt: skip
    add("--engine", choices=("cpu", "torch"), default="cpu", help="what runs the two models "
        "(default: cpu)")  # fmt: skip
    add("--no-report", action="store_true", help="write the file and leave")
    add("--json", action="store_true", help="one JSON object")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    console = Console.open(args)
    _check_numbers(args)
    text = None if args.no_report else _text(args.text)
    from codellama.checkpoint.hub import resolve
    from codellama.checkpoint.quantize import quantize

    src = resolve(args.src)
    progress = Progress(console)
    try:
        written = quantize(
            src,
            args.dst,
            args.format,
            name=Path(args.src).name.removesuffix(".gguf") or None,
            overwrite=args.force,
            allow_requantize=args.allow_requantize,
            n_threads=args.threads,
            progress=lambda done, total: progress.show(done, total, human_bytes(total)),
        )
    finally:
        progress.end()
    for note in written.notes:
        console.say(note)
    found, problem = None, None
    if text is not None:
        try:
            found = _compare(args, console, src, text)
        except CodeLlamaError as error:
            problem = error
    if args.json:
        console.write(json.dumps(_facts(args, written, found)) + "\n")
    else:
        console.write(_page(args, written, found))
    if problem is not None:
        raise type(problem)(
            f"{args.dst} is written, but not compared: {problem}", hint=problem.hint
        ) from problem
    return 0


def _check_numbers(args: Namespace) -> None:
    from codellama.cli.usage import UsageError

    for flag, value in (("--threads", args.threads), ("--tokens", args.tokens)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} is {value}; expected 1 or more")


def _text(path: Path | None) -> str:
    if path is None:
        return resources.files("codellama").joinpath(_SAMPLE).read_text(encoding="utf-8")
    text = SourceFile.read(path).text
    if not text:
        raise PromptError(f"{path}: is empty", hint="name a text that the models can read")
    return text


def _compare(args: Namespace, console: Console, src: Path, text: str) -> Fidelity:
    from codellama import checkpoint
    from codellama.engine.fidelity import fidelity

    source, copy = checkpoint.open(src), checkpoint.open(args.dst)
    ids = source.tokenizer().encode(text)[: args.tokens]
    progress = Progress(console)
    console.say(f"comparing the two on {counted(len(ids), 'token')}")
    try:
        return fidelity(
            source,
            copy,
            ids,
            engine=args.engine,
            n_threads=args.threads,
            progress=lambda done, total: progress.show(done, total, f"{total} predictions"),
        )
    finally:
        progress.end()


def _facts(args: Namespace, written: Quantized, found: Fidelity | None) -> dict[str, Any]:
    return {
        "path": str(written.path),
        "source": args.src,
        "format": args.format,
        "source_bytes": written.src_bytes,
        "bytes": written.dst_bytes,
        "bits_per_weight": written.bits_per_weight,
        "tensor_formats": {str(format): n for format, n in sorted(written.formats.items())},
        "notes": list(written.notes),
        "quality": None if found is None else {"text": _text_name(args), **asdict(found)},
    }


def _page(args: Namespace, written: Quantized, found: Fidelity | None) -> str:
    formats = ", ".join(f"{n} {name}" for name, n in sorted(written.formats.items()))
    rows = [
        ("written", str(written.path)),
        ("format", f"{args.format}: {formats}"),
        ("size", f"{human_bytes(written.dst_bytes)}, from {human_bytes(written.src_bytes)}; "
                 f"{written.bits_per_weight:.2f} bits per weight"),
    ]  # fmt: skip
    page = "".join(f"{label:<{_LABEL}}{text}\n" for label, text in rows)
    if found is None:
        return page
    lines = [
        ["", "source", args.format],
        ["perplexity", f"{found.source_perplexity:.4f}", f"{found.perplexity:.4f}"],
        ["mean KL divergence, nats", "", f"{found.mean_kl:.5f}"],
        ["same likeliest token", "", f"{100 * found.same_choice:.1f} %"],
    ]
    indented = "".join(f"  {line}\n" for line in table(lines).splitlines())
    return f"{page}\non {found.n_tokens} tokens of {_text_name(args)}\n{indented}"


def _text_name(args: Namespace) -> str:
    return f"codellama/{_SAMPLE}" if args.text is None else str(args.text)
