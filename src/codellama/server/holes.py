"""A hole that may be told in two orders, of which the cache decides.

Prefix-suffix-middle is the reference's order. At a key press it changes in the middle, so that the
whole suffix is computed again. Suffix-prefix-middle changes at its end: a key press costs what was
typed. A model trained on both fills either; suffix-first needs its last tokens taken back (see
`text.beginnings`), because in training the prefix went on into the middle without a seam.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codellama.engine.prompts import Order, Prompt, infill_prompt
from codellama.text.infill import arranged
from codellama.text.tokenizer import Tokenizer

_AHEAD = 4  # key presses that are expected to follow at the same place
_SHORT = 16  # tokens of a suffix that are not worth another order: they fill one block of the cache


@dataclass(frozen=True, kw_only=True)
class Hole(Prompt):
    """An infilling prompt that knows its `order`, and how it would be told in the `other` one."""

    order: Order
    n_suffix: int
    other: Hole | None = None

    def settled(self, n_cached: Callable[[Sequence[int]], int]) -> Hole:
        """The order that costs fewer tokens, now and at the key presses that are expected.

        Args:
            n_cached: how many of the first of some ids need not be computed.
        """
        other = self.other
        if other is None:
            return self
        chosen: Hole = dataclasses.replace(self, other=None)
        if self.n_suffix > _SHORT:
            first = len(self.ids) - n_cached(self.ids) + _AHEAD * self.n_suffix
            if len(other.ids) - n_cached(other.ids) < first:
                chosen = other
        # What the caller added to the prompt, such as ids that end the reply, goes for both.
        return dataclasses.replace(chosen, stop_ids=self.stop_ids)


def hole(
    tokenizer: Tokenizer, prefix: str, suffix: str, order: Order | None, *, is_free: bool = True
) -> Hole:
    """The prompt for what belongs between two texts.

    Args:
        order: None leaves it to the cache.
        is_free: whether nothing else says what the reply must begin with; otherwise no tokens are
            taken back, and the reference's order is the one for prefixes that end inside a token.

    Raises:
        RequestError: the model was not trained to infill.
    """
    marks = infill_prompt(tokenizer, "", "")  # refuses what cannot infill
    before, after = tokenizer.encode(prefix), tokenizer.encode_bare(suffix)

    def told(order: Order) -> Hole:
        kept, begun = before, ""
        if order == "spm" and is_free:
            kept, begun = tokenizer.beginnings.take_back(before)
        ids = arranged(tokenizer, kept, after, order)
        return Hole(
            ids=tuple(ids), stop_ids=marks.stop_ids, bare=True, begun=begun, order=order,
            n_suffix=len(after),
        )  # fmt: skip

    if order is not None or not is_free:
        return told(order or "psm")
    return dataclasses.replace(told("psm"), other=told("spm"))
