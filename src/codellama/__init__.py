"""Code Llama: completion, infilling and chat on a plain CPU.

    from codellama import LLM

    llm = LLM.load("nano")
    print(llm.complete("def fibonacci(n: int) -> int:\\n").text)

Public names are loaded on first use, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codellama.engine.completion import Completion, Piece, Timings, TokenLogprob
    from codellama.engine.llm import LLM
    from codellama.engine.params import SamplingParams
    from codellama.errors import (
        CheckpointError,
        CodeLlamaError,
        ConfigError,
        ContextTooLong,
        MissingExtra,
        OutOfMemory,
        PromptError,
        RequestError,
    )

__all__ = [
    "LLM",
    "CheckpointError",
    "CodeLlamaError",
    "Completion",
    "ConfigError",
    "ContextTooLong",
    "MissingExtra",
    "OutOfMemory",
    "Piece",
    "PromptError",
    "RequestError",
    "SamplingParams",
    "Timings",
    "TokenLogprob",
]

_HOME = {
    "LLM": "engine.llm",
    "Completion": "engine.completion",
    "Piece": "engine.completion",
    "SamplingParams": "engine.params",
    "Timings": "engine.completion",
    "TokenLogprob": "engine.completion",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'codellama' has no attribute {name!r}")
    value = getattr(import_module(f"codellama.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
