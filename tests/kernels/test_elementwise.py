"""Norm, activation, and rotation into the cache as their plain references."""

from __future__ import annotations

import pytest
import torch
from kernel_inputs import BLOCK, TOLERANCE, close, config, normal, there

from codellama.model.transformer import rope_angles
from codellama.runners import KVFormat
from codellama.runners.fused import reference
from codellama.runners.fused.cache import make_cache

DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))


@DTYPES
@pytest.mark.parametrize("has_delta", [False, True])
@pytest.mark.parametrize("shape", [(1, 64), (3, 96), (17, 1000)])
def test_norm_of_the_sum(
    device: torch.device, shape: tuple[int, int], has_delta: bool, dtype: torch.dtype
) -> None:
    from codellama.runners.triton.norm import add_and_norm

    x, gain = normal(*shape, dtype=dtype), 1 + normal(shape[1], seed=1, dtype=dtype) / 8
    delta = normal(*shape, seed=2, dtype=dtype) if has_delta else None
    ours = x.to(device, copy=True)
    moved = None if delta is None else delta.to(device)
    got = add_and_norm(ours, moved, gain.to(device), 1e-5)
    expected = reference.add_and_norm(x, delta, gain, 1e-5)
    close(got, expected, **TOLERANCE[dtype])
    # The interpreter cuts bfloat16 off instead of rounding: one step.
    close(ours, x, rtol=2**-7 if dtype == torch.bfloat16 else 0, atol=0)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 2), (3, 200), (5, 2 * 1025)])
def test_silu(device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    from codellama.runners.triton.silu import silu_and_multiply

    x = 3 * normal(*shape, dtype=dtype)
    got = silu_and_multiply(x.to(device))
    close(got, reference.silu_and_multiply(x), **TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("format", list(KVFormat))
@pytest.mark.parametrize(("n_heads", "n_kv", "head_dim"), [(4, 4, 64), (5, 1, 128), (6, 3, 48)])
def test_rotation_into_the_cache(
    device: torch.device, n_heads: int, n_kv: int, head_dim: int, format: KVFormat,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    from codellama.runners.triton.rope import rotate_and_store

    model = config(n_heads, n_kv, head_dim)
    positions = torch.tensor([0, 1, 16383, 99999, 7], dtype=torch.int32)
    slots = torch.tensor([3, 40, 0, 17, 47], dtype=torch.int32)
    rope = rope_angles(positions, head_dim, 1e6)
    qkv = 4 * normal(5, (n_heads + 2 * n_kv) * head_dim, dtype=dtype)
    qkv[2, -head_dim:] = 0  # a value whose scale is 0
    if format is KVFormat.FP8:
        qkv[1] *= 200  # more than fits
    ours, theirs = (make_cache(model, 3 * BLOCK, format, torch.device("cpu"))[0] for _ in range(2))
    ours = there(ours, device)
    angles = (angle.to(device) for angle in rope)
    got = rotate_and_store(qkv.to(device), *angles, slots.to(device), ours, n_heads)
    expected = reference.rotate_and_store(qkv, *rope, slots, theirs, n_heads)
    close(got, expected, **TOLERANCE[dtype])
    for a, b in ((ours.k, theirs.k), (ours.v, theirs.v)):
        if format is KVFormat.Q8_0:  # one step, where rounding lies on the border
            assert (a.cpu().int() - b.int()).abs().max() <= 1
        elif format is KVFormat.FP8:  # one step of three bits
            near = torch.isclose(a.cpu().float(), b.float(), rtol=0.13, atol=0.01)
            # The interpreter loses the carry where rounding up reaches a power of two.
            assert near.float().mean() >= (1.0 if device.type == "cuda" else 0.99)
        else:
            near = TOLERANCE[dtype], TOLERANCE[a.dtype]
            close(a, b, **max(near, key=lambda tolerance: tolerance["rtol"]))
    if ours.k_scale is not None and ours.v_scale is not None:
        close(ours.k_scale, theirs.k_scale, **TOLERANCE[dtype])
        close(ours.v_scale, theirs.v_scale, **TOLERANCE[dtype])
