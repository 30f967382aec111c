"""Taking turns, ratios and shares, on engines whose speed is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codellama import checkpoint
from codellama.bench import report
from codellama.bench.cost import Cost, cost_of
from codellama.bench.limits import Limits
from codellama.bench.measure import Work, interleave
from codellama.bench.run import doubts
from codellama.model.config import ModelConfig

PREFILL = Work(kind="prefill", n=100)
DECODE = Work(kind="decode", n=10)
STREAMS = Work(kind="decode", n=10, n_streams=4)
COST = Cost(
    weight_bytes=1000, kv_bytes_per_position=8, body_macs=300, head_macs=50, is_quantised=True
)


class Scripted:
    """Takes a second per token, times a factor for each call in turn."""

    def __init__(self, name: str, factors: list[float], log: list[tuple[str, str]]) -> None:
        self.name = name
        self._factors = iter(factors)
        self._log = log

    def prefill(self, n: int) -> float:
        self._log.append((self.name, f"prefill {n}"))
        return n * next(self._factors)

    def decode(self, n: int, n_streams: int) -> float:
        self._log.append((self.name, f"decode {n} {n_streams}"))
        return n * n_streams * next(self._factors)


def limits(**rates: float) -> Limits:
    made = Limits(n_threads=1, read_bytes=1 << 30)
    for name, rate in rates.items():
        setattr(made, name, rate)
    made.int8_kind, made.fp32_kind = "int8_test", "fp32_test"
    return made


def test_engines_take_turns_and_the_first_round_does_not_count() -> None:
    log: list[tuple[str, str]] = []
    ours = Scripted("codellama", [100, 0.5, 0.25, 0.5], log)
    theirs = Scripted("peer", [100, 1, 2, 1], log)
    seen: list[int] = []
    results = interleave([ours, theirs], [PREFILL], n_repeats=3, between=seen.append)
    assert seen == [0, 1, 2]
    rounds = [[name for name, _ in log[i : i + 2]] for i in range(0, 8, 2)]
    assert all(sorted(names) == ["codellama", "peer"] for names in rounds)
    assert rounds[1] != rounds[2]  # another one begins
    rates = results.of("codellama", PREFILL)
    assert rates is not None
    assert (rates.samples, rates.median, rates.low, rates.high) == ((2, 4, 2), 2, 2, 4)


def test_ratio_and_shares_are_of_medians() -> None:
    log: list[tuple[str, str]] = []
    ours = Scripted("codellama", [9, 9, 9, *[0.5] * 9], log)
    theirs = Scripted("peer", [9, 9, 9, *[2.0] * 9], log)
    works = [PREFILL, DECODE, STREAMS]
    results = interleave([ours, theirs], works, n_repeats=3)
    roof = limits(int8=10_000.0, fp32=1000.0, read=4000.0)
    entries = [report.work_entry(results, work, COST, roof, "peer") for work in works]
    assert [entry["tok_s"] for entry in entries] == [2, 2, 2]
    assert [entry["peer_tok_s"] for entry in entries] == [0.5, 0.5, 0.5]
    assert [entry["ratio"] for entry in entries] == [4, 4, 4]
    prefill, decode, streams = entries
    # 100 tokens take 2 * (100 * 300 + 50) operations, at 2 tokens per second.
    assert prefill["limit_share"] == pytest.approx(2 * 60100 / 100 / 10_000)
    # 10 steps read the weights each, and 1, 2, ... 10 positions.
    assert decode["limit_share"] == pytest.approx(2 * (10_000 + 55 * 8) / 10 / 4000)
    assert streams["limit_share"] == pytest.approx(2 * (10_000 + 4 * 55 * 8) / 40 / 4000)
    assert decode["peer_limit_share"] == pytest.approx(decode["limit_share"] / 4)
    assert report.first(entries, "decode") is decode
    assert report.first(entries, "decode", many=True) is streams


def test_float_weights_are_held_against_float_arithmetic() -> None:
    results = interleave([Scripted("codellama", [1, 1], [])], [PREFILL], n_repeats=1)
    roof = limits(int8=10_000.0, fp32=1000.0, read=1.0)
    cost = Cost(**{**COST.to_json(), "is_quantised": False})
    entry = report.work_entry(results, PREFILL, cost, roof, None)
    assert entry["limit_share"] == pytest.approx(601 / 1000)
    assert entry["peer_tok_s"] is entry["ratio"] is entry["peer_limit_share"] is None


def test_a_limit_that_was_not_measured_gives_no_share() -> None:
    results = interleave([Scripted("codellama", [1, 1], [])], [PREFILL], n_repeats=1)
    entry = report.work_entry(results, PREFILL, COST, limits(int8=0.0, read=1.0), None)
    assert entry["limit_share"] is None


def test_cost_counts_what_a_token_reads(hf_folder: Path, config: ModelConfig) -> None:
    reader = checkpoint.open(hf_folder)
    cost = cost_of(reader)
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    layer = config.dim * (2 * q + 2 * kv + 3 * config.ffn_dim)
    assert cost.body_macs == config.n_layers * layer
    assert cost.head_macs == config.vocab_size * config.dim
    norms = (2 * config.n_layers + 1) * config.dim
    assert cost.weight_bytes == 4 * (cost.body_macs + cost.head_macs + norms)
    assert cost.kv_bytes_per_position == 4 * 2 * config.n_layers * kv
    assert not cost.is_quantised


@pytest.mark.parametrize(("share", "says"), [(None, False), (0.01, False), (0.5, True)])
def test_a_busy_machine_is_mentioned(share: float | None, says: bool) -> None:
    found: dict[str, Any] = {"others_cpu_share": share}
    assert (doubts(found) is not None) == says
