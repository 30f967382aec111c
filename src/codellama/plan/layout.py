"""Where a model fits, how it is laid out over devices, and the command that runs it so."""

from __future__ import annotations

from dataclasses import dataclass

from codellama.errors import OutOfMemory
from codellama.model.config import ModelConfig
from codellama.plan import memory
from codellama.plan.hardware import Hardware

_GPU_USABLE = 0.9  # of its memory: what vLLM takes by default


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Devices of one replica, how many replicas, and the tokens that each one's cache holds."""

    tensor_parallel: int
    pipeline_parallel: int
    replicas: int
    cached_tokens: int
    resident: memory.Resident  # of one replica, with one context in its cache

    @property
    def devices(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel


def on_gpus(config: ModelConfig, hardware: Hardware, context: int) -> Layout:
    """The smallest replica that holds weights and one context, as often as there are devices.

    Within a machine layers are shared (tensor parallelism, a power of two that divides the heads);
    over machines they follow one another (pipeline parallelism).

    Raises:
        OutOfMemory: all devices together are too few.
    """
    most = min(hardware.count, hardware.per_node)
    widths = [n for n in (1, 2, 4, 8) if n <= most and config.n_heads % n == 0]
    shapes = [(n, 1) for n in widths]
    shapes += [(widths[-1], n) for n in range(2, hardware.count // widths[-1] + 1)]
    for tensor, pipeline in shapes:
        if pipeline > config.n_layers:
            break
        n = tensor * pipeline
        base = memory.gpu_resident(config, n_gpus=n, cached_tokens=0)
        one = memory.gpu_resident(config, n_gpus=n, cached_tokens=context)
        room = _GPU_USABLE * n * hardware.memory - base.total
        per_token = max(1, (one.kv_cache - base.kv_cache) // context)
        if room >= one.kv_cache:
            return Layout(
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                replicas=hardware.count // n,
                cached_tokens=int(room // per_token),
                resident=one,
            )
    needed = memory.gpu_resident(config, n_gpus=hardware.count, cached_tokens=context).total
    raise OutOfMemory(
        f"{needed / 1e9:.0f} GB of weights, cache and workspace do not fit {hardware.count} x "
        f"{hardware.name} of {hardware.memory / 1e9:.0f} GB",
        hint=f"give --count {_enough(config, hardware, context)} or more",
    )


def _enough(config: ModelConfig, hardware: Hardware, context: int) -> int:
    n = hardware.count
    while True:
        n *= 2
        needed = memory.gpu_resident(config, n_gpus=n, cached_tokens=context).total
        if needed <= _GPU_USABLE * n * hardware.memory:
            return n


def command(
    name: str,
    layout: Layout,
    hardware: Hardware,
    context: int,
    mix: str | None,
    *,
    is_converted: bool = False,
) -> str:
    """The command line that serves the model so. With `is_converted` a GPU engine needs a folder of
    BF16 weights made of it first."""
    if hardware.kind == "cpu":
        made = f"codellama quantize {name} model.gguf --format {mix} && " if mix else ""
        model = "model.gguf" if mix else name
        return f"{made}codellama serve {model} --max-seq-len {context}"
    made = f"codellama convert {name} model-bf16 --dtype bf16 && " if is_converted else ""
    model = "model-bf16" if is_converted else name
    words = [f"{made}codellama serve {model} --engine vllm --max-seq-len {context}"]
    for flag, value in (
        ("tensor-parallel", layout.tensor_parallel),
        ("pipeline-parallel", layout.pipeline_parallel),
        ("replicas", layout.replicas),
    ):
        if value > 1:
            words.append(f"--{flag} {value}")
    return " ".join(words)
