"""This package's engine, by the runner that serves requests."""

from __future__ import annotations

from typing import Any

import numpy as np

from codellama import checkpoint
from codellama.bench.cost import cost_of
from codellama.checkpoint.hub import resolve
from codellama.runners import Batch, load_runner

_BLOCK = 16


def load(model: str, n_threads: int, context: int, n_streams: int) -> _Own:
    return _Own(model, n_threads, context, n_streams)


class _Own:
    def __init__(self, model: str, n_threads: int, context: int, n_streams: int) -> None:
        reader = checkpoint.open(resolve(model))
        self._n_blocks = -(-context // _BLOCK)  # of one sequence
        self._vocab_size = reader.config.vocab_size
        self._runner = load_runner(
            reader,
            max_seq_len=context,
            n_blocks=self._n_blocks * n_streams,
            block_size=_BLOCK,
            n_threads=n_threads,
        )
        self.about: dict[str, Any] = {
            "name": "codellama",
            "simd": getattr(self._runner, "simd", None),
            "cost": cost_of(reader).to_json(),
        }

    def prefill(self, n: int) -> object:
        return self._runner.run(self._batch(0, n, 1))

    def decode(self, n: int, n_streams: int) -> object:
        logits = None
        for position in range(n):
            logits = self._runner.run(self._batch(position, 1, n_streams))
        return logits

    def _batch(self, first: int, n: int, n_streams: int) -> Batch:
        """The next n tokens of each sequence, whose last rows get logits."""
        numbers = np.arange(first, first + n, dtype=np.int32)
        ends = np.arange(n_streams + 1, dtype=np.int32) * np.int32(n)
        tokens = [(numbers * 31 + 7 * stream) % self._vocab_size for stream in range(n_streams)]
        tables = np.arange(n_streams * self._n_blocks, dtype=np.int32).reshape(n_streams, -1)
        return Batch(
            tokens=np.concatenate(tokens),
            positions=np.tile(numbers, n_streams),
            seq_starts=ends,
            context_lens=np.full(n_streams, first + n, np.int32),
            block_tables=tables,
            logit_rows=ends[1:] - np.int32(1),
        )
