"""Decoding and prompts on one GPU, beside what the GPU can do and beside other programs.

Weights are random and of the true shapes: speed does not depend on what they say. First the
device's copy bandwidth and its rate of bfloat16 matrix products are measured; every figure is then
also a share of one of them. `transformers` (sdpa, static cache, compiled; always in bfloat16) and a
loop in the manner of gpt-fast (bfloat16, int8, int4) run the same shapes in the same process, one
after the other beside us, repetitions taking turns.

    python benchmarks/gpu.py --only 7b-bf16      one part, in less than ten minutes
    python benchmarks/gpu.py --list              the parts, in the order of their worth
    python benchmarks/gpu.py --tiny --device cpu a dry run

Writes `results/<date>_gpu-<part>_<device>.json` beside this file, anew after everything that is
measured, and prints a table. When a part's `--minutes` are over, what is left of other programs is
left out; a second run finds their compiled code and gets further.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_ours import BLOCK, Ours
from gpu_peers import GptFastStyle, Peer, Transformers
from record import RESULTS, commit, now, save

from codellama.model.config import ModelConfig
from codellama.model.family import MEMBERS
from codellama.runners import KVFormat, kv_bytes_per_token
from codellama.runners.fused.limits import copy_rate, device_name, product_rate, timed
from codellama.runners.fused.weights import Kind

PARTS = (
    "7b-bf16", "7b-int4", "7b-int8", "34b-int4", "70b-int4", "13b-bf16", "34b-bf16", "34b-int8",
    "70b-int8", "13b-int4", "13b-int8", "7b-fp8",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured: sequences decoded at once, tokens before and in them, prompts' lengths."""

    batches: tuple[int, ...] = (1, 8, 64)
    before: int = 512
    n_tokens: int = 64
    prompts: tuple[int, ...] = (2048, 16384)
    repeats: int = 5


TINY = Sizes(batches=(1, 3), before=8, n_tokens=4, prompts=(32, 48), repeats=2)


def shape_of(name: str, *, tiny: bool) -> ModelConfig:
    found = next(m.config for m in MEMBERS if m.name.lower() == f"codellama-{name}")
    if not tiny:
        return replace(found, max_seq_len=16384 + 64)
    n_kv_heads = 2 if found.n_heads == found.n_kv_heads else 1
    return replace(
        found, dim=64, n_layers=2, n_heads=2, n_kv_heads=n_kv_heads, head_dim=32, ffn_dim=96,
        vocab_size=320, max_seq_len=128,
    )  # fmt: skip


