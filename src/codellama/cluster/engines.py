"""Engines by their name in the settings: ours, or vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from codellama.cluster.connection import everywhere
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


def for_others(settings: Settings) -> Settings:
    """The settings as processes elsewhere take them: paths whole, and one engine."""
    models = {name: everywhere(path) for name, path in settings.models.items()}
    draft = settings.draft_model and everywhere(settings.draft_model)
    return replace(settings, models=models, draft_model=draft, replicas=1, min_replicas=None)


def needed(settings: Settings, *, gpus_are_lent: bool) -> tuple[int, int]:
    """Cores and GPUs of a process with the settings' engine. vLLM runs on GPUs where the cluster
    has any; ours where `device` says so."""
    if settings.engine == "vllm":
        n = settings.tensor_parallel * settings.pipeline_parallel
        return 1, n if gpus_are_lent else 0
    on_gpu = settings.device is not None and settings.device.startswith("cuda")
    return settings.threads or 1, int(on_gpu)
