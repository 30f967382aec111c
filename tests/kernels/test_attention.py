"""Paged attention as its plain reference, for odd lengths, groups and cache formats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_inputs import BLOCK, TOLERANCE, close, config, filled_cache, normal, tables, there

from codellama.model.transformer import rope_angles
from codellama.runners import KVFormat
from codellama.runners.fused import reference
from codellama.runners.fused.cache import LayerCache, make_cache
from codellama.runners.fused.inputs import Rows, Tiles

LENGTHS = [1, 15, 16, 17, 0, 63, 64, 65, 130]
HEADS = [(4, 4), (3, 3), (8, 2), (8, 1), (6, 3)]


def int32(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("head_dim", [64, 128, 48])
@pytest.mark.parametrize(("n_heads", "n_kv"), HEADS)
def test_single_tokens(
    device: torch.device, n_heads: int, n_kv: int, head_dim: int, splits: int
) -> None:
    from codellama.runners.triton.attention_rows import attend_rows

    check_rows(device, n_heads, n_kv, head_dim, splits, KVFormat.F32, torch.float32, attend_rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", list(KVFormat))
@pytest.mark.parametrize("n_kv", [4, 1])
def test_single_tokens_in_any_format(
    device: torch.device, format: KVFormat, dtype: torch.dtype, n_kv: int
) -> None:
    from codellama.runners.triton.attention_rows import attend_rows

    check_rows(device, 4, n_kv, 64, 2, format, dtype, attend_rows)


def check_rows(device, n_heads, n_kv, head_dim, splits, format, dtype, attend) -> None:  # type: ignore[no-untyped-def]
    blocks = [max(1, -(-n // BLOCK)) for n in LENGTHS]
    where = tables(blocks, sum(blocks))
    cache = filled_cache(config(n_heads, n_kv, head_dim), sum(blocks), format)
    # Each sequence is asked once, the last one also for tokens behind which others follow.
    token = [*list(range(len(LENGTHS))), 9, 10]
    rows = Rows(
        int32(token[::-1]), int32([8, 8, *range(8, -1, -1)]), int32([128, 1, *LENGTHS[::-1]])
    )
    q = normal(len(token), n_heads, head_dim, seed=3, dtype=dtype)
    expected, out = torch.full_like(q, 7), there(torch.full_like(q, 7), device)
    reference.attend_rows(q, cache, rows, where, BLOCK, expected)
    attend(
        q.to(device), there(cache, device), there(rows, device), where.to(device), BLOCK, out,
        splits=splits,
    )  # fmt: skip
    close(out, expected, **TOLERANCE[dtype])
    assert not out[4].any(), "a sequence without tokens"


TILES = [  # (positions before, queries)
    (0, 1), (0, 9), (15, 17), (16, 16), (0, 64), (100, 64), (3, 65), (64, 1), (7, 150),
]  # fmt: skip


def tiles_of(width: int) -> Tiles:
    lines, begin = [], 0
    for sequence, (before, n) in enumerate(TILES):
        for i in range(0, n, width):
            lines.append((begin + i, min(width, n - i), sequence, before + i))
        begin += n
    return Tiles(*(int32(list(column)) for column in zip(*lines, strict=True)), width)


def check_tiles(device, n_heads, n_kv, head_dim, format, dtype, width=64) -> None:  # type: ignore[no-untyped-def]
    from codellama.runners.triton.attention_tiles import attend_tiles

    blocks = [-(-(before + n) // BLOCK) for before, n in TILES]
    where = tables(blocks, sum(blocks))
    cache = filled_cache(config(n_heads, n_kv, head_dim), sum(blocks), format)
    tiles = tiles_of(width)
    q = normal(sum(n for _, n in TILES), n_heads, head_dim, seed=3, dtype=dtype)
    expected, out = torch.empty_like(q), torch.empty_like(q, device=device)
    reference.attend_tiles(q, cache, tiles, where, BLOCK, expected)
    attend_tiles(
        q.to(device), there(cache, device), there(tiles, device), where.to(device), BLOCK, out
    )
    close(out, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("head_dim", [64, 128, 48])
@pytest.mark.parametrize(("n_heads", "n_kv"), HEADS)
def test_prompts(device: torch.device, n_heads: int, n_kv: int, head_dim: int) -> None:
    check_tiles(device, n_heads, n_kv, head_dim, KVFormat.F32, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", list(KVFormat))
def test_prompts_in_any_format(device: torch.device, format: KVFormat, dtype: torch.dtype) -> None:
    check_tiles(device, 4, 2, 64, format, dtype, width=32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_prompts_in_tiles_as_the_runner_cuts_them(device: torch.device, dtype: torch.dtype) -> None:
    """Of 128 tokens, which float32 takes in several parts."""
    from codellama.runners.fused.inputs import TILE

    format = KVFormat.F32 if dtype == torch.float32 else KVFormat.F16
    check_tiles(device, 2, 1, 64, format, dtype, width=TILE)


def test_offsets_beyond_32_bits(device: torch.device) -> None:
    """The last blocks of a cache of 600,000 tokens of 7B, in 8 bits: six contexts of 100,000."""
    from codellama.runners.triton.attention_rows import attend_rows
    from codellama.runners.triton.attention_tiles import attend_tiles
    from codellama.runners.triton.rope import rotate_and_store

    if device.type == "cpu":
        pytest.skip("the interpreter copies what it is given, which would be 5 GB")
    n_blocks, heads, head_dim = 37_500, 32, 128
    n_slots = n_blocks * BLOCK
    assert n_slots * heads * head_dim > 1 << 31
    stores = (torch.empty(n_slots, heads, head_dim, dtype=torch.int8, device=device) for _ in "kv")
    scales = (torch.empty(n_slots, heads, device=device) for _ in "kv")
    large = LayerCache(*stores, *scales)
    small = make_cache(
        config(heads, heads, head_dim), 2 * BLOCK, KVFormat.Q8_0, torch.device("cpu")
    )
    slots = torch.arange(20, dtype=torch.int32)
    where = torch.tensor([[n_blocks - 2, n_blocks - 1]], dtype=torch.int32)
    rope = rope_angles(slots, head_dim, 1e6)
    qkv = normal(20, 3 * heads * head_dim)
    q = reference.rotate_and_store(qkv, *rope, slots, small[0], heads)
    got = rotate_and_store(
        qkv.to(device), *(angle.to(device) for angle in rope),
        (slots + (n_slots - 2 * BLOCK)).to(device), large, heads,
    )  # fmt: skip
    close(got, q, **TOLERANCE[torch.float32])
    assert (large.k[-2 * BLOCK :].cpu().int() - small[0].k.int())[:20].abs().max() <= 1
    expected, out = torch.empty_like(q), torch.empty_like(q, device=device)
    rows = Rows(int32([19]), int32([0]), int32([20]))
    tiles = Tiles(int32([0]), int32([19]), int32([0]), int32([0]), 128)
    near = int32([[0, 1]])
    reference.attend_rows(q, small[0], rows, near, BLOCK, expected)
    reference.attend_tiles(q, small[0], tiles, near, BLOCK, expected)
    attend_rows(got, large, there(rows, device), where.to(device), BLOCK, out, splits=1)
    attend_tiles(got, large, there(tiles, device), where.to(device), BLOCK, out)
    close(out, expected, rtol=0.02, atol=0.02)  # a number in 8 bits may be a step off


def test_stages_are_as_many_as_fit(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from codellama.runners.triton import launch

    x = torch.empty(0)
    monkeypatch.setattr(launch, "_SHARED_BYTES", 99 << 10)
    assert launch.n_stages(x, 32 << 10, 32 << 10) == 2
    assert launch.n_stages(x, 64 << 10, 64 << 10) == 1
    assert launch.n_stages(x, 0, 1 << 10) == 3


def test_splits_fill_the_device_and_no_more(device: torch.device) -> None:
    from codellama.runners.triton.attention_rows import n_splits

    assert n_splits(1, 32, 16384, 132) == 8
    assert n_splits(1, 8, 100_000, 132) == 32
    assert n_splits(64, 32, 16384, 132) == 1
    assert n_splits(1, 32, 100, 132) == 1
    assert n_splits(1, 1, 1 << 20, 132) == 64
