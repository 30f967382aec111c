"""Numbers stored one by one in two bytes, F16 and BF16, and what does not fit them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def decode_f16(raw: Bytes) -> Floats:
    return raw.view("<f2").astype(np.float32)


def decode_bf16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode_f16(x: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        halves = x.astype("<f2")
    if np.any(np.isinf(halves) & np.isfinite(x)):
        raise too_large(x, "F16")
    return halves.view(np.uint8)


def encode_bf16(x: Floats) -> Bytes:
    bits = x.view(np.uint32)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    # Adding 0x7fff plus the lowest kept bit carries upwards exactly when rounding must go up.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # a NaN stays one whatever bits are cut off
    halves = np.where(is_nan, quiet, rounded).astype("<u2")
    if np.any(((halves & 0x7FFF) == 0x7F80) & np.isfinite(x)):
        raise too_large(x, "BF16")
    return halves.view(np.uint8)


def scales_at(blocks: Bytes, at: int) -> Floats:
    """The F16 number at byte `at` of each block [n, width], as [n, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def stored_scales(scales: Floats, x: Floats, format: str) -> Bytes:
    """`scales` [n, 1] as F16 bytes [n, 2]. Raises CheckpointError, for the numbers `x`, if one is
    too large."""
    with np.errstate(over="ignore"):
        halves = scales.astype("<f2")
    if not np.isfinite(halves).all():
        raise too_large(x, format)
    return halves.view(np.uint8)


def demand_finite(x: Floats, format: str) -> None:
    """Raises CheckpointError for NaN and infinities, which would spoil their whole block."""
    if not np.isfinite(x).all():
        raise CheckpointError(f"NaN or an infinity cannot be stored as {format}")


def too_large(x: Floats, format: str) -> CheckpointError:
    peak = float(np.abs(x[np.isfinite(x)]).max())
    return CheckpointError(
        f"the number {peak:g} is too large to be stored as {format}",
        hint="keep F32 or BF16, which reach further",
    )
