"""Guesses at the next tokens: who makes them, and when they are worth computing.

A sequence that is being decoded computes one token in a step, which costs little more than reading
the weights does. Tokens that are guessed to come next are computed beside it in the same flat batch
and the token after each is drawn by the ordinary sampler, with the random number and the penalties
of its own place. The draws count as far as they repeat the guesses, and the one after that counts
too: what is drawn is what would have been drawn one by one, so guesses change nothing but speed.

Whether to guess depends on what the texts hold and on who runs, never on a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from codellama.engine.scheduler import Work
from codellama.engine.sequence import Sequence

Wanted = tuple[Sequence, int]
Lend = Callable[[Sequence, int], int]

# A sequence pays for guesses out of a credit, counted in tokens: what it wins by them, this share
# of the tokens it makes, and a little to begin with. That bounds what wrong guesses can cost.
_ALLOWANCE = 0.01
_FIRST_CREDIT = 0.5
_MOST_CREDIT = 8.0

# A guess that costs this share of a token saves next to nothing even if it is right, and asking for
# it takes time too.
_TOO_DEAR = 0.9


class Drafter(Protocol):
    """Guesses how sequences go on. What it says changes the speed of a reply, never the reply."""

    @property
    def cost(self) -> float:
        """What guessing one token costs, as a share of a step that one sequence has to itself."""
        ...

    def odds(self, sequence: Sequence) -> float:
        """How likely its next guess is right, by what is known; 0 where it has none.

        Asked at most once in a step, and before `propose`.
        """
        ...

    def propose(self, wanted: list[Wanted]) -> list[tuple[int, ...]]:
        """For each sequence up to so many tokens that may come next."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """Lets go of what it knows of a sequence that has ended."""
        ...


@dataclass(slots=True)
class _Account:
    """What a sequence can still pay for guesses, and what it had when that was counted."""

    n_tokens: int
    n_accepted: int
    credit: float = _FIRST_CREDIT

    def settle(self, sequence: Sequence) -> None:
        """Credits the tokens and the right guesses since the last time."""
        won = sequence.n_accepted - self.n_accepted
        made = len(sequence.tokens) - self.n_tokens
        self.credit = min(_MOST_CREDIT, self.credit + won + _ALLOWANCE * made)
        self.n_tokens, self.n_accepted = len(sequence.tokens), sequence.n_accepted


class Speculation:
    """Adds guesses to the work of a step where they pay.

    Args:
        drafters: asked in this order; the first that has a guess worth computing makes it.
        n_most: guesses for a sequence in one step, at most.
        row_cost: what computing one guess adds to a step that one sequence has to itself, as a
            share of it.
    """

    def __init__(self, drafters: Iterable[Drafter], *, n_most: int, row_cost: float) -> None:
        self._drafters = tuple(drafters)
        self._n_most = n_most
        self._row_cost = row_cost
        self._accounts: dict[int, _Account] = {}
        self._shunned: set[tuple[Drafter, int]] = set()

    def extend(self, work: list[Work], budget: int, lend: Lend) -> list[Work]:
        """The same work, with drafts behind sequences that are being decoded.

        Args:
            work: a step's.
            budget: tokens that may be added to it.
            lend: makes room in the cache; see `Scheduler.lend`.
        """
        decoding = [i for i, item in enumerate(work) if item.draws and item.n_tokens == 1]
        if not decoding or not self._drafters:
            return work
        # The weights are read once for all, so the more sequences share a step, the less a token
        # of each costs, and the less a right guess saves.
        n = len(decoding)
        token_cost = (1 + self._row_cost * (n - 1)) / n
        if self._row_cost / token_cost >= _TOO_DEAR:
            return work
        chosen: dict[Drafter, list[tuple[int, int]]] = {}  # places in `work`, and how many guesses
        for i in decoding:
            sequence = work[i].sequence
            if sequence.is_led:  # a constraint follows what is drawn, and not what is guessed
                continue
            credit = self._account(sequence).credit
            most = min(budget, self._n_most, sequence.max_len - len(sequence.tokens) - 1)
            if sequence.params.draft_tokens is not None:
                most = min(most, sequence.params.draft_tokens)
            for drafter in self._drafters:
                odds = drafter.odds(sequence)
                if not odds or (drafter, sequence.request_id) in self._shunned:
                    continue
                price = (self._row_cost + drafter.cost) / token_cost
                n_drafted = n_worthwhile(odds, price, min(most, int(credit / price)))
                if n_drafted:
                    n_drafted = lend(sequence, n_drafted)
                if n_drafted:
                    budget -= n_drafted
                    chosen.setdefault(drafter, []).append((i, n_drafted))
                    break
        if not chosen:
            return work
        extended = list(work)
        for drafter, places in chosen.items():
            price = (self._row_cost + drafter.cost) / token_cost
            drafts = self._propose(drafter, [(work[i].sequence, n) for i, n in places])
            for (i, _), draft in zip(places, drafts, strict=True):
                self._accounts[work[i].sequence.request_id].credit -= price * len(draft)
                extended[i] = replace(work[i], draft=draft)
        return extended

    def forget(self, sequence: Sequence) -> None:
        """Lets go of what is known of a sequence that has ended."""
        for drafter in self._drafters:
            drafter.forget(sequence)
            self._shunned.discard((drafter, sequence.request_id))
        self._accounts.pop(sequence.request_id, None)

    def _account(self, sequence: Sequence) -> _Account:
        account = self._accounts.get(sequence.request_id)
        if account is None:
            account = _Account(len(sequence.tokens), sequence.n_accepted)
            self._accounts[sequence.request_id] = account
        account.settle(sequence)
        return account

    def _propose(self, drafter: Drafter, wanted: list[Wanted]) -> list[tuple[int, ...]]:
        """The drafts; none where the drafter fails, which is then not asked again about these."""
        try:
            return drafter.propose(wanted)
        except Exception:
            self._shunned.update((drafter, sequence.request_id) for sequence, _ in wanted)
            return [()] * len(wanted)


def n_worthwhile(odds: float, price: float, most: int) -> int:
    """The number of guesses, up to `most`, that gives the most tokens for their cost.

    A step of n guesses costs 1 + n * price and is expected to give 1 + odds + ... + odds^n tokens.
    """
    best, n_best, tokens, right = 1.0, 0, 1.0, 1.0
    for n in range(1, most + 1):
        right *= odds
        tokens += right
        rate = tokens / (1 + n * price)
        if rate <= best:
            break
        best, n_best = rate, n
    return n_best
