"""A batch on a Ray cluster: Ray Data hands the lines to engines, and starts lost work again.

The file of answers is the same as on one machine, and written here alone: a line that was answered
twice, because a worker died after answering, is written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from codellama.cluster.batch import Answers, Progress, at_a_time
from codellama.cluster.connection import connect, has_gpus, require
from codellama.cluster.engines import for_others, needed
from codellama.cluster.lines import Line, Routes
from codellama.cluster.steps import LoopThread
from codellama.errors import EngineFailed
from codellama.server.settings import Settings

_WINDOW = 20_000  # lines in the cluster at a time, which bounds the memory they take here
_PARTS = 8  # of a window for each worker, so that a lost one loses little


class Worker:
    """An engine in a process of Ray Data, which answers lines as a server would."""

    def __init__(self, settings: Settings, version: str) -> None:
        from codellama.cluster.engines import loaded

        self._stack = ExitStack()
        served = self._stack.enter_context(loaded(settings))
        self._routes = Routes(served, settings, version)
        self._at_a_time = at_a_time(settings)
        self._thread = LoopThread("batch")
        self._thread.run(self._start())

    async def _start(self) -> None:
        self._routes.start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        lines = [
            Line(int(number), bytes(data))
            for number, data in zip(batch["number"], batch["data"], strict=True)
        ]
        return {"answer": self._thread.run(self._all(lines))}

    async def _all(self, lines: list[Line]) -> list[bytes]:
        return [answer async for answer in self._routes.answers(lines, self._at_a_time)]


def run(
    source: Path,
    answers: Answers,
    settings: Settings,
    version: str,
    progress: Progress,
    n_lines: int,
    n_workers: int,
) -> None:
    """Answers what has no answer yet, by `n_workers` engines.

    Raises:
        ConfigError: the cluster has no room for so many.
        EngineFailed: it gave up; run again to go on.
        MissingExtra: Ray is not installed.
    """
    cluster = connect()
    cpus, gpus = needed(settings, gpus_are_lent=has_gpus(cluster))
    require(cluster, "--workers", n_workers, cpus=cpus, gpus=gpus)
    data = import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    pending = answers.pending(source)
    while True:
        window = list(islice(pending, _WINDOW))
        if not window:
            return
        try:
            for answer in _answered(
                data, window, n_workers, (for_others(settings), version), (cpus, gpus)
            ):
                answers.take(answer)
                progress(len(answers.done), n_lines)
        except Exception as error:
            raise EngineFailed(
                f"the cluster gave up: {type(error).__name__}: {str(error).splitlines()[0][:200]}",
                hint="run the same command again to go on",
            ) from error


def _answered(
    data: Any,
    lines: list[Line],
    n_workers: int,
    arguments: tuple[Settings, str],
    devices: tuple[int, int],
) -> Iterator[bytes]:
    """Answers to the lines. A worker is made with `arguments` and gets so many cores and GPUs."""
    n_parts = max(1, min(len(lines), _PARTS * n_workers))
    size = -(-len(lines) // n_parts)
    items = [{"number": line.number, "data": line.data} for line in lines]
    cpus, gpus = devices
    found = data.from_items(items, override_num_blocks=n_parts).map_batches(
        Worker,
        fn_constructor_args=arguments,
        batch_size=size,
        compute=data.ActorPoolStrategy(size=n_workers),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in found.iter_rows():
        yield row["answer"]