def limits(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """Bytes a second that a copy reads and writes together, and bfloat16 operations a second."""
    copied = copy_rate(device, 1 << (20 if tiny else 31))
    multiplied = product_rate(device, "BF16", 64 if tiny else 8192)
    return {"copy_gb_s": copied / 1e9, "bf16_tflop_s": multiplied / 1e12}


def decode_bytes(ours: Ours, n_sequences: int, before: int, n_tokens: int) -> float:
    """Bytes that a step must read: every weight once, and the cache of each sequence."""
    per_token = kv_bytes_per_token(ours.config, KVFormat.BF16)
    return ours.weight_bytes + n_sequences * (before + n_tokens / 2) * per_token


def prefill_operations(config: ModelConfig, n: int) -> float:
    """Multiplications and additions of a prompt; of the output matrix one row alone."""
    n_matrix = config.n_params - config.vocab_size * config.dim * 2
    attention = 2 * n * n * config.n_heads * config.head_dim * config.n_layers  # half is masked
    return 2.0 * n_matrix * n + attention


@dataclass(frozen=True)
class Work:
    """A kind of work: tokens that it reads or makes, and how an engine does it."""

    name: str
    n_tokens: int
    run: Callable[[Ours | Peer], object]
    share: Callable[[float], float]  # of the limit, at so many seconds


@dataclass
class Seconds:
    """What was measured of one kind of work."""

    own: list[float] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    peers: dict[str, list[float]] = field(default_factory=dict)


def works_of(ours: Ours, sizes: Sizes, found_limits: dict[str, float]) -> list[Work]:
    def decoding(n: int) -> Work:
        needed = decode_bytes(ours, n, sizes.before, sizes.n_tokens) * sizes.n_tokens
        return Work(
            f"decode, batch {n}", n * sizes.n_tokens,
            lambda engine: engine.decode(n, sizes.before, sizes.n_tokens),
            lambda s: needed / s / 1e9 / found_limits["copy_gb_s"],
        )  # fmt: skip

    def reading(n: int) -> Work:
        needed = prefill_operations(ours.config, n)
        return Work(
            f"prompt of {n}", n, lambda engine: engine.prefill(n),
            lambda s: needed / s / 1e12 / found_limits["bf16_tflop_s"],
        )  # fmt: skip

    return [*map(decoding, sizes.batches), *map(reading, sizes.prompts)]


def beside(
    device: torch.device, work: Work, ours: Ours, peer: Peer, sizes: Sizes, seconds: Seconds
) -> None:
    """The same work by both in turns; the first two repetitions, which compile, are not counted."""
    own, theirs = [], []
    for i in range(-2, sizes.repeats):
        ours_s, theirs_s = (timed(device, partial(work.run, engine)) for engine in (ours, peer))
        if i >= 0:
            own.append(ours_s)
            theirs.append(theirs_s)
    seconds.own += own
    seconds.peers[peer.name] = theirs
    seconds.ratios[peer.name] = statistics.median(theirs) / statistics.median(own)


def measure(
    part: str, device: torch.device, sizes: Sizes, *, tiny: bool, peers: bool, until: float,
    profile: Path | None, write: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """Everything about one part; `write` gets all that is known each time there is more."""
    name, kind_name = part.split("-")
    kind = Kind.PLAIN if kind_name == "bf16" else Kind(kind_name)
    config = shape_of(name, tiny=tiny)
    found_limits = limits(device, tiny=tiny)
    longest = max(sizes.prompts), max(sizes.batches) * (sizes.before + sizes.n_tokens + BLOCK)
    ours = Ours(config, kind, device, max(longest))
    found = {work: Seconds() for work in works_of(ours, sizes, found_limits)}
    left_out: list[str] = []
    record = {
        "date": now(),
        "part": part, "is_tiny": tiny, "device": device_name(device), "commit": commit(),
        "command": " ".join(["python", *sys.argv]), "versions": versions(),
        "limits": found_limits, "weight_gb": ours.weight_bytes / 1e9,
        "before": sizes.before, "n_tokens": sizes.n_tokens, "left_out": left_out,
    }  # fmt: skip

    def say() -> None:
        write({**record, "works": [entry(w, s) for w, s in found.items() if s.own]})

    def leave_out(what: str, why: object) -> None:
        left_out.append(f"{what}: {why}")
        print(f"{what} is left out: {why}", file=sys.stderr)

    for work, seconds in found.items():
        once = [timed(device, partial(work.run, ours)) for _ in range(2 + sizes.repeats)]
        seconds.own += once[2:]
        say()
    if profile is not None:
        profile.write_text(profiled(lambda: ours.decode(1, sizes.before, 8), device))
    makers: list[Any] = [Transformers] if peers else []
    if peers and kind is not Kind.FP8:
        makers.append(GptFastStyle)
    for make in makers:
        try:
            peer: Peer = make(config, kind, device)
        except Exception as error:  # not installed, or does not fit beside ours
            leave_out(make.name, f"{type(error).__name__}: {error}")
            continue
        for work, seconds in found.items():
            if time.monotonic() > until:
                leave_out(f"{peer.name}, {work.name}", "the minutes are over")
                continue
            try:
                beside(device, work, ours, peer, sizes, seconds)
            except Exception as error:  # a peer that does not run here is no reason to stop
                leave_out(f"{peer.name}, {work.name}", f"{type(error).__name__}: {error}")
            say()
        del peer
        free(device)
    say()


def free(device: torch.device) -> None:
    """Lets go of what nothing refers to, recordings of compiled code as well."""
    if device.type == "cuda":
        torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def entry(work: Work, seconds: Seconds) -> dict[str, Any]:
    """A kind of work in the record: speeds, the share of the limit, and ratios to the peers'."""
    others = {
        name: speeds(work.n_tokens, s) | {"ratio": seconds.ratios[name]}
        for name, s in seconds.peers.items()
    }
    return {
        "work": work.name, "unit": "tok/s",
        "engines": {Ours.name: speeds(work.n_tokens, seconds.own), **others},
        "limit_share": work.share(statistics.median(seconds.own)),
    }  # fmt: skip


def speeds(n: int, seconds: list[float]) -> dict[str, float]:
    rates = sorted(n / s for s in seconds)
    return {"tok_s": statistics.median(rates), "low": rates[0], "high": rates[-1]}


def profiled(work: Callable[[], object], device: torch.device) -> str:
    """Time by kernel."""
    from torch.profiler import ProfilerActivity, profile

    is_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as seen:
        work()
    order = "cuda_time_total" if is_cuda else "cpu_time_total"
    table: str = seen.key_averages().table(sort_by=order, row_limit=25)
    return table


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"torch": torch.__version__}
    for name in ("triton", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def markdown(record: dict[str, Any]) -> str:
    """The result as a table: speeds, the share of the limit, and the ratio to each peer."""
    bounds = record["limits"]
    lines = [
        f"**{record['part']}** ({record['weight_gb']:.1f} GB) on {record['device']}: copies "
        f"{bounds['copy_gb_s']:.0f} GB/s, multiplies {bounds['bf16_tflop_s']:.0f} Tflop/s; "
        f"{record['date'][:10]}, commit {record['commit']}.\n"
    ]
    peers = sorted({e for work in record["works"] for e in work["engines"]} - {Ours.name})
    heads = ["", "tok/s", "of the limit", *(f"{p}, ratio" for p in peers)]
    lines += [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for work in record["works"]:
        own = work["engines"][Ours.name]
        row = [work["work"], f"{own['tok_s']:.0f} [{own['low']:.0f}-{own['high']:.0f}]",
               f"{work['limit_share']:.0%}"]  # fmt: skip
        for peer in peers:
            other = work["engines"].get(peer)
            row.append("-" if other is None else f"{other['tok_s']:.0f}, {other['ratio']:.2f} x")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART")
    parser.add_argument("--list", action="store_true", help="say which parts there are")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, for a dry run")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no other program "
                        "is begun, for each part (default: 8)")  # fmt: skip
    parser.add_argument("--profile", type=Path, metavar="FILE", help="time by kernel, batch 1")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    args = parser.parse_args()
    if args.list:
        print("\n".join(PARTS))
        return
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device; --tiny --device cpu is a dry run")
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.only or PARTS:
        latest: dict[str, Any] = {}

        def write(record: dict[str, Any], latest: dict[str, Any] = latest) -> None:
            latest.update(record)
            place = re.sub(r"[^A-Za-z0-9]+", "-", record["device"])
            path = args.out / f"{record['date'][:10]}_gpu-{record['part']}_{place}.json"
            save(record, path)

        measure(
            part, device, TINY if args.tiny else Sizes(), tiny=args.tiny, peers=not args.no_peers,
            until=time.monotonic() + 60 * args.minutes, profile=args.profile, write=write,
        )  # fmt: skip
        print(markdown(latest), flush=True)
        free(device)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
