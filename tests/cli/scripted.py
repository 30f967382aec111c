"""The command line with a model that says what it is told to, for what a real one says too seldom.

python scripted.py SCRIPT VERB ...

SCRIPT is a JSON object. `pieces` are the texts of a reply, again and again if it goes on `forever`.
`delay_s` is the time before each of them, `load_s` the time to load. All but the first wait until
the file `gate` exists. `begun` is said on standard error when the reply begins. `finish` is how it
ends, and `error` why. `raises` is an exception to raise instead. `echo` makes the reply repeat the
prompt it was sent.
"""

from __future__ import annotations

import builtins
import itertools
import json
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama.cli.main import main
from codellama.engine.completion import Completion, Piece, Timings
from codellama.engine.params import SamplingParams
from codellama.model.config import ModelConfig

TINY = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96, vocab_size=320,
    norm_eps=1e-5, rope_theta=1e6, max_seq_len=256,
)  # fmt: skip


class CharTokenizer:
    """One id per character."""

    def encode(self, text: str, *, allow_control: bool) -> list[int]:
        return [ord(char) for char in text]

    encode_bare = encode


class ScriptedLLM:
    """What the verbs use of an `LLM`."""

    config = TINY
    chat_form = "inst"
    max_seq_len = 256
    notes = ("a note\x1b from the files",)
    tokenizer = CharTokenizer()

    def __init__(self, script: Mapping[str, Any]) -> None:
        self._script = script

    def stream(
        self, prompt: object, params: SamplingParams, *, allow_control: bool = False
    ) -> Iterator[Piece]:
        script = self._script
        if "raises" in script:
            raise getattr(builtins, script["raises"])("as the script says")
        texts = [json.dumps(prompt)] if script.get("echo") else script["pieces"]
        whole: list[str] = []
        sys.stderr.write(script.get("begun", ""))
        sys.stderr.flush()
        for i in itertools.count() if script.get("forever") else range(len(texts)):
            time.sleep(script.get("delay_s", 0))
            while i > 0 and "gate" in script and not Path(script["gate"]).exists():
                time.sleep(0.01)
            whole.append(texts[i % len(texts)])
            yield Piece(text=whole[-1], token_ids=(i,))
        done = completion("".join(whole), len(whole), params, script)
        yield Piece(text="", token_ids=(), finish_reason=done.finish_reason, completion=done)

    def stream_chat(
        self, messages: Sequence[Mapping[str, str]], params: SamplingParams, **rest: Any
    ) -> Iterator[Piece]:
        return self.stream(messages, params)

    def stream_infill(
        self, *, prefix: str, suffix: str, params: SamplingParams, **rest: Any
    ) -> Iterator[Piece]:
        return self.stream([prefix, suffix], params)

    def complete(
        self, prompt: object, params: SamplingParams, *, n: int, **rest: Any
    ) -> list[Completion]:
        return [list(self.stream(prompt, params))[-1].completion or _never() for _ in range(n)]

    def infill(
        self, *, prefix: str, suffix: str, params: SamplingParams, n: int, **rest: Any
    ) -> list[Completion]:
        return self.complete([prefix, suffix], params, n=n)

    def chat(
        self, messages: Sequence[Mapping[str, str]], params: SamplingParams, *, n: int, **rest: Any
    ) -> list[Completion]:
        return self.complete(messages, params, n=n)


def completion(
    text: str, n_tokens: int, params: SamplingParams, script: Mapping[str, Any]
) -> Completion:
    return Completion(
        text=text,
        token_ids=tuple(range(n_tokens)),
        finish_reason=script.get("finish", "stop"),
        logprobs=None,
        prompt_tokens=3,
        cached_tokens=0,
        seed=params.seed or 0,
        timings=Timings(
            prompt_tokens=3, cached_tokens=0, completion_tokens=n_tokens, queue_s=0.0,
            prefill_s=0.01, decode_s=0.1,
        ),
        error=script.get("error"),
    )  # fmt: skip


def _never() -> Completion:
    raise AssertionError("a stream ends with its completion")


def scripted_module(script: Mapping[str, Any]) -> types.ModuleType:
    """In place of `codellama.engine.llm`: its `LLM.load` returns a scripted model."""

    class LLM:
        @staticmethod
        def load(path: str, **options: Any) -> ScriptedLLM:
            time.sleep(script.get("load_s", 0))
            return ScriptedLLM(script)

    module = types.ModuleType("codellama.engine.llm")
    module.LLM = LLM  # type: ignore[attr-defined]
    return module


if __name__ == "__main__":
    sys.modules["codellama.engine.llm"] = scripted_module(json.loads(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
