"""Log-probabilities of the tokens of a text that is already there."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codellama.engine.blocks import Content
from codellama.engine.completion import TokenLogprob
from codellama.runners import Batch

if TYPE_CHECKING:
    from codellama.engine.engine import Engine

_ROWS = 64  # of logits at a time: bounds the memory, whatever the text's length


@dataclass(frozen=True, kw_only=True)
class Score:
    """One entry for each id; None for the first, which nothing precedes."""

    logprobs: tuple[TokenLogprob | None, ...]


class Scoring:
    """Reads a text in the engine's cache, some rows in each `step`, between the engine's own.

    The blocks it fills stay to be found, so that a reply to the same text need not read it again.
    """

    def __init__(self, engine: Engine, ids: tuple[int, ...], n_top: int, scope: bytes) -> None:
        self._engine = engine
        self._ids = np.array(ids, np.int32)
        self._n_top = n_top
        self._scope = scope
        self._found: list[TokenLogprob | None] = [None] if ids else []
        self._n_read = 0
        self._blocks: list[int] | None = None

    def step(self) -> bool:
        """Reads on if the cache has room. Returns whether everything was read."""
        pool = self._engine.pool
        if self._blocks is None:
            n_blocks = pool.n_needed(len(self._ids))
            if not pool.can_take((), n_blocks, spare=len(self._engine.scheduler.running)):
                return False
            self._blocks = pool.take((), n_blocks)
        try:
            self._read(min(_ROWS, len(self._ids) - self._n_read))
        except BaseException:
            self.close()
            raise
        if self._n_read < len(self._ids):
            return False
        if self._engine.plan.share_prefixes:
            self._publish()
        self.close()
        return True

    def close(self) -> None:
        """Gives the blocks back."""
        if self._blocks is not None:
            self._engine.pool.release(self._blocks)
            self._blocks = None

    def result(self) -> Score:
        assert self._n_read == len(self._ids), "the text was not read to its end"
        return Score(logprobs=tuple(self._found))

    def _read(self, n: int) -> None:
        assert self._blocks is not None, "a text is read into blocks"
        first, end = self._n_read, self._n_read + n
        logits, kernel = self._engine.logits(
            Batch(
                tokens=self._ids[first:end],
                positions=np.arange(first, end, dtype=np.int32),
                seq_starts=np.array([0, n], np.int32),
                context_lens=np.array([end], np.int32),
                block_tables=np.array([self._blocks], np.int32),
                logit_rows=np.arange(n, dtype=np.int32),
            )
        )
        self._n_read = end
        n_top = min(max(self._n_top, 1), logits.shape[1])
        top_ids, top_logprobs = kernel.top_logprobs(logits, n_top)
        for row, token in enumerate(self._ids[first + 1 : end + 1].tolist()):
            top = tuple(zip(top_ids[row].tolist(), top_logprobs[row].tolist(), strict=True))
            logprob = dict(top).get(token)
            if logprob is None:
                likeliest, best = top[0]
                gap = float(logits[row, likeliest]) - float(logits[row, token])
                logprob = float(np.float32(best - gap))
            self._found.append(
                TokenLogprob(token_id=token, logprob=logprob, top=top[: self._n_top])
            )

    def _publish(self) -> None:
        pool, size = self._engine.pool, self._engine.pool.block_size
        assert self._blocks is not None, "a text is read into blocks"
        tokens, parent = array("i", self._ids.tolist()), Content.root(self._scope)
        for i in range(len(tokens) // size):
            parent = pool.content(parent, tokens[i * size : (i + 1) * size])
            pool.publish(self._blocks[i], parent)
