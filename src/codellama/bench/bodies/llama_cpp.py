"""llama.cpp, by the C interface of `llama-cpp-python`: one call for each step.

Runs in an environment that has that package; needs nothing of ours. Flash attention is on, which is
its best setting, and prompts go in one batch as large as its own tools' (512).
"""

from __future__ import annotations

import ctypes
from typing import Any

_BATCH = 512


def load(model: str, n_threads: int, context: int, n_streams: int) -> _LlamaCpp:
    return _LlamaCpp(model, n_threads, context, n_streams)


class _LlamaCpp:
    def __init__(self, model: str, n_threads: int, context: int, n_streams: int) -> None:
        import llama_cpp as api

        self._api = api
        self._quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self._quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = api.llama_model_load_from_file(model.encode(), params)
        if not self._model:
            raise OSError(f"llama.cpp cannot load {model}")
        settings = api.llama_context_default_params()
        settings.n_ctx = context * n_streams
        settings.n_batch = settings.n_ubatch = _BATCH
        settings.n_seq_max = n_streams
        settings.n_threads = settings.n_threads_batch = n_threads
        settings.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        settings.no_perf = True
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise OSError(f"llama.cpp cannot make a context of {context * n_streams} tokens")
        self._memory = api.llama_get_memory(self._context)
        self._vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._prompts: dict[int, list[Any]] = {}
        self._step = api.llama_batch_init(n_streams, 0, 1)
        self.about: dict[str, Any] = {
            "name": "llama.cpp",
            "version": f"llama-cpp-python {api.__version__}",
            "system": api.llama_print_system_info().decode(),
        }

    def prefill(self, n: int) -> object:
        if n not in self._prompts:  # made once, so that filling its fields is not timed again
            self._prompts[n] = [self._prompt(first, n) for first in range(0, n, _BATCH)]
        self._api.llama_memory_clear(self._memory, False)
        for batch in self._prompts[n]:
            self._run(batch)
        return self._api.llama_get_logits(self._context)

    def decode(self, n: int, n_streams: int) -> object:
        self._api.llama_memory_clear(self._memory, False)
        for position in range(n):
            self._fill(self._step, [(position, stream, True) for stream in range(n_streams)])
            self._run(self._step)
        return self._api.llama_get_logits(self._context)

    def _prompt(self, first: int, n: int) -> Any:
        size = min(_BATCH, n - first)
        batch = self._api.llama_batch_init(size, 0, 1)
        self._fill(batch, [(first + i, 0, first + i == n - 1) for i in range(size)])
        return batch

    def _fill(self, batch: Any, rows: list[tuple[int, int, bool]]) -> None:
        """Rows of (position, sequence, whether it gets logits)."""
        batch.n_tokens = len(rows)
        for i, (position, stream, wants_logits) in enumerate(rows):
            batch.token[i] = (position * 31 + 7 * stream) % self._vocab_size
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = stream
            batch.logits[i] = wants_logits

    def _run(self, batch: Any) -> None:
        code = self._api.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode gave {code}")
        self._api.llama_synchronize(self._context)
