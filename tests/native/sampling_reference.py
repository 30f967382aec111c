"""What sampling means, plainly: everything in float64, everything sorted."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from codellama import _native

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


@dataclass(frozen=True, kw_only=True)
class Row:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    counter: int = 0
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    bias: dict[int, float] = field(default_factory=dict)


def uniform(seed: int, counter: int) -> float:
    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
        return x ^ (x >> 31)

    state = mixed(seed + _STEP & _MASK)
    return (mixed(state + (counter + 1) * _STEP & _MASK) >> 11) / 2**53


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def changed(logits: NDArray[np.float32], row: Row) -> NDArray[np.float32]:
    x = logits.astype(np.float32).copy()
    for token, value in row.bias.items():
        x[token] += np.float32(value)
    for token in {*row.prompt, *row.output}:
        penalty = np.float32(row.repetition_penalty)
        x[token] = x[token] / penalty if x[token] > 0 else x[token] * penalty
    for token in set(row.output):
        count = np.float32(row.output.count(token))
        x[token] -= np.float32(row.frequency_penalty) * count + np.float32(row.presence_penalty)
    return x


def kept(logits: NDArray[np.float32], row: Row) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn, sorted, and their probabilities."""
    x = changed(logits, row)
    order = np.lexsort((np.arange(len(x)), -x))
    scaled = x[order].astype(np.float64) / np.float32(row.temperature)
    mass = np.exp(scaled - scaled[0])
    if row.top_k:
        order, mass = order[: row.top_k], mass[: row.top_k]
    before = np.cumsum(mass) - mass
    keep = (before <= row.top_p * mass.sum()) & (mass >= row.min_p)
    keep[0] = True
    order, mass = order[keep], mass[keep]
    return order, mass / mass.sum()


def sample(logits: NDArray[np.float32], row: Row) -> int:
    if row.temperature == 0:
        return int(changed(logits, row).argmax())
    order, mass = kept(logits, row)
    i = np.searchsorted(np.cumsum(mass), uniform(row.seed, row.counter), side="right")
    return int(order[min(i, len(order) - 1)])


def native_sample(
    logits: NDArray[np.float32], rows: list[Row]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`_native.sample` of one row of logits per `Row`."""
    columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Row)}
    histories = [row.prompt + row.output for row in rows]
    floats = {
        name: np.array(columns[name], np.float32)
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
    }
    return _native.sample(
        logits,
        top_k=np.array(columns["top_k"], np.int32),
        seed=np.array(columns["seed"], np.uint64),
        counter=np.array(columns["counter"], np.uint64),
        history=np.array([t for h in histories for t in h], np.int32),
        history_offsets=np.cumsum([0, *map(len, histories)], dtype=np.int64),
        n_prompt=np.array([len(row.prompt) for row in rows], np.int32),
        bias_ids=np.array([t for row in rows for t in row.bias], np.int32),
        bias_values=np.array([v for row in rows for v in row.bias.values()], np.float32),
        bias_offsets=np.cumsum([0, *(len(row.bias) for row in rows)], dtype=np.int64),
        **floats,
    )
