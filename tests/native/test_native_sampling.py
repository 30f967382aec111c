"""Sampling against its plain definition, its distribution, and arguments that make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sampling_reference import Row, kept, log_softmax, native_sample, sample

from codellama import _native

RNG = np.random.default_rng(6)


def random_row(vocab: int) -> Row:
    def either(a: Any, b: Any) -> Any:
        return a if RNG.random() < 0.5 else b

    prompt, output = (tuple(RNG.integers(0, vocab, RNG.integers(0, 12)).tolist()) for _ in "ab")
    biased = RNG.choice(vocab, min(vocab, 5), replace=False).tolist()
    return Row(
        temperature=float(RNG.choice([0.0, 0.01, 0.2, 0.7, 1.0, 3.0, 50.0])),
        top_k=either(0, int(RNG.integers(1, vocab + 3))),
        top_p=either(1.0, float(RNG.random())),
        min_p=either(0.0, float(RNG.random()) * 0.3),
        repetition_penalty=either(1.0, float(RNG.uniform(0.5, 2))),
        presence_penalty=either(0.0, float(RNG.uniform(-2, 2))),
        frequency_penalty=either(0.0, float(RNG.uniform(-2, 2))),
        seed=int(RNG.integers(0, 1 << 64, dtype=np.uint64)),
        counter=int(RNG.integers(0, 1000)),
        prompt=prompt,
        output=output,
        bias={t: float(RNG.choice([-np.inf, 5.0, -1.5])) for t in either([], biased)[: vocab - 1]},
    )


@pytest.mark.parametrize("vocab", [1, 2, 7, 32, 33, 1000, 8192])
def test_it_is_the_plain_definition(vocab: int) -> None:
    n = 400 if vocab <= 1000 else 100
    rows = [random_row(vocab) for _ in range(n)]
    spread = RNG.choice([0.1, 1.0, 5.0, 20.0], (n, 1))
    logits = (RNG.normal(size=(n, vocab)) * spread).astype(np.float32)
    logits[:: n // 4] = logits[:: n // 4].round()  # many equal ones
    ids, logprobs = native_sample(logits, rows)
    assert ids.tolist() == [sample(x, row) for x, row in zip(logits, rows, strict=True)]
    want = [log_softmax(x)[token] for x, token in zip(logits, ids, strict=True)]
    np.testing.assert_allclose(logprobs, want, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "row",
    [
        Row(),
        Row(temperature=0.6, top_p=0.9),
        Row(top_k=12),
        Row(top_k=20, top_p=0.8),
        Row(temperature=2.0, min_p=0.2),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(row: Row) -> None:
    n, vocab = 50_000, 40
    logits = np.random.default_rng(7).normal(size=vocab).astype(np.float32) * 1.5
    rows = [Row(**{**vars(row), "seed": 1234, "counter": i}) for i in range(n)]
    ids, _ = native_sample(np.tile(logits, (n, 1)), rows)
    order, probabilities = kept(logits, row)
    counts = np.bincount(ids, minlength=vocab)
    assert counts.sum() == counts[order].sum()
    chi_square = ((counts[order] - n * probabilities) ** 2 / (n * probabilities)).sum()
    # Wilson and Hilferty: the cube root of chi-square over its degrees is nearly normal.
    df = len(order) - 1
    z = ((chi_square / df) ** (1 / 3) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df))
    assert abs(z) < 3.3  # p > 0.001


def test_seeds_are_independent_of_each_other() -> None:
    n = 50_000
    logits = np.zeros((n, 10), np.float32)
    for rows in (
        [Row(seed=i) for i in range(n)],
        [Row(seed=i * 0x9E3779B97F4A7C15 % 2**64) for i in range(n)],
    ):
        ids, _ = native_sample(logits, rows)
        assert (np.abs(np.bincount(ids) - n / 10) < 4 * np.sqrt(n * 0.09)).all()
        pairs = np.bincount(ids[1:] * 10 + ids[:-1], minlength=100)
        assert (np.abs(pairs - n / 100) < 5 * np.sqrt(n / 100)).all()


def test_a_draw_depends_on_its_own_row_only() -> None:
    rows = [random_row(64) for _ in range(50)]
    logits = RNG.normal(size=(50, 64)).astype(np.float32)
    ids, logprobs = native_sample(logits, rows)
    for i in range(50):
        one, logprob = native_sample(logits[i : i + 1], rows[i : i + 1])
        assert (one[0], logprob[0]) == (ids[i], logprobs[i])


def test_the_first_of_equals_is_the_greedy_choice() -> None:
    logits = np.zeros((1, 100), np.float32)
    logits[0, [17, 60]] = 2
    assert native_sample(logits, [Row(temperature=0)])[0][0] == 17
    assert native_sample(logits, [Row(top_k=1)])[0][0] == 17
    assert native_sample(logits, [Row(top_p=0.0)])[0][0] == 17


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_marked(bad: float) -> None:
    logits = RNG.normal(size=(3, 21)).astype(np.float32)
    logits[1, 20] = bad
    for temperature in (0.0, 1.0):
        ids, logprobs = native_sample(logits, [Row(temperature=temperature)] * 3)
        assert ids[1] == -1
        assert np.isnan(logprobs[1])
        assert (ids[[0, 2]] >= 0).all()
    ids, logprobs = _native.top_logprobs(logits, 4)
    assert (ids[1] == -1).all()
    assert np.isnan(logprobs[1]).all()
    assert (ids[[0, 2]] >= 0).all()


def test_a_row_without_choice_is_marked() -> None:
    logits = np.zeros((1, 3), np.float32)
    never = dict.fromkeys(range(3), -np.inf)
    for temperature in (0.0, 1.0):
        assert native_sample(logits, [Row(temperature=temperature, bias=never)])[0][0] == -1


@pytest.mark.parametrize(("vocab", "k"), [(5, 5), (1000, 20), (33, 1), (33, 0)])
def test_top_logprobs(vocab: int, k: int) -> None:
    logits = RNG.normal(size=(6, vocab)).astype(np.float32).round(1)  # with equal ones
    ids, logprobs = _native.top_logprobs(logits, k)
    want = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    assert (ids == want).all()
    for i in range(6):
        np.testing.assert_allclose(logprobs[i], log_softmax(logits[i])[want[i]], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        dict(temperature=-0.1),
        dict(temperature=float("nan")),
        dict(temperature=float("inf")),
        dict(top_k=-1),
        dict(top_p=1.1),
        dict(top_p=float("nan")),
        dict(min_p=-0.5),
        dict(repetition_penalty=0.0),
        dict(presence_penalty=float("inf")),
        dict(frequency_penalty=float("nan")),
        dict(prompt=(8,)),
        dict(output=(-1,)),
        dict(bias={8: 1.0}),
        dict(bias={-1: 1.0}),
        dict(bias={1: float("nan")}),
        dict(bias={1: float("inf")}),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(change: dict[str, Any]) -> None:
    logits = np.zeros((2, 8), np.float32)
    with pytest.raises(ValueError, match="row 1: "):
        native_sample(logits, [Row(), Row(**change)])


def arguments() -> dict[str, Any]:
    floats = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty",
              "frequency_penalty")  # fmt: skip
    return dict(
        logits=np.zeros((2, 8), np.float32),
        **{name: np.ones(2, np.float32) for name in floats},
        top_k=np.zeros(2, np.int32),
        seed=np.zeros(2, np.uint64),
        counter=np.zeros(2, np.uint64),
        history=np.zeros(4, np.int32),
        history_offsets=np.array([0, 4, 4]),
        n_prompt=np.zeros(2, np.int32),
        bias_ids=np.zeros(1, np.int32),
        bias_values=np.zeros(1, np.float32),
        bias_offsets=np.array([0, 0, 1]),
    )


@pytest.mark.parametrize(
    "change",
    [
        *({name: value[:-1]} for name, value in arguments().items() if name != "logits"),
        dict(logits=np.zeros(8, np.float32)),
        dict(logits=np.zeros((2, 8))),
        dict(logits=np.zeros((2, 0), np.float32)),
        dict(logits=np.zeros((8, 2), np.float32).T),
        dict(history_offsets=np.array([0, 5, 4])),
        dict(history_offsets=np.array([0, -1, 4])),
        dict(history_offsets=np.array([1, 2, 4])),
        dict(history_offsets=np.array([0, 2, 3])),
        dict(n_prompt=np.array([5, 0], np.int32)),
        dict(n_prompt=np.array([-1, 0], np.int32)),
        dict(seed=np.zeros(2, np.int64)),
        dict(bias_ids=np.zeros(2, np.int32)),
    ],
    ids=lambda change: next(iter(change)),
)
def test_arrays_that_contradict_each_other_are_refused(change: dict[str, Any]) -> None:
    _native.sample(**arguments())
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        _native.sample(**(arguments() | change))


@pytest.mark.parametrize("k", [-1, 9])
def test_k_is_no_more_than_there_are(k: int) -> None:
    with pytest.raises(ValueError, match="8 logits"):
        _native.top_logprobs(np.zeros((1, 8), np.float32), k)
