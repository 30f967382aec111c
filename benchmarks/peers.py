"""This package against other engines, on the same files, in turns.

Shapes with random weights in several formats; prompts of 512 and 128 tokens, 64 decoded tokens, and
8 streams at once. Every engine is loaded once for a file (ik_llama.cpp, which has only programs,
once for each repetition), and one repetition goes around all of them before the next. Writes
`results/<date>_cpu-peers_<machine>.json` beside this file; `table.py` makes Markdown of it.

    python benchmarks/peers.py [--shapes s,1.1b,7b] [--formats q4_0,q8_0,q4_k_m]
        [--engines codellama,llama.cpp,ik_llama.cpp,transformers] [--repeat 5]
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grid
from grid import BUILD, words
from ik import Ik
from record import say

from codellama import checkpoint
from codellama.bench import machine, report, startup
from codellama.bench.cost import cost_of
from codellama.bench.limits import Limits
from codellama.bench.measure import Work, interleave
from codellama.bench.peers import PEERS
from codellama.bench.process import BODIES, EngineProcess, EngineSpec
from codellama.bench.run import doubts
from codellama.bench.shapes import random_model
from codellama.engine.plan import free_memory
from codellama.errors import CodeLlamaError, EngineFailed

HERE = Path(__file__).parent
ENGINES = ("codellama", "llama.cpp", "ik_llama.cpp", "transformers")
TRANSFORMERS_SHAPES = ("s",)  # in float32 the others take up to 27 GB


def main() -> int:
    return grid.run(
        "prompts, decoding and eight streams beside other engines, random weights",
        "cpu-peers",
        parse(),
        measure,
        summary,
    )


def parse() -> argparse.Namespace:
    parser = grid.parser(
        __doc__, ("s", "1.1b", "7b"), ("q4_0", "q8_0", "q4_k_m"), cache="where the files are kept"
    )
    add = parser.add_argument
    add("--engines", type=words, default=list(ENGINES))
    add("--prefill", type=lambda text: [int(n) for n in words(text)], default=[512, 128])
    add("--decode", type=int, default=64)
    add("--streams", type=int, default=8)
    add("--peer-python", type=Path, default=BUILD / "peers/bin/python", help="with llama_cpp")
    add("--ik", type=Path, default=BUILD / "peers/ik/bin", help="folder of ik_llama.cpp's programs")
    add("--llama-tools", type=Path, default=BUILD / "peers/llama.cpp/bin", help="its programs")
    return parser.parse_args()


def measure(
    shape: str, format: str, args: argparse.Namespace, skipped: list[str]
) -> dict[str, Any]:
    """All engines on one file. Engines that are not there are left out, and `skipped` says so."""
    path = random_model(shape, format, args.cache, progress=say)
    reader = checkpoint.open(path)  # first of all, since ours must read it
    cost = cost_of(reader)
    works = [Work(kind="prefill", n=n) for n in args.prefill]
    works += [
        Work(kind="decode", n=args.decode, n_streams=n) for n in dict.fromkeys((1, args.streams))
    ]
    limits = Limits(n_threads=args.threads, read_bytes=cost.weight_bytes)
    others = machine.OtherPrograms()
    with ExitStack() as stack:
        engines = []
        for name in args.engines:
            try:
                say(f"{shape} {format}: loading {name}")
                engines.append(stack.enter_context(start(name, shape, path, args)))
            except CodeLlamaError as error:
                skipped.append(f"{shape} {format}, {name}: {error}")
                say(f"left out: {skipped[-1]}")
        if not any(engine.name == report.OWN for engine in engines):
            raise EngineFailed("nothing to compare with, since codellama did not start")
        others.start(engine.pid for engine in engines)

        def between(repetition: int) -> None:
            say(f"{shape} {format}: repetition {repetition + 1} of {args.repeat}")
            limits.measure()

        results = interleave(engines, works, n_repeats=args.repeat, between=between)
        busy = others.share()
        memory = {engine.name: engine.memory() for engine in engines}
        abouts = {engine.name: getattr(engine, "about", {}) for engine in engines}
    starts = first_tokens(path, args, skipped)
    entries = []
    for work in works:
        own = results.of(report.OWN, work)
        speeds = {}
        for engine in engines:
            rates = results.of(engine.name, work)
            speeds[engine.name] = {
                "tok_s": rates.median,
                "low": rates.low,
                "high": rates.high,
                "samples": list(rates.samples),
                "ratio": own.median / rates.median,
                "limit_share": report.share(work, cost, limits, rates.median),
            }
        entries.append({"work": str(work), "kind": work.kind, "n": work.n,
                        "streams": work.n_streams, "engines": speeds})  # fmt: skip
    return {
        "shape": shape,
        "format": format,
        "file_mb": path.stat().st_size / 1e6,
        "cost": cost.to_json(),
        "limits": limits.to_json(),
        "works": entries,
        "engines": {
            name: {**abouts[name], "rss_mb": rss, "peak_rss_mb": peak}
            for name, (rss, peak) in memory.items()
        },
        "start": starts,
        "others_cpu_share": busy,
    }


def first_tokens(path: Path, args: argparse.Namespace, skipped: list[str]) -> dict[str, float]:
    """Seconds from starting a program to its first token: ours, Python's own part, llama.cpp's."""
    found = startup.measure(str(path), args.threads, args.repeat)
    starts = {"codellama": found.start_s, "python": found.interpreter_s}
    program = args.llama_tools / "llama-completion"
    if not program.exists():
        skipped.append(f"llama.cpp's own start: {program} is not there: make bench-tools")
        return starts
    command = [
        str(program), "-m", str(path), "-t", str(args.threads), "-no-cnv", "-p", "def", "-n", "1",
        "--ignore-eos", "-c", "128", "--temp", "0", "--no-warmup",
    ]  # fmt: skip
    try:
        starts["llama.cpp"] = min(startup.to_the_end(command) for _ in range(args.repeat))
    except CodeLlamaError as error:  # the speeds are worth keeping without it
        skipped.append(f"llama.cpp's own start: {error}")
    return starts


def start(name: str, shape: str, path: Path, args: argparse.Namespace) -> Any:
    """A started engine. Raises CodeLlamaError with the reason when it cannot be."""
    room = free_memory()
    if room is not None and room < 1.3 * path.stat().st_size:
        raise EngineFailed(f"{room / 1e9:.0f} GB of memory are left, which is too little for it")

    def process(body: Path, python: Path) -> EngineProcess:
        return EngineProcess(
            EngineSpec(
                name=name,
                body=body,
                model=str(path),
                n_threads=args.threads,
                context=max(*args.prefill, args.decode) + 16,
                n_streams=args.streams,
                python=python,
            )
        )

    if name == "codellama":
        return process(BODIES / "own.py", Path(sys.executable))
    if name == "llama.cpp":
        return process(PEERS["llama-cpp"].body, args.peer_python)
    if name == "ik_llama.cpp":
        if not (args.ik / "llama-bench").exists():
            raise EngineFailed(f"{args.ik} has no llama-bench: make bench-ik IK=<its sources>")
        return Ik(args.ik, str(path), args.threads)
    if name == "transformers":
        if shape not in TRANSFORMERS_SHAPES:
            raise EngineFailed("its float32 weights are only compared on small shapes")
        return process(HERE / "bodies/transformers_fp32.py", Path(sys.executable))
    raise EngineFailed(f"there is no engine of that name; there are {', '.join(ENGINES)}")


def summary(run: dict[str, Any]) -> str:
    lines = [f"{run['shape']} {run['format']}:"]
    for entry in run["works"]:
        speeds = ", ".join(
            f"{name} {report.number(speed['tok_s'])}"
            + ("" if name == report.OWN else f" ({speed['ratio']:.2f} x)")
            for name, speed in entry["engines"].items()
        )
        lines.append(f"  {entry['work']}: {speeds}")
    doubt = doubts(run)
    return "\n".join([*lines, *([doubt] if doubt else [])])


if __name__ == "__main__":
    sys.exit(main())
