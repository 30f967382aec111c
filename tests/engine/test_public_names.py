"""`import codellama` costs nothing, and its names come when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import codellama

HEAVY = ("tokenizers", "huggingface_hub", "prompt_toolkit", "pygments", "torch", "transformers")


def loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    script = f"import sys; {code}; print(*[m for m in {names} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_the_package_loads_nothing() -> None:
    assert loaded_after("import codellama", ("numpy", "codellama.engine", *HEAVY)) == []


def test_importing_llm_loads_nothing_heavy() -> None:
    code = "from codellama import LLM, SamplingParams, CodeLlamaError"
    assert loaded_after(code, ("sentencepiece", "codellama._native", *HEAVY)) == []


def test_every_public_name_is_there() -> None:
    for name in codellama.__all__:
        assert getattr(codellama, name).__name__ == name
    assert set(codellama.__all__) <= set(dir(codellama))
    with pytest.raises(AttributeError, match="no attribute 'LLMM'"):
        codellama.LLMM  # noqa: B018
