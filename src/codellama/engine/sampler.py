"""Logits to tokens: each row with the parameters and the seed of its own sequence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as List
from dataclasses import dataclass
from importlib import import_module
from typing import cast

import numpy as np
from numpy.typing import NDArray

from codellama.engine.constraint import IMPOSSIBLE
from codellama.engine.sequence import Draw, Sequence
from codellama.runners import Runner
from codellama.runners.sampling import BringsSampling, Floats, Ints, Logits, SamplingKernel


def seed_of(base: int, index: int) -> int:
    """The seed of the reply number `index` to a prompt: the first is drawn with `base` itself."""
    if index == 0:
        return base
    raw = base.to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "little")


def native_kernel() -> SamplingKernel:
    """The compiled kernel."""
    return cast(SamplingKernel, import_module("codellama._native"))


def kernel_for(runner: Runner) -> SamplingKernel:
    """The kernel that draws from a runner's logits: its own, if it brings one."""
    kernel = native_kernel()
    return runner.sampling_kernel(kernel) if isinstance(runner, BringsSampling) else kernel


# Temperature, top-k, top-p, min-p; repetition, presence and frequency penalty: the kernel's order.
_Settings = tuple[Floats, Ints, Floats, Floats, Floats, Floats, Floats]


@dataclass(frozen=True)
class _Fixed:
    """What stays the same from step to step while the same sequences are drawn for."""

    ids: tuple[int, ...]
    settings: _Settings
    seed: NDArray[np.uint64]
    has_penalty: tuple[bool, ...]
    biases: tuple[Ints, Floats, NDArray[np.int64]]


class Sampler:
    """Draws the next token of each sequence from its row of logits.

    Only the first `n_tokens` ids can be drawn: rows of a padded vocabulary hold no token there.
    """

    def __init__(self, kernel: SamplingKernel, n_tokens: int) -> None:
        self._kernel = kernel
        self._n_tokens = n_tokens
        self._fixed: _Fixed | None = None

    def draw(
        self, logits: Logits, sequences: List[Sequence], ahead: List[List[int]] | None = None
    ) -> list[Draw]:
        """One draw for each row [R, vocab] and its sequence.

        `ahead` has for each row the tokens that are guessed to follow the sequence before the token
        to draw, which is drawn as if they had been: with their count and their penalties.
        """
        if ahead is None:
            ahead = [()] * len(sequences)
        if logits.shape[1] > self._n_tokens:
            logits = first_ids(logits, self._n_tokens)
        fixed = self._fixed
        if fixed is None or fixed.ids != tuple(s.request_id for s in sequences):
            fixed = self._fixed = _gather(sequences, self._n_tokens)
        history, offsets, n_prompt = _histories(sequences, ahead, fixed.has_penalty)
        counter = np.array(
            [s.n_generated + len(a) for s, a in zip(sequences, ahead, strict=True)], np.uint64
        )
        ids, logprobs = self._kernel.sample(
            logits, *fixed.settings, fixed.seed, counter, history, offsets, n_prompt, *fixed.biases
        )
        tops = self._alternatives(logits, sequences)
        return [
            Draw(token, logprob, top)
            for token, logprob, top in zip(ids.tolist(), logprobs.tolist(), tops, strict=True)
        ]

    def _alternatives(
        self, logits: Logits, sequences: List[Sequence]
    ) -> list[tuple[tuple[int, float], ...]]:
        wanted = [min(s.params.logprobs or 0, self._n_tokens) for s in sequences]
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(sequences)
        rows = [r for r, k in enumerate(wanted) if k]
        if rows:
            picked = logits if len(rows) == len(sequences) else _picked(logits, rows)
            ids, logprobs = self._kernel.top_logprobs(picked, max(wanted))
            for r, row_ids, row_logprobs in zip(rows, ids, logprobs, strict=True):
                pairs = list(zip(row_ids.tolist(), row_logprobs.tolist(), strict=True))
                tops[r] = tuple(pair for pair in pairs[: wanted[r]] if pair[1] > IMPOSSIBLE)
        return tops


def first_ids(logits: Logits, n: int) -> Logits:
    """The logits of the first n ids."""
    if isinstance(logits, np.ndarray):
        return np.ascontiguousarray(logits[:, :n])
    return logits.columns(n)


def _picked(logits: Logits, rows: list[int]) -> Logits:
    return logits[rows] if isinstance(logits, np.ndarray) else logits.rows(rows)


def _gather(sequences: List[Sequence], n_tokens: int) -> _Fixed:
    params = [s.params for s in sequences]
    settings = (
        np.array([p.temperature for p in params], np.float32),
        np.array([min(p.top_k or 0, n_tokens) for p in params], np.int32),
        np.array([p.top_p for p in params], np.float32),
        np.array([p.min_p for p in params], np.float32),
        np.array([p.repetition_penalty for p in params], np.float32),
        np.array([p.presence_penalty for p in params], np.float32),
        np.array([p.frequency_penalty for p in params], np.float32),
    )
    biases = [sorted(p.logit_bias.items()) for p in params]
    bias_offsets = np.zeros(len(params) + 1, np.int64)
    np.cumsum([len(b) for b in biases], out=bias_offsets[1:])
    return _Fixed(
        ids=tuple(s.request_id for s in sequences),
        settings=settings,
        seed=np.array([s.seed for s in sequences], np.uint64),
        has_penalty=tuple(
            p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0
            for p in params
        ),
        biases=(
            np.array([token for b in biases for token, _ in b], np.int32),
            np.array([value for b in biases for _, value in b], np.float32),
            bias_offsets,
        ),
    )


def _histories(
    sequences: List[Sequence], ahead: List[List[int]], has_penalty: tuple[bool, ...]
) -> tuple[Ints, NDArray[np.int64], Ints]:
    """The tokens so far of the rows that are penalised for them; nothing for the others."""
    offsets = np.zeros(len(sequences) + 1, np.int64)
    n_prompt = np.zeros(len(sequences), np.int32)
    if not any(has_penalty):
        return np.empty(0, np.int32), offsets, n_prompt
    parts = []
    for r, sequence in enumerate(sequences):
        offsets[r + 1] = offsets[r]
        if has_penalty[r]:
            parts += [np.array(sequence.tokens, np.int32), np.array(ahead[r], np.int32)]
            n_prompt[r] = sequence.n_prompt
            offsets[r + 1] += len(sequence.tokens) + len(ahead[r])
    return np.concatenate(parts), offsets, n_prompt
