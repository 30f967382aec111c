"""Decoding steps recorded once and replayed: hundreds of kernels launched at the cost of one.

A recording is of a fixed number of tokens and of fixed memory. A step with no more tokens than a
bucket has is written into its static inputs, filled up with tokens that see nothing and whose keys
and values go to a slot that no sequence owns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from codellama.runners.fused.inputs import Flat, Paged, Rows

Body = Callable[[Tensor, Tensor, Paged], Tensor]
"""Tokens [T], positions [T] and where they belong -> logits [T, vocab]."""

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)

_ONE_AT_A_TIME = threading.Lock()  # which is CUDA's own rule for a process


class Recorder(Protocol):
    """Records what a function does on a device."""

    def record(self, body: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Runs `body` as often as it needs to, which must change nothing but its output.

        Returns what does the same again, and the tensor that then holds the result.
        """
        ...


class CudaRecorder:
    """CUDA graphs, whose memory comes from one pool: they never run at the same time.

    Everything of a recording happens on a stream of the recorder's own, the runs before it too, so
    that what libraries keep for a stream is there when it begins. What other threads ask of the
    device meanwhile is no part of it and does not disturb it.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def record(self, body: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See `Recorder`. The runs before the recording compile kernels and choose algorithms."""
        with _ONE_AT_A_TIME:
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own, untyped
                self._pool = torch.cuda.graph_pool_handle()
            before = torch.cuda.current_stream()
            self._stream.wait_stream(before)
            with torch.cuda.stream(self._stream):
                for _ in range(2):
                    body()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                out = body()
            before.wait_stream(self._stream)
        return graph.replay, out


@dataclass(frozen=True)
class _Static:
    """A bucket's inputs: tokens, positions, slots, sequences and lengths [5, T], and tables.

    `paged` holds on to everything else that the recording reads.
    """

    numbers: Tensor
    paged: Paged
    replay: Callable[[], None]
    logits: Tensor


class Graphs:
    """Recordings by their number of tokens, made when first needed.

    Args:
        recorder: of the device.
        body: a step.
        table_width: blocks that one sequence has at most.
        block_size: positions of a block.
        spare_slot: where padding stores keys and values.
        buckets: numbers of tokens, ascending.
    """

    def __init__(
        self,
        recorder: Recorder,
        body: Body,
        *,
        table_width: int,
        block_size: int,
        spare_slot: int,
        device: torch.device,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        self._recorder = recorder
        self._body = body
        self._table_width = table_width
        self._block_size = block_size
        self._spare_slot = spare_slot
        self._device = device
        self._buckets = tuple(buckets)
        self._recorded: dict[int, _Static] = {}

    def takes(self, n_tokens: int, logit_rows: np.ndarray) -> bool:
        """Whether a step can be replayed: few tokens, and logits of each of them in order."""
        return len(logit_rows) == n_tokens <= self._buckets[-1] and bool(
            (logit_rows == np.arange(n_tokens)).all()
        )

    def run(self, batch: Flat) -> Tensor:
        """Logits [T, vocab], which hold until the next run."""
        n = len(batch.tokens)
        bucket = next(size for size in self._buckets if size >= n)
        numbers = np.zeros((5, bucket), np.int32)
        numbers[:, :n] = (
            batch.tokens, batch.positions, batch.slots, batch.sequence, batch.positions + 1,
        )  # fmt: skip
        numbers[2, n:] = self._spare_slot
        static = self._recorded.get(bucket)
        if static is None:
            static = self._recorded[bucket] = self._record(bucket)
        static.numbers.copy_(torch.from_numpy(numbers))
        n_sequences, width = batch.tables.shape
        tables = torch.from_numpy(np.ascontiguousarray(batch.tables))
        static.paged.tables[:n_sequences, :width].copy_(tables)
        static.replay()
        return static.logits[:n]

    def _record(self, bucket: int) -> _Static:
        numbers = torch.zeros(5, bucket, dtype=torch.int32, device=self._device)
        numbers[2] = self._spare_slot
        shape = (bucket, self._table_width)
        tables = torch.zeros(shape, dtype=torch.int32, device=self._device)
        every = torch.arange(bucket, dtype=torch.int32, device=self._device)
        tokens, positions, slots, sequence, length = numbers.unbind(0)
        paged = Paged(slots, tables, self._block_size, Rows(every, sequence, length))
        replay, logits = self._recorder.record(lambda: self._body(tokens, positions, paged))
        return _Static(numbers, paged, replay, logits)
