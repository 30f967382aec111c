"""A second, smaller model of the same vocabulary guesses what the first will say."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from codellama.engine.batch import Share, flatten
from codellama.engine.blocks import BlockPool
from codellama.engine.draft import Wanted
from codellama.engine.sampler import Sampler
from codellama.engine.sequence import Sequence
from codellama.errors import ConfigError
from codellama.runners import Runner
from codellama.runners.sampling import Logits, SamplingKernel
from codellama.text.tokenizer import Tokenizer

# The share of right guesses that is expected at first, as if it had been seen `_PRIOR_WEIGHT`
# times; how slowly what was seen is forgotten, and how slowly where nothing new is seen.
_PRIOR, _PRIOR_WEIGHT = 0.7, 4.0
_MEMORY, _PATIENCE = 0.9, 0.98


@dataclass(slots=True)
class _Line:
    """What the draft model's cache holds of a sequence, and its last guess."""

    blocks: list[int]
    n_cached: int  # tokens, the guess not among them
    n_published: int  # blocks
    guess: array[int] = field(default_factory=lambda: array("i"))
    n_before: int = 0  # tokens of the sequence when it was guessed
    right: float = _PRIOR * _PRIOR_WEIGHT
    judged: float = _PRIOR_WEIGHT

    def settle(self, tokens: array[int]) -> None:
        """Counts how much of the guess came true; the cache is right as far as that."""
        if not self.guess:
            self.right += (1 - _PATIENCE) * (_PRIOR * _PRIOR_WEIGHT - self.right)
            self.judged += (1 - _PATIENCE) * (_PRIOR_WEIGHT - self.judged)
            return
        n_right = 0
        for token, guess in zip(tokens[self.n_before :], self.guess, strict=False):
            if token != guess:
                break
            n_right += 1
        for i in range(min(n_right + 1, len(self.guess))):
            self.right = self.right * _MEMORY + (i < n_right)
            self.judged = self.judged * _MEMORY + 1
        # The last token of a guess was drawn and never computed.
        self.n_cached += min(n_right, len(self.guess) - 1)
        del self.guess[:]

    def last_guess(self) -> Share:
        """What a step computes to draw the guess after the last one."""
        return Share(self.guess[-1:], self.n_cached + len(self.guess) - 1, self.blocks, 1)


class _Ready(NamedTuple):
    """A sequence of which all is read, and how many guesses are wanted."""

    sequence: Sequence
    line: _Line
    n: int

    def goes_on(self) -> bool:
        """Whether another guess is wanted; a draw that is no token takes its place back."""
        guess = self.line.guess
        if guess[-1] < 0:
            guess.pop()
            return False
        return len(guess) < self.n


