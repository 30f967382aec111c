"""Recording as a device does it: what is replayed knows of memory, and of no number on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from codellama import checkpoint
from codellama.engine.batch import Share, flatten
from codellama.runners.fused import graphs
from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.graphs import CudaRecorder
from codellama.runners.fused.inputs import Paged
from codellama.runners.fused.kernels import PlainKernels
from codellama.runners.fused.runner import FusedRunner
from codellama.runners.fused.weights import Kind, placed_all
from codellama.runners.sampling import to_array
from engine_bodies import runner_of

N_BLOCKS = 16


class Tape(TorchDispatchMode):
    """Remembers operations and the memory they read and write, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = func is torch.ops.aten._local_scalar_dense.default
        assert not asks, "a recorded step waits for a number"
        out = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self._calls:
            for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # else it was made in its place
                    old.copy_(new)


def tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for one in x:
            yield from tensors(one)


class Tapes:
    """A recorder as `CudaRecorder` is one."""

    def __init__(self) -> None:
        self.n_recorded = 0

    def record(self, body: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.n_recorded += 1
        for _ in range(2):
            body()
        tape = Tape()
        with tape:
            out = body()
        return tape.replay, out


class DeviceKernels(PlainKernels):
    """Attention that asks the host for no length, as on a device."""

    def attend(self, q: Tensor, cache: LayerCache, paged: Paged) -> Tensor:
        if paged.rows is None or paged.tiles is not None:
            return super().attend(q, cache, paged)
        rows, size = paged.rows, paged.block_size
        position = torch.arange(paged.tables.shape[1] * size)
        blocks = paged.tables[rows.sequence.long()][:, position // size].long()
        slots = blocks * size + position % size
        group = q.shape[1] // cache.k.shape[1]
        k, v = (x[slots].repeat_interleave(group, dim=2) for x in (cache.k, cache.v))
        scores = torch.einsum("nhe,nlhe->nhl", q, k) * q.shape[2] ** -0.5
        is_seen = (position[None] < rows.length[:, None])[:, None]
        weight = torch.where(is_seen, scores, -torch.inf).softmax(-1).nan_to_num(0.0)
        return torch.einsum("nhl,nlhe->nhe", weight, v)


def test_a_replayed_step_computes_what_its_inputs_say_now(hf_folder: Path) -> None:
    """Other tokens, positions, blocks and numbers of sequences than when it was recorded."""
    reader, cpu, tapes = checkpoint.open(hf_folder), torch.device("cpu"), Tapes()
    ours = FusedRunner(
        reader.config, placed_all(reader.tensors(), Kind.PLAIN, torch.float32, cpu),
        kernels=DeviceKernels(), n_blocks=N_BLOCKS, block_size=16, device=cpu, recorder=tapes,
        max_seq_len=64,
    )  # fmt: skip
    theirs = runner_of("torch", hf_folder, n_blocks=N_BLOCKS)
    tables = [[5, 9, 2], [7, 1, 3, 8], [6, 4, 15], [12, 10]]
    lengths, rng = [20, 3, 40, 17], np.random.default_rng(0)

    def step(sequences: list[int], n_new: int, n_before: dict[int, int] | None = None) -> None:
        shares = []
        for s in sequences:
            first = lengths[s] if n_before is None else 0
            n = n_new if n_before is None else n_before[s]
            ids = rng.integers(3, 300, n).tolist()
            shares.append(Share(ids, first, tables[s], n_new))
            lengths[s] = first + n
        batch = flatten(shares)
        got, expected = to_array(ours.run(batch)), to_array(theirs.run(batch))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)

    step([0, 1, 2, 3], 1, dict(enumerate(lengths)))  # prompts
    assert tapes.n_recorded == 0
    for sequences in ([0, 1, 2, 3], [2, 0, 1], [3, 2, 1, 0], [0, 1, 2]):
        step(sequences, 1)
    for sequences in ([1], [0], [2]):
        step(sequences, 1)
    step([3, 1], 2)  # a guess behind each: the four tokens' recording
    step([2, 0], 2)
    assert tapes.n_recorded == 2  # of one token and of four


def test_a_step_that_asks_the_host_is_found_out() -> None:
    x = torch.ones(1)
    with pytest.raises(AssertionError, match="waits for a number"), Tape():
        x.item()


class FakeCuda:
    """`torch.cuda` as far as a recorder uses it, with a note of what happens where."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[Any] = []
        self.current: Any = FakeStream(self)
        self.n_streams = 0
        for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)

    def Stream(self) -> FakeStream:  # its name there
        self.n_streams += 1
        return FakeStream(self)

    def current_stream(self) -> Any:
        return self.current

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def CUDAGraph(self) -> Any:
        return FakeGraph()

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        self.notes.append(("begin", pool, stream, capture_error_mode))
        with self.stream(stream):
            yield
        self.notes.append("end")


class FakeStream:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def wait_stream(self, other: Any) -> None:
        self._cuda.notes.append(("wait", self, other))


class FakeGraph:
    def replay(self) -> None:
        pass


def test_cuda_records_on_one_stream_from_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    recorder, main = CudaRecorder(), cuda.current

    def body() -> Tensor:
        assert graphs._ONE_AT_A_TIME.locked()
        cuda.notes.append(("run", cuda.current))
        return torch.zeros(1)

    for _ in range(3):
        recorder.record(body)
    assert cuda.n_streams == 1
    each = len(cuda.notes) // 3
    (_, side, _), _, _, (_, pool, _, _) = cuda.notes[:4]
    assert side is not main
    expected = [
        ("wait", side, main), ("run", side), ("run", side),
        ("begin", pool, side, "thread_local"), ("run", side), "end", ("wait", main, side),
    ]  # fmt: skip
    for i in range(3):
        assert cuda.notes[i * each : (i + 1) * each] == expected
    assert cuda.current is main


def test_a_recording_that_fails_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    recorder = CudaRecorder()
    with pytest.raises(ZeroDivisionError):
        recorder.record(lambda: torch.zeros(1 // 0))
    assert not graphs._ONE_AT_A_TIME.locked()
    recorder.record(lambda: torch.zeros(1))
