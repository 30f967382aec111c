"""Paged attention as its plain reference, for odd lengths, groups and cache formats."""

from __future__ import annotations

import pytest
import torch
from kernel_inputs import BLOCK, TOLERANCE, close, config, filled_cache, normal, tables, there

from codellama.runners import KVFormat
from codellama.runners.fused import reference
from codellama.runners.fused.inputs import Rows, Tiles

LENGTHS = [1, 15, 16, 17, 0, 63, 64, 65, 130]
HEADS = [(4, 4), (3, 3), (8, 2), (8, 1), (6, 3)]


def int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("splits", [1, 3])
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
    (0, 1), (0, 9), (15, 17), (16, 16), (0, 64), (100, 64), (3, 65), (64, 1),
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


def test_splits_fill_the_device_and_no_more(device: torch.device) -> None:
    from codellama.runners.triton.attention_rows import n_splits

    assert n_splits(1, 32, 16384, 132) == 9
    assert n_splits(1, 8, 100_000, 132) == 33
    assert n_splits(64, 32, 16384, 132) == 1
    assert n_splits(1, 32, 100, 132) == 1
    assert n_splits(1, 1, 1 << 20, 132) == 64
