"""Engines by their name in the settings: ours, or vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from codellama.server import run
from codellama.server.served import Served
from codellama.server.settings import Settings


@contextmanager
def loaded(settings: Settings) -> Iterator[list[Served]]:
    """The models of the settings, until the block ends.

    Raises:
        CodeLlamaError: a model cannot be loaded.
    """
    if settings.engine != "vllm":
        yield run.load(settings)
        return
    from codellama.cluster.vllm import Vllm, check

    check(settings)
    ((name, path),) = settings.models.items()
    vllm = Vllm(path, settings)
    try:
        yield [Served.over(name, path, vllm.model, settings.limits, engine=vllm.engine)]
    finally:
        vllm.close()
