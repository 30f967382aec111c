"""The body that drives llama.cpp, on a stand-in for its C interface that writes down every step."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from codellama.bench.bodies import llama_cpp as body

Step = list[tuple[int, int, bool]]  # (position, sequence, whether it gets logits)


class FakeApi(ModuleType):
    """What the body calls of `llama_cpp`; `steps` are the batches since the cache was cleared."""

    LLAMA_FLASH_ATTN_TYPE_ENABLED = 1
    __version__ = "0"

    def __init__(self) -> None:
        super().__init__("llama_cpp")
        self.steps: list[Step] = []
        self.settings = SimpleNamespace()
        self.code = 0
        self.model: Any = 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 1

    def llama_log_callback(self, function: Any) -> Any:
        return function

    def llama_model_default_params(self) -> Any:
        return SimpleNamespace()

    def llama_model_load_from_file(self, path: bytes, params: Any) -> Any:
        return self.model

    def llama_context_default_params(self) -> Any:
        return self.settings

    def llama_vocab_n_tokens(self, vocab: Any) -> int:
        return 100

    def llama_print_system_info(self) -> bytes:
        return b"fake"

    def llama_batch_init(self, n: int, embd: int, n_seq_max: int) -> Any:
        return SimpleNamespace(
            n_tokens=0,
            token=(ctypes.c_int32 * n)(),
            pos=(ctypes.c_int32 * n)(),
            n_seq_id=(ctypes.c_int32 * n)(),
            seq_id=[(ctypes.c_int32 * n_seq_max)() for _ in range(n)],
            logits=(ctypes.c_int8 * n)(),
        )

    def llama_memory_clear(self, memory: Any, data: bool) -> None:
        self.steps.clear()

    def llama_decode(self, context: Any, batch: Any) -> int:
        assert all(0 <= token < 100 for token in batch.token)
        rows = range(batch.n_tokens)
        assert all(batch.n_seq_id[i] == 1 for i in rows)
        self.steps.append([(batch.pos[i], batch.seq_id[i][0], bool(batch.logits[i])) for i in rows])
        return self.code


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    return fake


def test_it_is_set_up_as_fast_as_it_can_be(api: FakeApi) -> None:
    body.load("m.gguf", 3, 640, 8)
    settings = api.settings
    assert (settings.n_threads, settings.n_threads_batch) == (3, 3)
    assert (settings.n_ctx, settings.n_seq_max) == (640 * 8, 8)
    assert (settings.n_batch, settings.n_ubatch) == (512, 512)
    assert settings.flash_attn_type == api.LLAMA_FLASH_ATTN_TYPE_ENABLED


@pytest.mark.parametrize("n", [1, 512, 1025])
def test_a_prompt_is_read_once_and_only_its_last_token_gets_logits(api: FakeApi, n: int) -> None:
    engine = body.load("m.gguf", 1, 2000, 1)
    for _ in range(2):
        engine.prefill(n)
        rows = [row for step in api.steps for row in step]
        assert rows == [(i, 0, i == n - 1) for i in range(n)]
        assert max(map(len, api.steps)) <= 512


def test_decoding_takes_a_step_per_position_with_a_token_per_stream(api: FakeApi) -> None:
    engine = body.load("m.gguf", 1, 64, 3)
    engine.decode(4, 3)
    assert api.steps == [[(i, stream, True) for stream in range(3)] for i in range(4)]
    engine.decode(2, 1)
    assert api.steps == [[(0, 0, True)], [(1, 0, True)]]


def test_what_it_cannot_do_is_an_error(api: FakeApi) -> None:
    engine = body.load("m.gguf", 1, 64, 1)
    api.code = 1
    with pytest.raises(RuntimeError, match="llama_decode gave 1"):
        engine.decode(1, 1)
    api.model = None
    with pytest.raises(OSError, match=r"cannot load m\.gguf"):
        body.load("m.gguf", 1, 64, 1)
