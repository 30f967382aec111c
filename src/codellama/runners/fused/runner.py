"""The PyTorch runner for a device: fused layers, a cache of any format, and recorded steps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from codellama.errors import OutOfMemory
from codellama.model.config import ModelConfig
from codellama.runners import Batch, KVFormat
from codellama.runners.fused.cache import make_cache
from codellama.runners.fused.graphs import Graphs, Recorder
from codellama.runners.fused.inputs import Flat, Paged, flat, paged
from codellama.runners.fused.kernels import Kernels
from codellama.runners.fused.layers import fused
from codellama.runners.fused.logits import DeviceLogits, DeviceSampler
from codellama.runners.fused.memory import made_current
from codellama.runners.fused.weights import Placed
from codellama.runners.sampling import Logits, SamplingKernel


class FusedRunner:
    """Runs fused layers over flat batches with a paged key/value cache.

    Steps in which every token gets logits, which are those that decode, with or without guesses,
    are replayed from recordings where there is a recorder. Logits are an array on the host until
    `sampling_kernel` is called.

    Args:
        parameters: each once, by name and on the device; see `layers.fused`.
        kernels: the device's arithmetic.
        recorder: records steps; None runs each anew.
        max_seq_len: tokens of one sequence at most; None for all that the cache holds.

    Raises:
        CheckpointError: a parameter is missing or was given twice.
        OutOfMemory: weights and cache do not fit the device.
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Iterable[Placed],
        *,
        kernels: Kernels,
        n_blocks: int,
        block_size: int,
        device: torch.device,
        recorder: Recorder | None = None,
        kv_cache: KVFormat = KVFormat.F32,
        max_seq_len: int | None = None,
    ) -> None:
        self.config = config
        self.n_blocks = n_blocks
        self.block_size = block_size
        self._device = device
        self._holds_logits = False
        try:
            with torch.inference_mode(), made_current(device):
                self._model = fused(config, parameters, kernels)
                # One more block, where padding is stored.
                n_slots = (n_blocks + 1) * block_size
                self._cache = make_cache(config, n_slots, kv_cache, device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the model and a cache of {n_blocks * block_size} tokens do not fit {device}",
                hint="a shorter --max-seq-len needs less cache",
            ) from error
        self._graphs = None
        if recorder is not None:
            longest = n_blocks * block_size if max_seq_len is None else max_seq_len
            self._graphs = Graphs(
                recorder,
                self._step,
                table_width=min(n_blocks, -(-longest // block_size)),
                block_size=block_size,
                spare_slot=n_blocks * block_size,
                device=device,
            )

    @torch.inference_mode()
    def run(self, batch: Batch) -> Logits:
        """Logits [R, vocab] of the rows asked for; see `Runner`."""
        found = flat(batch, self.block_size)
        with made_current(self._device):
            if self._graphs is not None and self._graphs.takes(len(batch.tokens), batch.logit_rows):
                logits = self._graphs.run(found)
            else:
                logits = self._once(batch, found)
        held = DeviceLogits(logits)
        return held if self._holds_logits else held.numpy()

    def sampling_kernel(self, host: SamplingKernel) -> SamplingKernel:
        """From now on logits stay on a GPU, where the kernel returned draws from them."""
        if self._device.type == "cpu":
            return host
        self._holds_logits = True
        return DeviceSampler(host)

    def _once(self, batch: Batch, found: Flat) -> Tensor:
        """A step that is not recorded: prompts, and batches of many tokens."""
        tokens, positions, rows = (
            torch.from_numpy(np.ascontiguousarray(x)).to(self._device)
            for x in (batch.tokens, batch.positions, batch.logit_rows)
        )
        where = paged(batch, found, self.block_size, self._device)
        hidden = self._hidden(tokens, positions, where)
        if not len(rows):  # a chunk of a prompt, and not its last
            return torch.empty(0, self.config.vocab_size, device=self._device)
        return self._model.lm_head(hidden[rows.long()]).float()  # type: ignore[no-any-return]  # Any in a library's stubs

    def _step(self, tokens: Tensor, positions: Tensor, where: Paged) -> Tensor:
        hidden = self._hidden(tokens, positions, where)
        return self._model.lm_head(hidden).float()  # type: ignore[no-any-return]  # Any in a library's stubs

    def _hidden(self, tokens: Tensor, positions: Tensor, where: Paged) -> Tensor:
        # The model hands metadata and cache on to its blocks without looking into them.
        return self._model(tokens, positions, where, self._cache)  # type: ignore[no-any-return]  # Any in a library's stubs
