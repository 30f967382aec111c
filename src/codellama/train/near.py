"""Near-duplicate texts, by MinHash and banded look-up.

A text is the set of its shingles, runs of `SHINGLE` tokens. `BANDS * ROWS` hash functions each keep
the smallest value over the set; two texts agree in a function with the probability of their Jaccard
similarity (Broder 1997). Texts that agree in all rows of some band are compared, which finds a pair
of similarity 0.7 with probability 1 - (1 - 0.7**8)**16 = 0.61 and one of 0.85 with 0.99.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

SHINGLE, BANDS, ROWS = 5, 16, 8
THRESHOLD = 0.7

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing

Signature = NDArray[np.uint32]


class NearDuplicates:
    """Signatures of texts, by name; asks whether a new text is near one of them."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        random = np.random.default_rng(128)
        self._factors = random.integers(0, 1 << 63, BANDS * ROWS, np.uint64) * 2 + 1
        self._terms = random.integers(0, 1 << 63, BANDS * ROWS, np.uint64)
        self._tokens: dict[str, int] = {}
        self._names: list[str] = []
        self._signatures: list[Signature] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def signature(self, text: str) -> Signature:
        """The smallest values [BANDS * ROWS] of `text`'s shingles; equal for equal token lists."""
        tokens = np.array([self._token(t) for t in _TOKEN.findall(text)] or [0], np.uint64)
        width = min(SHINGLE, len(tokens))
        shingles = np.zeros(len(tokens) - width + 1, np.uint64)
        for i in range(width):
            shingles = shingles * _PRIME + tokens[i : i + len(shingles)]
        shingles = np.unique(shingles)
        smallest = np.empty(BANDS * ROWS, np.uint32)
        for i, (factor, term) in enumerate(zip(self._factors, self._terms, strict=True)):
            smallest[i] = ((shingles * factor + term) >> np.uint64(32)).min()
        return smallest

    def find(self, signature: Signature) -> str | None:
        """The name of the first text near this one, or None."""
        near = {i for key in _keys(signature) for i in self._bands.get(key, ())}
        for i in sorted(near):
            if float(np.mean(self._signatures[i] == signature)) >= self.threshold:
                return self._names[i]
        return None

    def add(self, name: str, signature: Signature) -> None:
        """Keeps a text to compare later ones with."""
        for key in _keys(signature):
            self._bands.setdefault(key, []).append(len(self._names))
        self._names.append(name)
        self._signatures.append(signature)

    def _token(self, token: str) -> int:
        if token not in self._tokens:
            digest = hashlib.blake2b(token.encode(), digest_size=8).digest()
            self._tokens[token] = int.from_bytes(digest, "little")
        return self._tokens[token]


def _keys(signature: Signature) -> list[tuple[int, bytes]]:
    return [(i, signature[i * ROWS : (i + 1) * ROWS].tobytes()) for i in range(BANDS)]
