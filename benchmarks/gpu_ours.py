"""Our own side on a GPU: the runner that `--device` uses, with random weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from codellama.bench.bodies.own import defaults
from codellama.model.config import ModelConfig
from codellama.runners import Batch, KVFormat
from codellama.runners.fused.graphs import CudaRecorder
from codellama.runners.fused.kernels import Kernels, PlainKernels
from codellama.runners.fused.runner import FusedRunner
from codellama.runners.fused.weights import Blocks, Dense, Fp8, Kind, Placed, rounded

BLOCK = 16
CHUNK = 2048  # tokens of a prompt that one step reads


def parameters(config: ModelConfig, kind: Kind, device: torch.device) -> Iterator[Placed]:
    """Random parameters made on the device, a matrix at a time."""
    torch.manual_seed(0)
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            yield name, torch.ones(shape, dtype=torch.bfloat16, device=device)
            continue
        is_table = name.startswith("embed_tokens")
        x = torch.empty(shape, dtype=torch.bfloat16, device=device)
        x.normal_(std=1.0 if is_table else shape[1] ** -0.5)
        yield name, x if is_table else rounded(x, kind, torch.bfloat16)


def held_bytes(matrix: Dense | Fp8 | Blocks) -> int:
    found = [x for x in vars(matrix).values() if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in found)


class Ours:
    """The runner that `--device` uses, and the sampling kernel behind it."""

    name = "codellama"

    def __init__(self, config: ModelConfig, kind: Kind, device: torch.device, n_most: int) -> None:
        self.config, self._device = config, device
        self._vocab = config.vocab_size
        self.weight_bytes = 0

        def counted() -> Iterator[Placed]:
            for name, value in parameters(config, kind, device):
                if not isinstance(value, torch.Tensor):
                    self.weight_bytes += held_bytes(value)
                yield name, value

        kernels: Kernels = PlainKernels()
        if device.type == "cuda":
            from codellama.runners.triton.kernels import TritonKernels

            kernels = TritonKernels()
        self._runner = FusedRunner(
            config, counted(), kernels=kernels, n_blocks=n_most // BLOCK + 1, block_size=BLOCK,
            device=device, recorder=CudaRecorder() if device.type == "cuda" else None,
            kv_cache=KVFormat.BF16, max_seq_len=config.max_seq_len,
        )  # fmt: skip
        from codellama import _native

        self._kernel = self._runner.sampling_kernel(_native)  # type: ignore[arg-type]  # a module with the protocol's functions

    def decode(self, n_sequences: int, before: int, n_tokens: int) -> None:
        """Steps of one token for each sequence: run, draw, and bring the ids back."""
        width = -(-(before + n_tokens) // BLOCK)
        tables = np.arange(n_sequences * width, dtype=np.int32).reshape(n_sequences, width)
        tokens = np.arange(n_sequences, dtype=np.int32) % self._vocab
        every = np.arange(n_sequences + 1, dtype=np.int32)
        settings = defaults(n_sequences)
        for position in range(before, before + n_tokens):
            logits = self._runner.run(
                Batch(
                    tokens=tokens, positions=np.full(n_sequences, position, np.int32),
                    seq_starts=every, context_lens=np.full(n_sequences, position + 1, np.int32),
                    block_tables=tables, logit_rows=every[:-1],
                )
            )  # fmt: skip
            tokens, _ = self._kernel.sample(logits, *settings)

    def prefill(self, n_tokens: int) -> None:
        """One prompt, in chunks as the scheduler cuts it."""
        table = np.arange(-(-n_tokens // BLOCK), dtype=np.int32)[None]
        for first in range(0, n_tokens, CHUNK):
            n = min(CHUNK, n_tokens - first)
            is_last = first + n == n_tokens
            self._runner.run(
                Batch(
                    tokens=np.arange(n, dtype=np.int32) % self._vocab,
                    positions=np.arange(first, first + n, dtype=np.int32),
                    seq_starts=np.array([0, n], np.int32),
                    context_lens=np.array([first + n], np.int32),
                    block_tables=table,
                    logit_rows=np.array([n - 1] if is_last else [], np.int32),
                )
            )
