"""Draws on the device are the CPU's, given the same logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from codellama import _native
from codellama.runners.fused.logits import DeviceLogits, DeviceSampler
from codellama.runners.fused.sampling import sample as plain_sample
from codellama.runners.fused.sampling import uniform


def settings(n: int, vocab: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def either(a: Any, b: Any) -> Any:
        return np.where(rng.random(n) < 0.5, a, b)

    return {
        "temperature": rng.choice([0.0, 0.01, 0.2, 0.7, 1.0, 3.0, 50.0], n).astype(np.float32),
        "top_k": either(0, rng.integers(1, vocab + 3, n)).astype(np.int32),
        "top_p": either(1.0, either(rng.random(n), 0.0)).astype(np.float32),
        "min_p": either(0.0, rng.random(n) * 0.3).astype(np.float32),
        "seed": rng.integers(0, 1 << 64, n, dtype=np.uint64),
        "counter": rng.integers(0, 1000, n).astype(np.uint64),
    }


def logits_of(n: int, vocab: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, vocab)) * rng.choice([0.1, 1.0, 5.0, 20.0], (n, 1))).astype(np.float32)
    x[::3] = x[::3].round()  # many equal ones, and zeros of both signs
    x[1::5] = 0
    return x


def native(logits: np.ndarray, how: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return _native.sample(*(x for x in (logits, *every(how))))


def every(how: dict[str, Any], biases: list[dict[int, float]] | None = None) -> tuple[Any, ...]:
    """All settings of a kernel, in its order."""
    n = len(how["seed"])
    biases = [{}] * n if biases is None else biases
    ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    none = np.empty(0, np.int32)
    return (
        how["temperature"], how["top_k"], how["top_p"], how["min_p"], ones, zeros, zeros,
        how["seed"], how["counter"], none, np.zeros(n + 1, np.int64), np.zeros(n, np.int32),
        np.array([i for b in biases for i in b], np.int32),
        np.array([x for b in biases for x in b.values()], np.float32),
        np.concatenate([[0], np.cumsum([len(b) for b in biases])]).astype(np.int64),
    )  # fmt: skip


def tensors(how: dict[str, Any], device: torch.device) -> dict[str, Any]:
    signed = {key: x.view(np.int64) if x.dtype == np.uint64 else x for key, x in how.items()}
    return {key: torch.from_numpy(x).to(device) for key, x in signed.items()}


def check(ids: Any, logprobs: Any, logits: np.ndarray, how: dict[str, Any]) -> None:
    wanted, their_logprobs = native(logits, how)
    np.testing.assert_array_equal(np.asarray(ids), wanted)
    np.testing.assert_allclose(np.asarray(logprobs), their_logprobs, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("vocab", [1, 2, 7, 33, 1000])
def test_the_plain_sampler_is_the_native_one(vocab: int) -> None:
    logits, how = logits_of(300, vocab, vocab), settings(300, vocab, vocab)
    x = torch.from_numpy(logits)
    check(*plain_sample(x, x, **tensors(how, x.device)), logits, how)


@pytest.mark.parametrize(("vocab", "n"), [(1, 8), (2, 24), (7, 60), (33, 60), (1000, 60)])
def test_the_kernel_is_the_native_sampler(device: torch.device, vocab: int, n: int) -> None:
    from codellama.runners.triton.sampling import sample

    logits, how = logits_of(n, vocab, vocab + 1), settings(n, vocab, vocab + 1)
    x = torch.from_numpy(logits).to(device)
    ids, logprobs = sample(x, x, **tensors(how, device))
    check(ids.cpu(), logprobs.cpu(), logits, how)


def test_the_kernel_with_a_whole_vocabulary(device: torch.device) -> None:
    from codellama.runners.triton.sampling import sample

    logits, how = logits_of(6, 32016, 5), settings(6, 32016, 5)
    padded = torch.zeros(6, 32128)
    padded[:, :32016] = torch.from_numpy(logits)
    x = padded.to(device)[:, :32016]
    ids, logprobs = sample(x, x, **tensors(how, device))
    check(ids.cpu(), logprobs.cpu(), logits, how)


def test_rows_that_are_no_numbers(device: torch.device) -> None:
    from codellama.runners.triton.sampling import sample

    logits, how = logits_of(6, 40, 5), settings(6, 40, 5)
    logits[1, 7], logits[3, 39], logits[4, 0] = np.nan, np.inf, -np.inf
    x = torch.from_numpy(logits).to(device)
    for found in (sample(x, x, **tensors(how, device)), plain_sample(x, x, **tensors(how, device))):
        ids = found[0].tolist()
        assert [i for i, token in enumerate(ids) if token < 0] == [1, 3, 4]
        assert found[1].isnan().tolist() == [False, True, False, True, True, False]


def test_the_random_numbers_are_splitmix() -> None:
    from sampling_reference import uniform as by_hand

    pairs = [(0, 0), (1, 0), (0, 1), (2**64 - 1, 2**40), (2**63, 7)]
    as_bits = np.array(pairs, np.uint64).view(np.int64)
    found = uniform(*torch.from_numpy(as_bits).T)
    assert found.tolist() == [by_hand(*pair) for pair in pairs]


def test_a_sampler_on_a_device_takes_what_the_engine_gives() -> None:
    """Biases, penalties, alternatives: the host's draws and log-probabilities."""
    host, logits, how = _native, logits_of(20, 50, 8), settings(20, 50, 8)
    biases: list[dict[int, float]] = [{3: -100.0, 7: 4.5} if i % 3 else {} for i in range(20)]
    sampler = DeviceSampler(host)  # type: ignore[arg-type]
    held = DeviceLogits(torch.from_numpy(logits))
    for penalty in (1.0, 1.5):
        given = list(every(how, biases))
        given[4] = np.full(20, penalty, np.float32)
        if penalty != 1:
            given[9] = np.arange(20, dtype=np.int32)
            given[10] = np.arange(21, dtype=np.int64)
        ids, logprobs = sampler.sample(held, *given)
        wanted = host.sample(logits, *given)
        np.testing.assert_array_equal(ids, wanted[0])
        np.testing.assert_allclose(logprobs, wanted[1], rtol=1e-6, atol=2e-5)
    ids, logprobs = sampler.top_logprobs(held, 3)
    np.testing.assert_array_equal(ids, host.top_logprobs(logits, 3)[0])
    np.testing.assert_array_equal(sampler.sample(logits, *given)[0], wanted[0])


