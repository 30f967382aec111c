"""Decoding and prompts on one GPU, beside what the GPU can do and beside other programs.

Weights are random and of the true shapes: speed does not depend on what they say. First the
device's copy bandwidth and its rate of bfloat16 matrix products are measured; every figure is then
also a share of one of them. `transformers` (sdpa, static cache, compiled) and a loop in the manner
of gpt-fast run the same shapes in the same process, in bfloat16 or int8, where they fit.

    python benchmarks/gpu.py --only 7b-bf16      one part; each takes a few minutes
    python benchmarks/gpu.py --list              the parts, in the order of their worth
    python benchmarks/gpu.py --tiny --device cpu a dry run

Writes `results/<date>_gpu-<part>_<device>.json` beside this file and prints a table.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_peers import GptFastStyle, Peer, Transformers
from record import RESULTS, commit, now, save

from codellama.model.config import ModelConfig
from codellama.model.family import MEMBERS
from codellama.runners import Batch, KVFormat, kv_bytes_per_token
from codellama.runners.fused.graphs import CudaRecorder
from codellama.runners.fused.kernels import Kernels, PlainKernels
from codellama.runners.fused.runner import FusedRunner
from codellama.runners.fused.weights import Blocks, Dense, Fp8, Kind, Placed, rounded

PARTS = (
    "7b-bf16", "7b-int4", "7b-int8", "34b-int4", "70b-int4", "13b-bf16", "34b-bf16", "34b-int8",
    "70b-int8", "13b-int4", "13b-int8", "7b-fp8",
)  # fmt: skip
BLOCK = 16
CHUNK = 2048  # tokens of a prompt that one step reads


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


def parameters(config: ModelConfig, kind: Kind, device: torch.device) -> Iterator[Placed]:
    """Random parameters made on the device, a matrix at a time."""
    torch.manual_seed(0)
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            yield name, torch.ones(shape, dtype=torch.bfloat16, device=device)
            continue
        is_table = name.startswith("embed_tokens")
        x = torch.empty(shape, dtype=torch.bfloat16, device=device)
        x.normal_(std=1.0 if is_table else shape[1] ** -0.5)
        yield name, x if is_table else rounded(x, kind, torch.bfloat16)


def held_bytes(matrix: Dense | Fp8 | Blocks) -> int:
    found = [x for x in vars(matrix).values() if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in found)


class Ours:
    """The runner that `--device` uses, and the sampling kernel behind it."""

    name = "codellama"

    def __init__(self, config: ModelConfig, kind: Kind, device: torch.device, n_most: int) -> None:
        self.config, self._device = config, device
        self._vocab = config.vocab_size
        self.weight_bytes = 0

        def counted() -> Iterator[Placed]:
            for name, value in parameters(config, kind, device):
                if not isinstance(value, torch.Tensor):
                    self.weight_bytes += held_bytes(value)
                yield name, value

        kernels: Kernels = PlainKernels()
        if device.type == "cuda":
            from codellama.runners.triton.kernels import TritonKernels

            kernels = TritonKernels()
        self._runner = FusedRunner(
            config, counted(), kernels=kernels, n_blocks=n_most // BLOCK + 1, block_size=BLOCK,
            device=device, recorder=CudaRecorder() if device.type == "cuda" else None,
            kv_cache=KVFormat.BF16, max_seq_len=config.max_seq_len,
        )  # fmt: skip
        from codellama import _native

        self._kernel = self._runner.sampling_kernel(_native)  # type: ignore[arg-type]

    def decode(self, n_sequences: int, before: int, n_tokens: int) -> None:
        """Steps of one token for each sequence: run, draw, and bring the ids back."""
        width = -(-(before + n_tokens) // BLOCK)
        tables = np.arange(n_sequences * width, dtype=np.int32).reshape(n_sequences, width)
        tokens = np.arange(n_sequences, dtype=np.int32) % self._vocab
        every = np.arange(n_sequences + 1, dtype=np.int32)
        settings = self._settings(n_sequences)
        for position in range(before, before + n_tokens):
            logits = self._runner.run(
                Batch(
                    tokens=tokens, positions=np.full(n_sequences, position, np.int32),
                    seq_starts=every, context_lens=np.full(n_sequences, position + 1, np.int32),
                    block_tables=tables, logit_rows=every[:-1],
                )
            )  # fmt: skip
            tokens, _ = self._kernel.sample(logits, *settings)

    def prefill(self, n_tokens: int) -> None:
        """One prompt, in chunks as the scheduler cuts it."""
        table = np.arange(-(-n_tokens // BLOCK), dtype=np.int32)[None]
        for first in range(0, n_tokens, CHUNK):
            n = min(CHUNK, n_tokens - first)
            is_last = first + n == n_tokens
            self._runner.run(
                Batch(
                    tokens=np.arange(n, dtype=np.int32) % self._vocab,
                    positions=np.arange(first, first + n, dtype=np.int32),
                    seq_starts=np.array([0, n], np.int32),
                    context_lens=np.array([first + n], np.int32),
                    block_tables=table,
                    logit_rows=np.array([n - 1] if is_last else [], np.int32),
                )
            )

    def _settings(self, n: int) -> tuple[Any, ...]:
        """Every row at the defaults of `SamplingParams`."""
        ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
        none, offsets = np.empty(0, np.int32), np.zeros(n + 1, np.int64)
        return (
            0.2 * ones, np.zeros(n, np.int32), 0.95 * ones, zeros, ones, zeros, zeros,
            np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64), none, offsets,
            np.zeros(n, np.int32), none, np.empty(0, np.float32), offsets,
        )  # fmt: skip


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of a piece of work, from an idle device to an idle device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def limits(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """Bytes a second that a copy reads and writes together, and bfloat16 operations a second."""
    n = 1 << (20 if tiny else 31)
    source = torch.zeros(n, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = min(timed(device, lambda: target.copy_(source)) for _ in range(10))
    side = 64 if tiny else 8192
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    product_s = min(timed(device, lambda: a @ b) for _ in range(10))
    return {"copy_gb_s": 2 * n / copy_s / 1e9, "bf16_tflop_s": 2 * side**3 / product_s / 1e12}


def decode_bytes(ours: Ours, n_sequences: int, before: int, n_tokens: int) -> float:
    """Bytes that a step must read: every weight once, and the cache of each sequence."""
    per_token = kv_bytes_per_token(ours.config, KVFormat.BF16)
    return ours.weight_bytes + n_sequences * (before + n_tokens / 2) * per_token


def prefill_operations(config: ModelConfig, n: int) -> float:
    """Multiplications and additions of a prompt; of the output matrix one row alone."""
    n_matrix = config.n_params - config.vocab_size * config.dim * 2
    attention = 2 * n * n * config.n_heads * config.head_dim * config.n_layers  # half is masked
    return 2.0 * n_matrix * n + attention


def interleaved(
    device: torch.device, works: dict[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds by name, repetitions taking turns; the first two, which compile, are not counted.

    Who fails is left out with a word about it.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for i in range(-2, repeats):
        for name, work in works.items():
            if name not in found:
                continue
            try:
                seconds = timed(device, work)
            except Exception as error:  # a peer that does not run here is no reason to stop
                print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
                del found[name]
                continue
            if i >= 0:
                found[name].append(seconds)
    return found


def measure(part: str, device: torch.device, sizes: Sizes, *, tiny: bool, peers: bool,
            profile: Path | None) -> dict[str, Any]:  # fmt: skip
    """Everything about one part, as the object that is written."""
    name, kind_name = part.split("-")
    kind = Kind.PLAIN if kind_name == "bf16" else Kind(kind_name)
    config = shape_of(name, tiny=tiny)
    found_limits = limits(device, tiny=tiny)
    longest = max(sizes.prompts), max(sizes.batches) * (sizes.before + sizes.n_tokens + BLOCK)
    ours = Ours(config, kind, device, max(longest))
    others: list[Peer] = []
    if peers and kind in (Kind.PLAIN, Kind.INT8):
        n_rows = max(sizes.batches)
        n_most = max(max(sizes.prompts), sizes.before + sizes.n_tokens + 1)
        makers = [GptFastStyle] if kind is Kind.INT8 else [Transformers, GptFastStyle]
        for make in makers:
            peer = made(make, config, kind is Kind.INT8, device, n_rows, n_most)
            others += [] if peer is None else [peer]
    works = []
    for n in sizes.batches:
        runs: dict[str, Callable[[], object]] = {
            ours.name: lambda n=n: ours.decode(n, sizes.before, sizes.n_tokens)  # type: ignore[misc]
        }
        for peer in others:
            runs[peer.name] = lambda n=n, p=peer: p.decode(n, sizes.before, sizes.n_tokens)  # type: ignore[misc]
        seconds = interleaved(device, runs, sizes.repeats)
        needed = decode_bytes(ours, n, sizes.before, sizes.n_tokens)
        step_s = statistics.median(seconds[ours.name]) / sizes.n_tokens
        works.append({
            "work": f"decode, batch {n}", "unit": "tok/s",
            "engines": {e: speeds(n * sizes.n_tokens, s) for e, s in seconds.items()},
            "limit_share": needed / step_s / 1e9 / found_limits["copy_gb_s"],
        })  # fmt: skip
    for n in sizes.prompts:
        runs = {ours.name: lambda n=n: ours.prefill(n)}  # type: ignore[misc]
        for peer in others:
            runs[peer.name] = lambda n=n, p=peer: p.prefill(n)  # type: ignore[misc]
        seconds = interleaved(device, runs, sizes.repeats)
        rate = prefill_operations(config, n) / statistics.median(seconds[ours.name]) / 1e12
        works.append({
            "work": f"prompt of {n}", "unit": "tok/s",
            "engines": {e: speeds(n, s) for e, s in seconds.items()},
            "limit_share": rate / found_limits["bf16_tflop_s"],
        })  # fmt: skip
    if profile is not None:
        profile.write_text(profiled(lambda: ours.decode(1, sizes.before, 8), device))
    return {
        "date": now(),
        "part": part, "is_tiny": tiny, "device": device_name(device), "commit": commit(),
        "command": " ".join(["python", *sys.argv]), "versions": versions(),
        "limits": found_limits, "weight_gb": ours.weight_bytes / 1e9,
        "before": sizes.before, "n_tokens": sizes.n_tokens, "works": works,
    }  # fmt: skip


def made(make: Any, *arguments: Any) -> Peer | None:
    try:
        peer: Peer = make(*arguments)
    except Exception as error:  # not installed, or does not fit beside ours
        print(f"{make.name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return peer


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


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


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
            ratio = "" if other is None else f", {own['tok_s'] / other['tok_s']:.2f} x"
            row.append("-" if other is None else f"{other['tok_s']:.0f}{ratio}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART")
    parser.add_argument("--list", action="store_true", help="say which parts there are")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, for a dry run")
    parser.add_argument("--no-peers", action="store_true")
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
        record = measure(
            part, device, TINY if args.tiny else Sizes(), tiny=args.tiny,
            peers=not args.no_peers, profile=args.profile,
        )  # fmt: skip
        place = re.sub(r"[^A-Za-z0-9]+", "-", record["device"])
        path = args.out / f"{record['date'][:10]}_gpu-{part}_{place}.json"
        save(record, path)
        print(markdown(record), flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
