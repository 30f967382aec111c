"""One tiny random model, in all three formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints_tiny import (
    TINY,
    Weights,
    tiny_sentencepiece,
    tiny_weights,
    write_gguf,
    write_hf,
    write_meta,
)
from codellama.model.config import ModelConfig


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return TINY


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The tiny model's weights by our names; F16 and BF16 hold them exactly."""
    return tiny_weights()


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in F32. Shared: do not change it."""
    return write_hf(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="session")
def meta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as Meta would have released it, in BF16. Shared: do not change it."""
    return write_meta(tmp_path_factory.mktemp("meta"))


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as GGUF, in F32. Shared: do not change it."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's tokenizer.model."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(tiny_sentencepiece())
    return path
