"""What a device holds, and what there is to put on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from codellama.errors import ConfigError
from codellama.runners import KVFormat

_RESERVE = 1 << 30  # for activations, recordings and the libraries' own


def require_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ConfigError: PyTorch does not know it, or it is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"there is no device {name!r}", hint="there are cpu, cuda, cuda:1 and so on"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device {name!r} was asked for, and this package runs on cpu and cuda only"
        )
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device {name!r} was asked for, and PyTorch sees no CUDA device",
            hint="leave out --device to run on the CPU"
            if torch.version.cuda is not None
            else "this PyTorch was built for the CPU alone: install one that is built for CUDA",
        )
    n = torch.cuda.device_count()
    if device.index is not None and device.index >= n:
        raise ConfigError(f"device {name!r} was asked for, and CUDA devices go from 0 to {n - 1}")
    return device


def made_current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes the device the one that kernels are launched on, which each thread says for itself."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def free_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device that weights and a cache can take together."""
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch holds and does not use is as good as free.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, free - _RESERVE)


def held_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that this process has tensors in; None on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def set_threads(n: int) -> None:
    """Threads of PyTorch's products on a CPU."""
    torch.set_num_threads(n)


def require_generation(
    device: torch.device, *, weights: str | None = None, kv_cache: KVFormat | None = None
) -> None:
    """Refuses what a GPU is too old for.

    Raises:
        ConfigError: it lacks bfloat16, which the kernels are compiled for, or 8-bit floats.
    """
    if device.type != "cuda":
        return
    for is_wanted, least, what, generation, hint in (
        (True, (8, 0), "this package's kernels", "Ampere", "leave out --device to run on the CPU"),
        (kv_cache is KVFormat.FP8, (8, 9), "keys and values in fp8", "Ada",
         "q8_0 runs on any, and takes hardly more memory"),
        (weights == "fp8", (9, 0), "weights in fp8", "Hopper", "int8 and int4 run on any"),
    ):  # fmt: skip
        if is_wanted and torch.cuda.get_device_capability(device) < least:
            name = torch.cuda.get_device_name(device)
            raise ConfigError(
                f"{what} need a GPU of the {generation} generation or newer, and this is a {name}",
                hint=hint,
            )
