"""What a runner's logits are, and who draws from them: on the host, or where they are."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class HeldLogits(Protocol):
    """Logits [R, vocab] that a runner keeps on its device, until its next step."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def columns(self, n: int) -> Self:
        """Those of the first n ids."""
        ...

    def rows(self, rows: list[int]) -> Self:
        """A copy of some rows."""
        ...

    def allow(self, row: int, allowed: NDArray[np.bool_]) -> None:
        """Makes the ids of a row impossible that are not allowed [n], and all from n on."""
        ...

    def numpy(self) -> Floats:
        """A copy in the host's memory."""
        ...


Logits = Floats | HeldLogits
"""Logits [R, vocab]."""


def to_array(logits: Logits) -> Floats:
    """The logits in the host's memory."""
    return logits if isinstance(logits, np.ndarray) else logits.numpy()


class SamplingKernel(Protocol):
    """The arithmetic of sampling; `codellama._native` is one.

    Row r is drawn with `temperature[r]` and so on. A temperature of 0 takes the likeliest token,
    the lowest id of equals; a `top_k` of 0 keeps all tokens. The random number of a draw depends
    on `seed[r]` and `counter[r]` alone. A row that holds a NaN gives the id -1. Log-probabilities
    are those of the logits as they came.
    """

    def sample(
        self,
        logits: Logits,
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

    def top_logprobs(self, logits: Logits, k: int) -> tuple[Ints, Floats]: ...


@runtime_checkable
class BringsSampling(Protocol):
    """A runner with a kernel of its own for its logits: on its device, or with its threads."""

    def sampling_kernel(self, host: SamplingKernel) -> SamplingKernel:
        """The kernel to draw from what `run` returns from now on; `host` where that will do."""
        ...
