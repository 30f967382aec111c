"""Logits to tokens: each row with the parameters and the seed of its own sequence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as List
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codellama.engine.constraint import IMPOSSIBLE
from codellama.engine.sequence import Draw, Sequence

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class Kernel(Protocol):
    """The arithmetic of sampling; `codellama._native` is one.

    Row r is drawn with `temperature[r]` and so on. A temperature of 0 takes the likeliest token,
    the lowest id of equals; a `top_k` of 0 keeps all tokens. The random number of a draw depends
    on `seed[r]` and `counter[r]` alone. A row that holds a NaN gives the id -1. Log-probabilities
    are those of the logits as they came.
    """

    def sample(
        self,
        logits: Floats,
        temperature: Floats,
        top_k: Ints,
        top_p: Floats,
        min_p: Floats,
        repetition_penalty: Floats,
        presence_penalty: Floats,
        frequency_penalty: Floats,
        seed: NDArray[np.uint64],
        counter: NDArray[np.uint64],
        history: Ints,
        history_offsets: NDArray[np.int64],
        n_prompt: Ints,
        bias_ids: Ints,
        bias_values: Floats,
        bias_offsets: NDArray[np.int64],
    ) -> tuple[Ints, Floats]: ...

    def top_logprobs(self, logits: Floats, k: int) -> tuple[Ints, Floats]: ...


def seed_of(base: int, index: int) -> int:
    """The seed of the reply number `index` to a prompt: the first is drawn with `base` itself."""
    if index == 0:
        return base
    raw = base.to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "little")


def native_kernel() -> Kernel:
    """The compiled kernel."""
    return cast(Kernel, import_module("codellama._native"))


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

    def __init__(self, kernel: Kernel, n_tokens: int) -> None:
        self._kernel = kernel
        self._n_tokens = n_tokens
        self._fixed: _Fixed | None = None

    def draw(
        self, logits: Floats, sequences: List[Sequence], ahead: List[List[int]] | None = None
    ) -> list[Draw]:
        """One draw for each row [R, vocab] and its sequence.

        `ahead` has for each row the tokens that are guessed to follow the sequence before the token
        to draw, which is drawn as if they had been: with their count and their penalties.
        """
        if ahead is None:
            ahead = [()] * len(sequences)
        if logits.shape[1] > self._n_tokens:
            logits = np.ascontiguousarray(logits[:, : self._n_tokens])
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
        self, logits: Floats, sequences: List[Sequence]
    ) -> list[tuple[tuple[int, float], ...]]:
        wanted = [min(s.params.logprobs or 0, self._n_tokens) for s in sequences]
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(sequences)
        rows = [r for r, k in enumerate(wanted) if k]
        if rows:
            picked = logits if len(rows) == len(sequences) else logits[rows]
            ids, logprobs = self._kernel.top_logprobs(picked, max(wanted))
            for r, row_ids, row_logprobs in zip(rows, ids, logprobs, strict=True):
                pairs = list(zip(row_ids.tolist(), row_logprobs.tolist(), strict=True))
                tops[r] = tuple(pair for pair in pairs[: wanted[r]] if pair[1] > IMPOSSIBLE)
        return tops


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
