"""What every launch needs to know about numbers and the device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

IS_INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter, on the CPU."""


PRECISION = tl.constexpr("tf32x3")
"""How float32 is multiplied: as three products in TF32, which lose nothing to speak of. Without
matrix units, operands of these sizes would not fit the registers."""

OPTIONS = {"enable_fp_fusion": True}
"""Of every launch: a product and a sum in one step, which is not to depend on Triton's default."""

_SHARED_BYTES = 227 << 10  # of a Hopper's multiprocessor, where there is no device to ask


def dot_type(dtype: torch.dtype) -> tl.dtype:
    """The type in which numbers of this one are multiplied by matrix units.

    The interpreter has no arithmetic for bfloat16.
    """
    if dtype == torch.float16:
        return tl.float16
    if dtype == torch.bfloat16 and not IS_INTERPRETED:
        return tl.bfloat16
    return tl.float32


def power_of_2(n: int, least: int = 1) -> int:
    """The smallest power of 2 that is no less than n, nor than `least`."""
    return max(least, 1 << (n - 1).bit_length())


def n_stages(x: Tensor, kept: int, stage: int, most: int = 3) -> int:
    """How many steps of a loop may be under way at a time in the shared memory there is.

    Args:
        x: lies on the device.
        kept: bytes that the loop needs besides.
        stage: bytes of one step.
    """
    shared = _SHARED_BYTES
    if x.device.type == "cuda":
        # The stubs of this class lack it.
        shared = torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin  # type: ignore[attr-defined]  # missing in torch's stubs
    return max(1, min(most, (shared - kept) // stage))


def n_processors(x: Tensor) -> int:
    """Multiprocessors of the device that holds `x`; a middling number for a CPU."""
    if x.device.type != "cuda":
        return 16
    return torch.cuda.get_device_properties(x.device).multi_processor_count
