"""What a reply may say next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codellama.text.beginnings import Beginnings

_NEVER = np.float32(-1e28)  # finite, because samplers take other numbers for a fault
IMPOSSIBLE = -1e27  # a log-probability below this is that of an id that was not allowed


class Constraint(Protocol):
    """Belongs to one reply and follows it."""

    def allowed(self, generated: Sequence[int]) -> NDArray[np.bool_] | None:
        """Which ids may come after those generated so far, [n_ids]; called with ever more of them.

        None says that all may, from here to the end.

        Raises:
            RequestError: the constraint cannot be followed any further.
        """
        ...


class Begun:
    """A reply that has to begin with the bytes of `text`, in whatever tokens, and is free then."""

    def __init__(self, beginnings: Beginnings, text: str, n_ids: int) -> None:
        self._beginnings = beginnings
        self._raw = text.encode()
        self._n_ids = n_ids

    def allowed(self, generated: Sequence[int]) -> NDArray[np.bool_] | None:
        rest = self._raw
        for token in generated:
            rest = rest[len(self._beginnings.bytes_of(token)) :]
            if not rest:
                return None
        mask = np.zeros(self._n_ids, np.bool_)
        mask[[i for i in self._beginnings.towards(rest) if i < self._n_ids]] = True
        return mask


def apply(logits: NDArray[np.float32], row: int, allowed: NDArray[np.bool_]) -> None:
    """Makes the ids that are not allowed impossible, and with them all that have no text."""
    n = len(allowed)
    logits[row, :n][~allowed] = _NEVER
    logits[row, n:] = _NEVER
