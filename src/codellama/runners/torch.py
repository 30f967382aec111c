"""The model as it reads, over a paged cache: what every other body is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from codellama.errors import OutOfMemory
from codellama.model.config import ModelConfig
from codellama.model.transformer import KV, AttentionMetadata, Transformer
from codellama.quant.formats import Tensor
from codellama.runners import Batch
from codellama.runners.fused.memory import require_device


class TorchRunner:
    """Runs `Transformer` over flat batches with a paged key/value cache.

    Weights and cache are held in `dtype`; quantised tensors are dequantised on the way in.

    Raises:
        ConfigError: the device is not there.
        OutOfMemory: weights and cache do not fit the device.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        n_blocks: int,
        block_size: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        self.n_blocks = n_blocks
        self.block_size = block_size
        self.device = require_device(device)
        try:
            with torch.device("meta"):
                model = Transformer(config)
            self._model = model.to_empty(device=self.device).to(dtype).eval()
            if config.tie_embeddings:
                self._model.lm_head.weight = self._model.embed_tokens.weight
            parameters = dict(self._model.named_parameters())
            for name, tensor in tensors:
                values = torch.from_numpy(tensor.to_float32().copy())
                with torch.no_grad():
                    parameters.pop(name).copy_(values)
            assert not parameters, f"the reader left out {sorted(parameters)}"
            shape = (n_blocks * block_size, config.n_kv_heads, config.head_dim)
            self._cache = [
                KV(*(torch.zeros(shape, device=self.device, dtype=dtype) for _ in range(2)))
                for _ in range(config.n_layers)
            ]
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the model and a cache of {n_blocks * block_size} tokens do not fit {device}",
                hint="a shorter --max-seq-len needs less cache",
            ) from error

    @torch.inference_mode()
    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Logits [R, vocab] of the rows asked for; see `Runner`."""
        offsets = np.arange(batch.block_tables.shape[1] * self.block_size)
        starts = tuple(int(s) for s in batch.seq_starts)
        context_slots = []
        slots = np.empty(len(batch.tokens), np.int64)
        for s, (a, b) in enumerate(pairwise(starts)):
            seen = offsets[: batch.context_lens[s]]
            blocks = batch.block_tables[s, seen // self.block_size].astype(np.int64)
            where = blocks * self.block_size + seen % self.block_size
            context_slots.append(torch.from_numpy(where).to(self.device))
            slots[a:b] = where[batch.positions[a:b]]
        attn = AttentionMetadata(
            starts, slots=torch.from_numpy(slots).to(self.device), context_slots=context_slots
        )
        hidden = self._model(
            torch.from_numpy(batch.tokens).to(self.device),
            torch.from_numpy(batch.positions).to(self.device),
            attn,
            self._cache,
        )
        logits = self._model.lm_head(hidden[torch.from_numpy(batch.logit_rows).long()])
        return logits.float().cpu().numpy()  # type: ignore[no-any-return]  # torch's stubs say Any
