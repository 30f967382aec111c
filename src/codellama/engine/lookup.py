"""Prompt look-up: text that repeats itself is guessed from where it stood before.

The last two tokens are looked for in everything before them, prompt and reply, and of the latest
places where they stand the one is taken before which most tokens agree. It is followed for as long
as the text goes on as it did there. How often that was right is counted for each length of the
agreement apart, because nothing else says as much about the next guess; counting needs no drafts.
"""

from __future__ import annotations

from array import array

import numpy as np

from codellama.engine.draft import Wanted
from codellama.engine.sequence import Sequence

_N_PLACES = 4  # that are compared for one guess
_N_AGREEING = 32  # tokens that are compared for one place
# Classes of agreement: up to 3 tokens, 5, 8, 16, and more; with the share of right guesses that is
# expected at first, as if it had been seen `_PRIOR_WEIGHT` times, and how slowly it is forgotten.
_CLASS_OF = (0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4)
_PRIOR = (0.4, 0.5, 0.7, 0.85, 0.95)
_PRIOR_WEIGHT = 4.0
_MEMORY = 0.95


class PromptLookup:
    """Guesses from a sequence's own text. Constant time for each token, whatever the length."""

    cost = 0.0

    def __init__(self) -> None:
        self._texts: dict[int, _Text] = {}

    def odds(self, sequence: Sequence) -> float:
        """See `Drafter`."""
        text = self._texts.get(sequence.request_id)
        if text is None:
            text = self._texts[sequence.request_id] = _Text(sequence.tokens)
        return text.odds()

    def propose(self, wanted: list[Wanted]) -> list[tuple[int, ...]]:
        """See `Drafter`."""
        return [self._texts[sequence.request_id].guess(n) for sequence, n in wanted]

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        self._texts.pop(sequence.request_id, None)


class _Text:
    """A growing text, where each pair of its tokens stood last, and the place that is followed."""

    def __init__(self, tokens: array[int]) -> None:
        self._tokens = tokens
        self._n_read = 0
        self._latest: dict[int, int] = {}  # pair of tokens -> the position after its last place
        self._earlier = array("i", [0, 0])  # position -> that after the pair's last place before it
        self._source = 0  # the position that is followed; 0 for none
        self._n_agreeing = 0  # tokens before it that equal those at the end
        self._right = [share * _PRIOR_WEIGHT for share in _PRIOR]
        self._judged = [_PRIOR_WEIGHT] * len(_PRIOR)
        self._read_prompt()

    def odds(self) -> float:
        """The share of right guesses that is to be expected; 0 without a place to guess from."""
        while self._n_read < len(self._tokens):
            self._read_token()
        if not self._source:
            return 0.0
        kind = self._kind()
        return self._right[kind] / self._judged[kind]

    def guess(self, n: int) -> tuple[int, ...]:
        """The `n` tokens after the place that is followed; it may run into the guess itself."""
        found = self._tokens[self._source : self._source + n]
        period = len(found)
        while len(found) < n:
            found.append(found[-period])
        return tuple(found)

    def _kind(self) -> int:
        return _CLASS_OF[min(self._n_agreeing, len(_CLASS_OF) - 1)]

    def _read_prompt(self) -> None:
        ids = np.array(self._tokens, np.int64)
        latest, earlier = self._latest, self._earlier
        for position, pair in enumerate((ids[:-1] << 32 | ids[1:]).tolist(), 2):
            earlier.append(latest.get(pair, 0))
            latest[pair] = position
        self._n_read = len(self._tokens)
        self._search()

    def _read_token(self) -> None:
        tokens, position = self._tokens, self._n_read
        self._n_read += 1
        if self._source:
            kind, is_right = self._kind(), tokens[self._source] == tokens[position]
            self._right[kind] = self._right[kind] * _MEMORY + is_right
            self._judged[kind] = self._judged[kind] * _MEMORY + 1
            self._n_agreeing += 1
            self._source = self._source + 1 if is_right else 0
        if position:
            pair = tokens[position - 1] << 32 | tokens[position]
            self._earlier.append(self._latest.get(pair, 0))
            self._latest[pair] = self._n_read
        if not self._source:
            self._search()

    def _search(self) -> None:
        """Follows the place with the longest agreement, the latest of equals, if there is one."""
        tokens, end, longest = self._tokens, self._n_read, 0
        place = self._earlier[end] if end > 1 else 0
        for _ in range(_N_PLACES):
            if not place or longest == _N_AGREEING:
                break
            n = 2
            while n < _N_AGREEING and n < place and tokens[place - n - 1] == tokens[end - n - 1]:
                n += 1
            if n > longest:
                self._source, self._n_agreeing, longest = place, n, n
            place = self._earlier[place]
