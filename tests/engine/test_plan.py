"""Sizes of the engine, worked out from the model and the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codellama import ConfigError, OutOfMemory
from codellama.engine.plan import EnginePlan, free_memory, make_plan, size_in_words
from codellama.model.config import ModelConfig

CONFIG = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96, vocab_size=320,
    norm_eps=1e-5, rope_theta=1e6, max_seq_len=1000,
)  # fmt: skip
PER_TOKEN = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, numbers, bytes
ONE_CONTEXT = 63 * 16 * PER_TOKEN


def plan(free_bytes: int | None, **options: Any) -> EnginePlan:
    sizes: dict[str, Any] = dict(weight_bytes=10_000, kv_bytes_per_token=PER_TOKEN)
    return make_plan(CONFIG, free_bytes=free_bytes, **{**sizes, **options})


def test_with_room_every_sequence_gets_a_full_context() -> None:
    made = plan(1 << 40)
    assert (made.max_seq_len, made.n_blocks, made.max_num_seqs) == (1000, 16 * 63, 16)
    assert made == plan(None)
    assert made.cache_bytes == 16 * ONE_CONTEXT


def test_the_cache_stays_within_its_share_of_memory() -> None:
    free = 10_000 + 3 * ONE_CONTEXT
    made = plan(free)
    assert 63 <= made.n_blocks < 16 * 63
    assert made.cache_bytes <= 0.8 * (free - 10_000) < made.cache_bytes + 16 * PER_TOKEN


def test_one_full_context_must_fit() -> None:
    with pytest.raises(OutOfMemory) as caught:
        plan(10_000 + ONE_CONTEXT)
    assert "a context of 1000 tokens needs 516 kB of cache, and 413 kB" in str(caught.value)
    assert caught.value.hint == "use --max-seq-len 800, the most that fits"
    assert plan(10_000 + ONE_CONTEXT, max_seq_len=800).n_blocks == 50
    with pytest.raises(OutOfMemory) as caught:
        plan(9_000)
    assert "--max-seq-len" not in str(caught.value.hint)


def test_a_longer_context_than_the_models_can_be_asked_for() -> None:
    assert plan(None, max_seq_len=5000).max_seq_len == 5000


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "9", 1 << 31])
@pytest.mark.parametrize("name", ["max_seq_len", "max_num_seqs"])
def test_sizes_are_positive_integers(name: str, bad: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is .*; expected a positive integer"):
        plan(None, **{name: bad})


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="7 blocks of 16 tokens cannot hold one context of 113"):
        EnginePlan(max_seq_len=113, n_blocks=7)
    with pytest.raises(ConfigError, match="`step_tokens` is 15, and 16 sequences"):
        EnginePlan(max_seq_len=100, n_blocks=7, step_tokens=15)
    with pytest.raises(ConfigError, match="no room for a prompt"):
        EnginePlan(max_seq_len=1, n_blocks=1)
    assert plan(None, max_num_seqs=600).step_tokens == 600


def test_the_plan_in_a_line() -> None:
    assert plan(None).describe() == (
        "context 1000; up to 16 replies at a time; cache for 16128 tokens (16.1 contexts, "
        "8.26 MB when full); prompts read 512 tokens at a time"
    )
    assert "when full" not in EnginePlan(max_seq_len=64, n_blocks=4).describe()


def test_sizes_in_words() -> None:
    sizes = (0, 999, 1000, 999_499, 999_500, 4_080_000_000, 10**13)
    assert [size_in_words(n) for n in sizes] == [
        "0 bytes", "999 bytes", "1 kB", "999 kB", "1 MB", "4.08 GB", "10 TB",
    ]  # fmt: skip


def machine(root: Path, available: int | None, files: dict[str, str]) -> Path:
    if available is not None:
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text(
            f"MemTotal: 9999999 kB\nMemAvailable:    {available} kB\nBuffers: 1 kB\n"
        )
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_system_and_control_group_leave(tmp_path: Path) -> None:
    def free(name: str, available: int | None, files: dict[str, str]) -> int | None:
        root = tmp_path / name
        root.mkdir()
        return free_memory(machine(root, available, files))

    stat = "anon 5000\nactive_file 300\ninactive_file 200\nfile 600\n"
    limits = {"memory.max": "9000", "memory.current": "6000", "memory.stat": stat}
    assert free("plain", 100, {}) == 100 * 1024
    assert free("limited", 100, limits) == 3500
    assert free("roomy", 2, limits | {"memory.max": "90000"}) == 2048
    assert free("unlimited", 3, limits | {"memory.max": "max\n"}) == 3072
    assert free("over", 3, limits | {"memory.max": "10"}) == 0
    older = {"memory/memory.limit_in_bytes": "9000", "memory/memory.usage_in_bytes": "6000"}
    assert free("older", 100, older | {"memory/memory.stat": stat}) == 3500
    found = free("elsewhere", None, {})
    assert found is None or found > 0


def test_free_memory_of_this_machine() -> None:
    found = free_memory()
    assert found is None or found > 1 << 20


def test_a_draft_models_cache_is_counted() -> None:
    free = 10_000 + 3 * ONE_CONTEXT
    with_draft = plan(free, kv_bytes_per_token=2 * PER_TOKEN)
    assert with_draft.n_blocks == plan(free).n_blocks // 2
    assert with_draft.cache_bytes <= 0.8 * (free - 10_000)


@pytest.mark.parametrize("bad", [0, -1, 65, 1.0, True, None])
def test_draft_tokens_have_a_range(bad: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"`draft_tokens` is .*; expected an integer from 1 to 64"
    ):
        plan(None, draft_tokens=bad)


def test_speculation_is_lookup_or_off() -> None:
    assert plan(None).speculation == "lookup"
    with pytest.raises(ConfigError, match="`speculation` is 'on'; expected 'lookup' or 'off'"):
        plan(None, speculation="on")
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="`draft_cost`"):
            EnginePlan(max_seq_len=16, n_blocks=1, draft_cost=bad)
