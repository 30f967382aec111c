"""`codellama data`: a corpus to train on, conversations, and a model held against them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codellama.cli import instruct

if TYPE_CHECKING:
    from codellama.engine.llm import LLM
    from codellama.train.corpus import Document

_AT_ONCE = 64  # completions of `data own`, in one step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verbs = parser.add_subparsers(
        dest="action", required=True, metavar="collect|build|instruct|verify|own|measure"
    )
    collect = verbs.add_parser("collect", help="fetch the projects that a list names")
    build = verbs.add_parser(
        "build", help="clean what was collected, train the tokenizer, write conversations"
    )
    for verb in (collect, build):
        verb.add_argument("sources", type=Path, help="a list, as recipes/corpus/sources.toml")
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
    build.add_argument("--seed", type=int, default=7, help="orders the tokenizer's text and talks")
    build.add_argument(
        "--talks",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="further conversations as JSONL, such as `data instruct` and `data verify` write",
    )
    instruct.add_parsers(verbs)
    own = verbs.add_parser("own", help="a model's own completions of the functions, to learn from")
    own.add_argument("model", help="nano, or the path of a model")
    own.add_argument("--corpus", type=Path, default=Path("build/corpus"), help="corpus folder")
    own.add_argument("--device", metavar="D", help="cuda for a GPU (default: the CPU)")
    own.add_argument("--functions", type=int, default=3000, help="how many are completed")
    own.add_argument("--tries", type=int, default=6, help="completions of each")
    own.add_argument("--temperature", type=float, default=0.4)
    own.add_argument("--seed", type=int, default=7)
    measure = verbs.add_parser("measure", help="what a model makes of the held-out functions")
    measure.add_argument("model", help="nano, or the path of a model")
    measure.add_argument("--corpus", type=Path, default=Path("build/corpus"), help="corpus folder")
    measure.add_argument("--tasks", type=int, default=100, help="how many functions")
    measure.add_argument("--length", type=int, default=512, help="ids of a part, at most")
    measure.add_argument("--parts", type=int, default=256, help="how many parts, for bits per byte")
    measure.add_argument("--temperature", type=float, default=0.2, help="for bodies; lines: greedy")
    measure.add_argument("--seed", type=int, default=0)
    measure.add_argument("--show", type=int, default=0, metavar="N", help="print N bodies as well")


def run(args: argparse.Namespace) -> int:
    """Collects; collects and builds; makes conversations or completions; or measures."""
    others = {
        "instruct": instruct.run_instruct,
        "verify": instruct.run_verify,
        "own": _own,
        "measure": _measure,
    }
    if args.action in others:
        return others[args.action](args)
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
            talks=tuple(args.talks),
            n_conversations=args.conversations,
            seed=args.seed,
        ),
        note=_say,
    )
    print(args.out)
    return 0


def _own(args: argparse.Namespace) -> int:
    """Prints how many completions were what, as one JSON object."""
    from codellama.checkpoint.hub import resolve
    from codellama.engine.llm import LLM
    from codellama.engine.params import SamplingParams
    from codellama.train.disk import file_digest
    from codellama.train.own import OWN_FILE, Drawing, Reply, own_completions
    from codellama.train.run import CorpusFolder

    functions = CorpusFolder(args.corpus).documents("train", "function")
    path = Path(resolve(args.model))
    weights = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    llm = LLM.load(str(path), max_num_seqs=_AT_ONCE, device=args.device)

    def write(prompts: Sequence[str], drawing: Drawing) -> Sequence[Sequence[Reply]]:
        params = SamplingParams(
            temperature=drawing.temperature,
            top_p=drawing.top_p,
            max_tokens=drawing.max_tokens,
            seed=drawing.seed,
        )
        return llm.complete(list(prompts), params, n=drawing.n)

    drawing = Drawing(
        n_functions=args.functions, n=args.tries, temperature=args.temperature, seed=args.seed
    )
    by = " ".join(file_digest(path)[:16] for path in weights)
    found = own_completions(write, functions, args.corpus / OWN_FILE, drawing, by, note=_say)
    print(json.dumps(dict(found), indent=1))
    return 0


def _measure(args: argparse.Namespace) -> int:
    """Prints one JSON object: bits per byte, bodies that parse, lines found again."""
    from codellama.engine.llm import LLM
    from codellama.train.corpus import read_documents
    from codellama.train.measure import bits_per_byte

    held_out = [d for d in read_documents(args.corpus) if d.split != "train"]
    figures: dict[str, object] = {}
    for split in ("val-pkg", "val-file"):
        files = [d for d in held_out if (d.split, d.kind) == (split, "python")]
        if files:
            figure = bits_per_byte(args.model, files, args.length, args.parts)
            figures[f"{split} bits/byte"] = round(figure, 4)
    functions = [d for d in held_out if (d.split, d.kind) == ("val-pkg", "function")]
    llm = LLM.load(args.model)
    figures |= _bodies(llm, functions, args)
    figures |= _lines(llm, functions, args)
    print(json.dumps(figures, indent=1))
    return 0


def _bodies(llm: LLM, functions: Sequence[Document], args: argparse.Namespace) -> dict[str, object]:
    from codellama.engine.params import SamplingParams
    from codellama.train.quality import MAX_TOKENS, body, body_tasks, parses

    tasks = body_tasks(functions, args.tasks)
    params = SamplingParams(
        temperature=args.temperature, top_p=0.95, max_tokens=MAX_TOKENS, seed=args.seed
    )
    n_good = 0
    for i, (task, w) in enumerate(
        zip(tasks, llm.complete([t.prompt for t in tasks], params), strict=True)
    ):
        is_cut = w.finish_reason == "length"
        good = parses(task.prompt, w.text, is_cut=is_cut)
        n_good += good
        if i < args.show:
            _say(f"--- {task.project} {task.path} {'parses' if good else 'does not parse'}")
            _say(task.prompt + body(w.text, is_cut=is_cut))
    return {"bodies": len(tasks), "bodies that parse": n_good}


def _lines(llm: LLM, functions: Sequence[Document], args: argparse.Namespace) -> dict[str, object]:
    from codellama.engine.params import SamplingParams
    from codellama.train.quality import found_again, line_tasks

    tasks = line_tasks(functions, args.tasks)
    params = SamplingParams(temperature=0.0, max_tokens=64)
    figures: dict[str, object] = {"lines": len(tasks)}
    orders: tuple[Literal["psm", "spm"], ...] = ("psm", "spm")
    for order in orders:
        fills = [
            llm.infill(prefix=t.prefix, suffix=t.suffix, params=params, order=order) for t in tasks
        ]
        right = sum(found_again(t, fill.text) for t, fill in zip(tasks, fills, strict=True))
        figures[f"lines found, {order}"] = right
    return figures


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
