"""Which PyTorch runner a model gets: the reference, or fused layers on a device."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from codellama.errors import ConfigError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor
from codellama.runners import KVFormat, Runner, WeightKind
from codellama.runners.fused.flashinfer import flashinfer_prompts
from codellama.runners.fused.graphs import CudaRecorder
from codellama.runners.fused.kernels import Kernels, PlainKernels
from codellama.runners.fused.memory import require_device, require_generation
from codellama.runners.fused.runner import FusedRunner
from codellama.runners.fused.weights import Kind, placed_all
from codellama.runners.torch import TorchRunner

_DTYPES = {Format.F32: torch.float32, Format.F16: torch.float16, Format.BF16: torch.bfloat16}
_KINDS = {"int8": Kind.INT8, "int4": Kind.INT4, "fp8": Kind.FP8}


def load_torch_runner(
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    activations: Format,
    weights: WeightKind | None,
    kv_cache: KVFormat,
    max_seq_len: int,
    n_blocks: int,
    block_size: int,
    device: str,
) -> Runner:
    """The reference on a CPU in float32 where nothing else was asked for; else fused layers.

    Raises:
        ConfigError: the device is not there, or cannot do what was asked for.
        CheckpointError: a parameter is missing or was given twice.
        OutOfMemory: weights and cache do not fit the device.
    """
    place = require_device(device)
    is_plain = weights in (None, "f32") and kv_cache is KVFormat.F32
    if place.type == "cpu" and is_plain:
        return TorchRunner(config, tensors, n_blocks=n_blocks, block_size=block_size)
    require_generation(place, weights=weights, kv_cache=kv_cache)
    kind = Kind.STORED if weights is None else _KINDS.get(weights, Kind.PLAIN)
    return FusedRunner(
        config,
        placed_all(tensors, kind, _DTYPES[activations], place),
        kernels=_kernels(config, kv_cache, _DTYPES[activations], place),
        recorder=CudaRecorder() if place.type == "cuda" else None,
        kv_cache=kv_cache,
        max_seq_len=max_seq_len,
        n_blocks=n_blocks,
        block_size=block_size,
        device=place,
    )


def _kernels(
    config: ModelConfig, kv_cache: KVFormat, dtype: torch.dtype, device: torch.device
) -> Kernels:
    if device.type == "cpu":
        return PlainKernels()
    try:
        from codellama.runners.triton.kernels import TritonKernels, attend_prompts
    except ModuleNotFoundError as error:
        raise ConfigError(
            "device 'cuda' needs Triton, and it is not installed",
            hint="PyTorch's own builds for CUDA bring it along",
        ) from error
    return TritonKernels(flashinfer_prompts(config, kv_cache, dtype, device) or attend_prompts)
