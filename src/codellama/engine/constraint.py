"""What a reply may say next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_NEVER = np.float32(-1e28)  # finite, because samplers take other numbers for a fault


class Constraint(Protocol):
    """Belongs to one reply and follows it."""

    def allowed(self, generated: Sequence[int]) -> NDArray[np.bool_]:
        """Which ids may come after those generated so far, [n_ids]; called with ever more of them.

        Raises:
            RequestError: the constraint cannot be followed any further.
        """
        ...


def apply(logits: NDArray[np.float32], row: int, allowed: NDArray[np.bool_]) -> None:
    """Makes the ids that are not allowed impossible, and with them all that have no text."""
    n = len(allowed)
    logits[row, :n][~allowed] = _NEVER
    logits[row, n:] = _NEVER
