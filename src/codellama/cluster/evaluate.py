"""Replies for an evaluation from engines on a Ray cluster.

Every sample has a seed of its own, so that it is the same whichever engine draws it, in whatever
company: an evaluation on many machines has the samples and the score of one on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from codellama.cluster.connection import connect, everywhere, require
from codellama.errors import ConfigError, EngineFailed
from codellama.eval.sources import Request
from codellama.eval.suite import Reply

_AHEAD = 2  # portions that wait at an engine while it works on one


class Drawer:
    """An engine in a process of Ray's."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        from codellama.engine.llm import LLM
        from codellama.eval.sources.engine import EngineSource

        llm = LLM.load(model, **options)
        self._source = EngineSource(llm, model, options)
        self._notes = llm.notes

    def about(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What the result file says of the model, and notes for the user."""
        return self._source.facts(), self._notes

    def count(self, text: str) -> int:
        return self._source.count(text)

    def replies(self, requests: list[Request]) -> list[tuple[Request, Reply]]:
        return list(self._source.replies(requests))


class ClusterSource:
    """`n_workers` engines as one source; see `eval.sources.Source`.

    Args:
        model: as `LLM.load` takes it, on every machine of the cluster.
        options: keywords of `LLM.load`; `max_num_seqs` replies are drawn at a time by each engine.

    Raises:
        ConfigError: `n_workers` is not positive, or the cluster has no room for so many.
        EngineFailed: an engine does not start.
        MissingExtra: Ray is not installed.
    """

    def __init__(self, model: str, n_workers: int, options: dict[str, Any]) -> None:
        if n_workers < 1:
            raise ConfigError(f"{n_workers} engines on the cluster; expected 1 or more")
        self._ray = connect()
        self._portion = options["max_num_seqs"]
        cpus = options.get("n_threads") or 1
        gpus = int((options.get("device") or "cpu").startswith("cuda"))
        require(self._ray, "--cluster", n_workers, cpus=cpus, gpus=gpus)
        drawer = self._ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=-1
        )(Drawer)
        self._engines = [drawer.remote(everywhere(model), options) for _ in range(n_workers)]
        try:
            self._facts, self.notes = self._ray.get(self._engines[0].about.remote())
        except Exception as error:
            raise EngineFailed(f"no engine starts on the cluster: {_last_line(error)}") from error

    @property
    def name(self) -> str:
        name: str = self._facts["name"]
        return name

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    def count(self, text: str) -> int:
        n: int = self._ray.get(self._engines[0].count.remote(text))
        return n

    def replies(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        """Replies in the order their portions are ready. What a lost engine had is drawn again."""
        coming = iter(requests)
        running: dict[Any, int] = {}

        def give(engine: int) -> None:
            portion = list(islice(coming, self._portion))
            if portion:
                running[self._engines[engine].replies.remote(portion)] = engine

        for _ in range(_AHEAD):
            for engine in range(len(self._engines)):
                give(engine)
        while running:
            ready, _ = self._ray.wait(list(running))
            for one in ready:
                engine = running.pop(one)
                give(engine)
                try:
                    yield from self._ray.get(one)
                except Exception as error:
                    raise EngineFailed(
                        f"an engine on the cluster failed: {_last_line(error)}",
                        hint="run the same command again to go on",
                    ) from error

    def close(self) -> None:
        for engine in self._engines:
            self._ray.kill(engine)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__