class DraftModel:
    """Guesses with a small model, for all sequences in one batch per token.

    It draws from its own logits as the sampler will from the large model's: same parameters, same
    seed, same count of tokens, so that two models that agree draw the same. Its cache is its own.
    It reads what it has not seen of a sequence when it is asked to guess, `step_tokens` at a time.

    Args:
        runner: computes; its vocabulary is that of the large model.
        kernel: samples.
        n_ids: the ids that can be drawn.
        cost: what a guess costs, as a share of the large model's step.
        step_tokens: tokens that a batch computes at most.
    """

    def __init__(
        self, runner: Runner, kernel: SamplingKernel, n_ids: int, *, cost: float, step_tokens: int
    ) -> None:
        self.cost = cost
        self._runner = runner
        self._sampler = Sampler(kernel, n_ids)
        self._step_tokens = step_tokens
        self._lines: dict[int, _Line] = {}
        self.pool = BlockPool(runner.n_blocks, runner.block_size)

    def odds(self, sequence: Sequence) -> float:
        """See `Drafter`."""
        line = self._lines.get(sequence.request_id)
        if line is None:
            return _PRIOR
        line.settle(sequence.tokens)
        return line.right / line.judged

    def propose(self, wanted: list[Wanted]) -> list[tuple[int, ...]]:
        """See `Drafter`."""
        logits, ready = self._read(wanted)
        while ready:
            draws = self._sampler.draw(
                logits, [item.sequence for item in ready], [item.line.guess for item in ready]
            )
            for draw, item in zip(draws, ready, strict=True):
                item.line.guess.append(draw.token_id)
            ready = [item for item in ready if item.goes_on()]
            if ready:
                logits = self._runner.run(flatten([item.line.last_guess() for item in ready]))
        return [tuple(self._lines[sequence.request_id].guess) for sequence, _ in wanted]

    def _read(self, wanted: list[Wanted]) -> tuple[Logits, list[_Ready]]:
        """Computes what is new of the sequences; logits of those of which it has read all."""
        asked = {sequence.request_id for sequence, _ in wanted}
        shares, read, ready, budget = [], [], [], self._step_tokens
        for sequence, n in wanted:
            line = self._open(sequence)
            tokens = sequence.tokens[line.n_cached : line.n_cached + budget]
            n_known = line.n_cached + len(tokens)
            if not tokens or not self._reserve(line, n_known + n - 1, asked):
                continue
            is_ready = n_known == len(sequence.tokens)
            shares.append(Share(tokens, line.n_cached, line.blocks, int(is_ready)))
            read.append((sequence, line, n_known))
            budget -= len(tokens)
            if is_ready:
                ready.append(_Ready(sequence, line, n))
        if not shares:
            return np.empty((0, 0), np.float32), []
        logits = self._runner.run(flatten(shares))
        for sequence, line, n_known in read:
            line.n_cached = line.n_before = n_known
            self._publish(sequence, line)
        return logits, ready

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        self._drop(sequence.request_id)

    def _open(self, sequence: Sequence) -> _Line:
        line = self._lines.get(sequence.request_id)
        if line is None:
            # The last token is always computed: its logits are what a guess begins with.
            n_full = (len(sequence.tokens) - 1) // self.pool.block_size
            shared = self.pool.find(sequence.chain[:n_full])
            n_cached = len(shared) * self.pool.block_size
            line = _Line(self.pool.take(shared, 0), n_cached, len(shared))
            self._lines[sequence.request_id] = line
        return line

    def _reserve(self, line: _Line, n_tokens: int, asked: set[int]) -> bool:
        """Whether the line has blocks for so many tokens; who is not asked about gives way."""
        n_missing = self.pool.n_needed(n_tokens) - len(line.blocks)
        if n_missing > 0:
            for request_id in [i for i in self._lines if i not in asked]:
                if self.pool.can_take((), n_missing):
                    break
                self._drop(request_id)
            if not self.pool.can_take((), n_missing):
                return False
            line.blocks += self.pool.take((), n_missing)
        return True

    def _publish(self, sequence: Sequence, line: _Line) -> None:
        """Lets other sequences find the full blocks of what was read."""
        n_full = min(line.n_cached // self.pool.block_size, len(sequence.chain))
        for i in range(line.n_published, n_full):
            self.pool.publish(line.blocks[i], sequence.chain[i])
        line.n_published = max(line.n_published, n_full)

    def _drop(self, request_id: int) -> None:
        line = self._lines.pop(request_id, None)
        if line is not None:
            self.pool.release(line.blocks)


def require_same_vocabulary(ours: Tokenizer, theirs: Tokenizer, name: str) -> None:
    """Refuses a draft model whose ids mean other pieces.

    Raises:
        ConfigError: they differ; it says where.
    """
    hint = "a draft model needs the very vocabulary of the model it guesses for"
    if theirs.n_vocab != ours.n_vocab:
        raise ConfigError(
            f"the draft model {name} has {theirs.n_vocab} pieces in its vocabulary, and the model "
            f"has {ours.n_vocab}",
            hint=hint,
        )
    for i in range(ours.n_vocab):
        if theirs.piece(i) != ours.piece(i):
            raise ConfigError(
                f"the draft model {name} has another vocabulary: its token {i} is "
                f"{theirs.piece(i)!r}, and the model's is {ours.piece(i)!r}",
                hint=hint,
            )
