"""What `codellama plan` says beside what is: files, memory and decoding speed of our CPU engine.

nano as it comes and in every format, and shapes with random weights. A model too large for this
machine's memory or disk is left out, and the record says so. Each file is made, measured by an
engine in a process of its own, and removed unless it was there. Speeds are medians, and the limits
of the machine that the plan starts from are measured between the repetitions. Writes
`results/<date>_plan-<shapes>_<machine>.json` beside this file; tests hold today's plan to it.

    python benchmarks/plan.py [--shapes nano,1.1b,7b] [--formats q8_0,q4_0] [--repeat 5]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grid
from record import say

from codellama import checkpoint
from codellama.bench import machine, report
from codellama.bench.cost import cost_of
from codellama.bench.limits import Limits
from codellama.bench.measure import Work, interleave
from codellama.bench.process import BODIES, EngineProcess, EngineSpec
from codellama.bench.shapes import random_model
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.quantize import quantize
from codellama.engine.plan import free_memory
from codellama.errors import OutOfMemory
from codellama.plan import memory
from codellama.plan.subject import find
from codellama.quant.mixes import MIXES

SHAPES = ("nano", "1.1b", "7b")
DECODE = {"nano": 384, "1.1b": 64, "7b": 12}
PREFILL = 512
_LARGEST = {"7b": {"f32": 27e9, "f16": 13.5e9, "bf16": 13.5e9}}  # before there is a file


def main() -> int:
    parser = grid.parser(__doc__, SHAPES, tuple(MIXES), cache="where the files are made")
    parser.add_argument(
        "--minutes", type=float, default=600, help="after which no further model is begun"
    )
    args = parser.parse_args()
    return grid.run(
        "files, memory and decoding that `codellama plan` is held to",
        f"plan-{'-'.join(args.shapes)}",
        args,
        measure,
        summary,
        minutes=args.minutes,
    )


def measure(shape: str, format: str, args: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    """One model's file, memory and speed. Raises CodeLlamaError where it cannot be."""
    path, is_ours = made(shape, format, args.cache)
    try:
        return measured(shape, format, path, args)
    finally:
        if is_ours:
            path.unlink()


def made(shape: str, format: str, folder: Path) -> tuple[Path, bool]:
    """The file, and whether it was made now."""
    if shape == "nano":
        path = folder / f"nano-{format}.gguf"
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        quantize(resolve("nano"), path, format, n_threads=1)
        return path, True
    path = folder / f"random-{shape}-{format}.gguf"
    if path.exists():
        return path, False
    size = _LARGEST.get(shape, {}).get(format, 0.0)
    room = free_memory()
    if room is not None and room < 1.1 * size:
        raise OutOfMemory(f"{size / 1e9:.1f} GB, and {room / 1e9:.1f} GB of memory are left")
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 2 * size:
        raise OutOfMemory(f"{size / 1e9:.1f} GB, and the disk has no room for that")
    return random_model(shape, format, folder, progress=say), True


def measured(shape: str, format: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    reader = checkpoint.open(path)
    cost = cost_of(reader)
    limits = Limits(n_threads=args.threads, read_bytes=cost.weight_bytes)
    others = machine.OtherPrograms()
    spec = EngineSpec(
        name=report.OWN, body=BODIES / "own.py", model=str(path), n_threads=args.threads,
        context=PREFILL + 16, n_streams=1, python=Path(sys.executable),
    )  # fmt: skip
    work = Work(kind="decode", n=DECODE[shape])
    with EngineProcess(spec) as engine:
        engine.prefill(PREFILL)
        rss, peak = engine.memory()
        others.start([engine.pid])
        results = interleave(
            [engine], [work], n_repeats=args.repeat, between=lambda repetition: limits.measure()
        )
        busy = others.share()
    rates = results.of(report.OWN, work)
    subject = find(str(path))
    planned = memory.cpu_resident(
        subject.config, subject.formats, kv_cache=memory.natural_kv(subject.formats),
        cached_tokens=PREFILL, step_tokens=PREFILL, n_threads=args.threads,
    )  # fmt: skip
    return {
        "shape": shape,
        "format": format,
        "config": asdict(subject.config),
        "formats": {name: str(kind) for name, kind in subject.formats.items()},
        "file_bytes": path.stat().st_size,
        "rss_bytes": round(rss * 1e6),
        "peak_rss_bytes": round(peak * 1e6),
        "planned_rss_bytes": planned.total,
        "cached_tokens": PREFILL,
        "limits": limits.to_json(),
        "decode": {"n": work.n, "tok_s": rates.median, "samples": list(rates.samples)},
        "others_cpu_share": busy,
    }


def summary(run: dict[str, Any]) -> str:
    return (
        f"{run['shape']} {run['format']}: file {run['file_bytes'] / 1e6:.1f} MB, resident "
        f"{run['rss_bytes'] / 1e6:.1f} MB, planned {run['planned_rss_bytes'] / 1e6:.1f} MB "
        f"({run['planned_rss_bytes'] / run['rss_bytes'] - 1:+.1%}), "
        f"{run['decode']['tok_s']:.1f} tok/s, others {run['others_cpu_share']:.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
