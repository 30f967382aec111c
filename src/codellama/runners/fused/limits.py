"""What a device can do at most, measured by PyTorch: copying memory and multiplying matrices."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_REPEATS = 10
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def copy_rate(device: torch.device, n_bytes: int) -> float:
    """Bytes a second that copying within the device's memory reads and writes together."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / _quickest(device, lambda: target.copy_(source))


def product_rate(device: torch.device, kind: str, side: int) -> float:
    """Operations a second of a product of square matrices, in F32, F16 or BF16."""
    a, b = (torch.randn(side, side, device=device).to(_DTYPES[kind]) for _ in range(2))
    return float(2 * side**3 / _quickest(device, lambda: a @ b))


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of a piece of work, from an idle device to an idle device."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _quickest(device: torch.device, work: Callable[[], object]) -> float:
    return min(timed(device, work) for _ in range(_REPEATS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
