"""transformers in float32 on random weights of a model's shape: its quickest way on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from codellama import checkpoint


def load(model: str, n_threads: int, context: int, n_streams: int) -> _Transformers:
    return _Transformers(model, n_threads)


class _Transformers:
    def __init__(self, model: str, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        torch.manual_seed(0)
        config = checkpoint.open(model).config
        self._vocab_size = config.vocab_size
        self._model = LlamaForCausalLM(LlamaConfig(**config.to_hf())).eval()
        self.about: dict[str, Any] = {
            "name": "transformers",
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }

    @torch.inference_mode()
    def prefill(self, n: int) -> object:
        tokens = torch.arange(n).remainder(self._vocab_size)[None]
        return self._model(tokens, past_key_values=DynamicCache(), logits_to_keep=1).logits

    @torch.inference_mode()
    def decode(self, n: int, n_streams: int) -> object:
        cache, logits = DynamicCache(), None
        streams = torch.arange(n_streams)[:, None]
        for position in range(n):
            tokens = (position * 31 + 7 * streams).remainder(self._vocab_size)
            logits = self._model(tokens, past_key_values=cache).logits
        return logits
