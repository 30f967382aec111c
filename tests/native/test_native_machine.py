"""The machine's limits: positive, and refused in a sentence where they make no sense."""

from __future__ import annotations

import pytest

from codellama._native import cpu_features, machine


def test_every_kind_the_cpu_has_is_named_and_measured() -> None:
    kinds = machine.peak_kinds()
    features = cpu_features()
    assert ("fp32_avx2" in kinds) == ("avx2" in features and "fma" in features)
    assert ("fp32_avx512" in kinds) == ("avx512f" in features)
    assert ("int8_vnni512" in kinds) == ("avx512vnni" in features)
    for kind in kinds:
        rates = machine.peak(kind, 1, 3)
        assert len(rates) == 3
        assert min(rates) > 0
        assert max(rates) < 1e15, kind  # a thousand times what a core can do


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_bytes", [4096, 1_000_003])
def test_reading_gives_a_rate_per_pass(n_bytes: int, n_threads: int) -> None:
    rates = machine.read_bandwidth(n_bytes, n_threads, 2)
    assert len(rates) == 2
    assert all(0 < rate < 1e15 for rate in rates)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((64, 1, 1), "every thread needs 128 bytes"),
        ((1 << 41, 1, 1), "terabyte"),
        ((1 << 20, 0, 1), "every thread"),
        ((1 << 20, 1, 0), "passes must be positive"),
        ((1 << 30, 5000, 1), "threads at most 1024"),
    ],
)
def test_reading_refuses_what_makes_no_sense(
    arguments: tuple[int, int, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        machine.read_bandwidth(*arguments)


def test_unknown_arithmetic_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='no arithmetic "fp8"'):
        machine.peak("fp8", 1, 1)
