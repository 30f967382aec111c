"""One whole measurement: engines started, taking turns, limits between them, and the object."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codellama import checkpoint
from codellama.bench import machine, report, startup
from codellama.bench.cost import Choice, cost_of
from codellama.bench.limits import DeviceLimits, Limits, Roof
from codellama.bench.measure import Work, interleave
from codellama.bench.peers import Peer, require
from codellama.bench.process import BODIES, EngineProcess, EngineSpec
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.reader import Reader

_STARTS = 3
_BUSY = 0.05  # share of the processors used by others, from which figures are less than they seem


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, by what, how often and against whom."""

    works: Sequence[Work]
    n_threads: int
    n_repeats: int
    choice: Choice = field(default_factory=Choice)
    peer: Peer | None = None
    peer_python: Path = Path(sys.executable)
    with_startup: bool = True


def run(
    model: str,
    settings: Settings,
    *,
    name: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures a model (a name or path as everywhere) and returns the object; see `docs`.

    Raises:
        CodeLlamaError: the model cannot be opened, a peer is not installed, or an engine failed.
    """
    peer = settings.peer
    if peer is not None:
        require(peer, settings.peer_python)
    path = resolve(model)
    reader = checkpoint.open(path)
    choice = settings.choice
    cost = cost_of(reader, choice)
    context = max(work.n for work in settings.works) + 16
    n_streams = max(work.n_streams for work in settings.works)

    def spec(name: str, body: Path, python: Path, **options: Any) -> EngineSpec:
        return EngineSpec(
            name=name,
            body=body,
            model=str(path),
            n_threads=settings.n_threads,
            context=context,
            n_streams=n_streams,
            python=python,
            options=options,
        )

    specs = [spec(report.OWN, BODIES / "own.py", Path(sys.executable), **asdict(choice))]
    if peer is not None:
        specs.append(spec(peer.name, peer.body, settings.peer_python))
    others = machine.OtherPrograms()
    with ExitStack() as stack:
        progress(f"loading {name or model}")
        engines = [stack.enter_context(EngineProcess(one)) for one in specs]
        limits: Roof = Limits(n_threads=settings.n_threads, read_bytes=cost.weight_bytes)
        if choice.engine == "torch":
            limits = DeviceLimits(engine=engines[0], kind=engines[0].about["activations"])
        others.start(engine.pid for engine in engines)

        def between(repetition: int) -> None:
            progress(f"repetition {repetition + 1} of {settings.n_repeats}")
            limits.measure()

        results = interleave(engines, settings.works, n_repeats=settings.n_repeats, between=between)
        busy = others.share()
        memory = {engine.name: engine.memory() for engine in engines}
        abouts = {engine.name: engine.about for engine in engines}
    started = None
    if settings.with_startup:
        progress("starting from nothing")
        started = startup.measure(model, settings.n_threads, _STARTS, choice)
    peer_name = None if peer is None else peer.name
    works = [report.work_entry(results, work, cost, limits, peer_name) for work in settings.works]
    rss, peak = memory[report.OWN]
    found: dict[str, Any] = {
        "model": name or model,
        "path": str(path),
        "format": _formats(reader),
        "n_params": reader.config.n_params,
        "cost": cost.to_json(),
        "weights_mb": sum(info.n_bytes for info in reader.infos.values()) / 1e6,
        "threads": settings.n_threads,
        "simd": abouts[report.OWN]["simd"],
        "device": _device(choice, abouts[report.OWN]),
        "repeat": settings.n_repeats,
        "prefill": report.first(works, "prefill"),
        "decode": report.first(works, "decode"),
        "streams": report.first(works, "decode", many=True),
        "works": works,
        "start_s": None if started is None else started.start_s,
        "interpreter_s": None if started is None else started.interpreter_s,
        "start_own_s": None if started is None else started.own_s,
        "rss_mb": rss,
        "peak_rss_mb": peak,
        "peer": None,
        "limits": limits.to_json(),
        "machine": machine.describe(),
        "others_cpu_share": busy,
    }
    if peer is not None:
        rss, peak = memory[peer.name]
        found["peer"] = {**abouts[peer.name], "name": peer.name, "rss_mb": rss, "peak_rss_mb": peak}
    return found


def doubts(found: dict[str, Any]) -> str | None:
    """What speaks against these figures, for people."""
    busy = found["others_cpu_share"]
    if busy is None or busy < _BUSY:
        return None
    return (
        f"other programs used {busy:.0%} of the processors during this run: speeds are lower than "
        "they would be alone, and ratios uncertain"
    )


def default_threads() -> int:
    """One for each physical core that this process may use, as the engine takes."""
    from codellama import _native

    return min(_native.n_physical_threads(), len(os.sched_getaffinity(0)))


def _device(choice: Choice, about: dict[str, Any]) -> dict[str, Any] | None:
    """PyTorch's device and the numbers there; None for the native core."""
    if choice.engine == "cpu":
        return None
    return {
        "name": about["device"],
        "memory_mb": about["device_mb"],
        "torch": about["torch"],
        "weights": choice.weights,
        "activations": about["activations"],
        "kv_cache": about["kv_cache"],
    }


def _formats(reader: Reader) -> str:
    """The formats of the matrices, the commonest first."""
    counts: Counter[str] = Counter()
    for info in reader.infos.values():
        if len(info.shape) > 1:
            counts[str(info.format)] += info.n_bytes
    return " + ".join(name for name, _ in counts.most_common())
