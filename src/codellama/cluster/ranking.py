"""Which replica a prompt goes to: the one that has probably read its beginning before.

Every replica gets a number for the prompt's first tokens by a hash of both, and the highest goes
first (rendezvous hashing: Thaler and Ravishankar, 1998). When replicas come or go, only the prompts
of those move. A replica that is full does not accept, and the next in the order is asked.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

BEGINNING = 64  # tokens: four blocks of the cache


def beginning(ids: Sequence[int], scope: bytes = b"") -> bytes:
    """What prompts must share to be sent the same way."""
    return scope + array("i", ids[:BEGINNING]).tobytes()


def ranked(key: bytes, names: Iterable[str]) -> list[str]:
    """The names, the first choice for `key` first."""

    def weight(name: str) -> bytes:
        return hashlib.blake2b(key, key=name.encode()[:64], digest_size=8).digest()

    return sorted(names, key=weight, reverse=True)
