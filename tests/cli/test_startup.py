"""What a verb does not need is not loaded: that is what makes the first token quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch", "transformers", "tokenizers", "huggingface_hub", "prompt_toolkit", "pygments",
    "hypothesis", "importlib.metadata", "asyncio", "urllib.request", "ssl", "pydantic", "starlette",
    "uvicorn", "httptools", "llguidance", "codellama.server",
)  # fmt: skip
CODE = """
import json, sys
from codellama.cli.main import main
try:
    code = main(sys.argv[2:])
except SystemExit as leaving:
    code = leaving.code
found = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print(json.dumps([code, found]), file=sys.stderr)
"""


def loaded(*arguments: str | Path, of: tuple[str, ...] = HEAVY) -> list[str]:
    """Those modules of `of` that a successful command line has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(of), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, found = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    assert done.stdout
    return list(found)


def test_complete_and_infill_load_nothing_heavy(hf_folder: Path) -> None:
    flags = ("--model", hf_folder, "--max-tokens", "2", "--threads", "1")
    assert loaded("complete", "def", *flags) == []
    assert loaded("infill", "--prefix", "def", "--suffix", "x", *flags) == []
    assert loaded("complete", "def", "--max-tokens", "2") == []  # nano


def test_a_single_question_loads_nothing_of_a_conversation(hf_folder: Path) -> None:
    flags = ("--model", hf_folder, "--max-tokens", "2", "--threads", "1", "--chat-form", "inst")
    assert loaded("chat", "def", *flags) == []


def test_info_and_models_load_nothing_heavy(hf_folder: Path) -> None:
    assert loaded("info", hf_folder) == []
    assert loaded("models") == []


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_loads_no_numpy(arguments: tuple[str, ...]) -> None:
    found = loaded(*arguments, of=("numpy", "codellama.engine", "codellama.checkpoint", *HEAVY))
    assert found in ([], ["importlib.metadata"])


@pytest.mark.parametrize(
    "verb", ["complete", "infill", "chat", "serve", "info", "models", "convert", "bench"]
)
def test_help_of_a_verb_loads_no_engine(verb: str) -> None:
    assert loaded(verb, "--help", of=("codellama.engine", "codellama.checkpoint", *HEAVY)) == []
