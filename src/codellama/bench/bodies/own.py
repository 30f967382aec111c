"""This package's engine, by the runner that serves requests."""

from __future__ import annotations

from typing import Any

import numpy as np

from codellama import _native, checkpoint
from codellama.bench.cost import Choice, cost_of
from codellama.checkpoint.hub import resolve
from codellama.runners import Batch, KVFormat, activation_format, load_runner, natural_kv_cache
from codellama.runners.sampling import BringsSampling, Logits, to_array

_BLOCK = 16
_DEVICE_STEP = 2048  # tokens of a prompt that the engine reads at a time on a device
_SIZES = {"cuda": (1 << 30, 8192), "cpu": (1 << 26, 512)}  # bytes copied, side of a product


def load(model: str, n_threads: int, context: int, n_streams: int, **choice: Any) -> _Own:
    return _Own(model, n_threads, context, n_streams, Choice(**choice))


class _Own:
    """The native core computes logits. PyTorch draws from them too, as the engine has it do:
    else those on a device would not be waited for, or be copied as no engine copies them."""

    def __init__(
        self, model: str, n_threads: int, context: int, n_streams: int, choice: Choice
    ) -> None:
        reader = checkpoint.open(resolve(model))
        engine, device, weights = choice.engine, choice.device, choice.weights
        self._n_blocks = -(-context // _BLOCK)  # of one sequence
        self._vocab_size = reader.config.vocab_size
        self._step = context if engine == "cpu" else _DEVICE_STEP
        kept = natural_kv_cache(reader, engine, device, weights)
        if choice.kv_cache is not None:
            kept = KVFormat(choice.kv_cache.upper())
        self._runner = load_runner(
            reader,
            engine=engine,
            max_seq_len=context,
            n_blocks=self._n_blocks * n_streams,
            block_size=_BLOCK,
            n_threads=n_threads,
            kv_cache=kept,
            device=device,
            weights=weights,
        )
        self._kernel: Any = None
        self.about: dict[str, Any] = {
            "name": "codellama",
            "simd": getattr(self._runner, "simd", None),
            "cost": cost_of(reader, choice).to_json(),
            "kv_cache": str(kept),
        }
        if engine == "torch":
            self._kernel = _native
            if isinstance(self._runner, BringsSampling):
                self._kernel = self._runner.sampling_kernel(self._kernel)
            self._kind = str(activation_format(reader, device, weights))
            self.about |= self._on_device(device, n_threads)

    def _on_device(self, name: str | None, n_threads: int) -> dict[str, Any]:
        from importlib.metadata import version  # its memory would count as the engine's

        from codellama.runners.fused import limits, memory

        self._device = memory.require_device(name or "cpu")
        if self._device.type == "cpu":
            memory.set_threads(n_threads)
        held = memory.held_bytes(self._device)
        return {
            "device": limits.device_name(self._device),
            "device_mb": None if held is None else held / 1e6,
            "torch": version("torch"),
            "activations": self._kind,
        }

    def limits(self) -> dict[str, float]:
        """Bytes a second of copies, and operations a second of products of the activations' type.

        Only of PyTorch's device.
        """
        from codellama.runners.fused.limits import copy_rate, product_rate

        n_bytes, side = _SIZES[self._device.type]
        return {
            "read": copy_rate(self._device, n_bytes),
            "product": product_rate(self._device, self._kind, side),
        }

    def prefill(self, n: int) -> object:
        logits: Logits | None = None
        for first in range(0, n, self._step):
            n_read = min(self._step, n - first)
            logits = self._runner.run(self._batch(first, n_read, 1, draws=first + n_read == n))
        assert logits is not None, "n is at least 1"
        return to_array(logits)

    def decode(self, n: int, n_streams: int) -> object:
        out: object = None
        for position in range(n):
            out = self._runner.run(self._batch(position, 1, n_streams))
            if self._kernel is not None:
                out = self._kernel.sample(out, *defaults(n_streams))
        return out

    def _batch(self, first: int, n: int, n_streams: int, *, draws: bool = True) -> Batch:
        """The next n tokens of each sequence, whose last rows get logits if it draws."""
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
            logit_rows=ends[1:] - np.int32(1) if draws else np.empty(0, np.int32),
        )


def defaults(n: int) -> tuple[Any, ...]:
    """The settings of n rows as `SamplingKernel` takes them: temperature 0.2 and top-p 0.95."""
    ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    none, offsets = np.empty(0, np.int32), np.zeros(n + 1, np.int64)
    return (
        0.2 * ones, np.zeros(n, np.int32), 0.95 * ones, zeros, ones, zeros, zeros,
        np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64), none, offsets,
        np.zeros(n, np.int32), none, np.empty(0, np.float32), offsets,
    )  # fmt: skip
