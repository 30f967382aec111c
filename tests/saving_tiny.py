"""The tiny model saved, for tests of what saving leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints_tiny import Weights, tiny_config, tiny_weights
from codellama.checkpoint.reader import GenerationDefaults
from codellama.checkpoint.save import save_hf
from codellama.quant.formats import Format, Tensor
from codellama.text.tokenizer import Tokenizer


def as_tensors(weights: Weights, format: Format = Format.F32) -> dict[str, Tensor]:
    return {name: Tensor.from_float32(x, format) for name, x in weights.items()}


def save_tiny(dst: Path, tokenizer: Tokenizer, **changes: Any) -> tuple[str, ...]:
    """`save_hf` of the tiny model."""
    given = {
        "config": tiny_config(),
        "tensors": as_tensors(tiny_weights()).items(),
        "tokenizer": tokenizer,
        "generation": GenerationDefaults(bos_id=1, eos_ids=(2,)),
        "chat_form": None,
    } | changes
    return save_hf(dst, **given)


def only(folder: Path) -> list[str]:
    """The names of all that is in a folder."""
    return sorted(path.name for path in folder.iterdir())
