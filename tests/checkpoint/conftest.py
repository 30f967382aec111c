"""Small checkpoints that tests change, damage or make."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints_tiny import write_hf, write_meta
from codellama.text.tokenizer import Tokenizer
from hostile import SMALLEST, Contents, contents
from hostile_gguf import model


@pytest.fixture
def smallest_hf(tmp_path: Path) -> Path:
    """The smallest model as a Hugging Face folder without a tokenizer."""
    return write_hf(tmp_path / "model", SMALLEST, tokenizer=False)


@pytest.fixture
def smallest_meta(tmp_path: Path) -> Path:
    """The smallest model as a folder of Meta's without a tokenizer."""
    return write_meta(tmp_path / "model", SMALLEST, tokenizer=False)


@pytest.fixture
def two_shards(tmp_path: Path) -> Path:
    """The tiny model as Meta's, in two files."""
    return write_meta(tmp_path / "two", n_shards=2, tokenizer=False)


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    """Where a GGUF file may be made."""
    return tmp_path / "x.gguf"


@pytest.fixture
def hand_made(gguf_path: Path) -> Path:
    """The smallest model as a GGUF file, field by field."""
    gguf_path.write_bytes(model().to_bytes())
    return gguf_path


@pytest.fixture
def expected(hand_made: Path) -> Contents:
    """What `hand_made` holds."""
    return contents(hand_made)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_model: Path) -> Tokenizer:
    return Tokenizer.open(tokenizer_model)


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    """Where a folder may be made."""
    return tmp_path / "made" / "model"