def test_one_row_is_drawn_where_that_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedily on the device, with a temperature by the CPU's kernel."""
    from codellama.runners.fused import logits as module

    where: list[str] = []

    def body(device: torch.device) -> Any:
        where.append("device")
        return plain_sample

    monkeypatch.setattr(module, "_body", body)
    sampler = DeviceSampler(_native)  # type: ignore[arg-type]
    logits, how = logits_of(1, 50, 8), settings(1, 50, 8)
    held = DeviceLogits(torch.from_numpy(logits))
    for temperature, expected in ((0.0, ["device"]), (0.7, [])):
        where.clear()
        how["temperature"] = np.array([temperature], np.float32)
        ids, logprobs = sampler.sample(held, *every(how))
        assert where == expected
        check(ids, logprobs, logits, how)


def test_held_logits_are_cut_picked_and_constrained() -> None:
    with torch.inference_mode():  # as a runner's are
        values = torch.arange(12.0).reshape(3, 4)
    held = DeviceLogits(values)
    assert held.shape == (3, 4)
    assert held.columns(2).numpy().tolist() == [[0, 1], [4, 5], [8, 9]]
    assert held.rows([2, 0]).numpy()[:, 0].tolist() == [8, 0]
    held.allow(1, np.array([True, False, True]))
    assert held.numpy()[1].tolist() == [4, np.float32(-1e28), 6, np.float32(-1e28)]
    copied = held.numpy()
    held.allow(0, np.array([False, True]))
    assert copied[0, 0] == 0
