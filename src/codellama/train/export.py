"""Trained weights -> a checkpoint folder that every part of the package opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from codellama.checkpoint.reader import GenerationDefaults
from codellama.checkpoint.save import Dtype, save_hf
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor
from codellama.text.tokenizer import Tokenizer
from codellama.train.batch import model_config
from codellama.train.recipe import CHAT, Recipe


def final_config(recipe: Recipe, n_stages: int | None = None) -> ModelConfig:
    """Sizes of the model after the first `n_stages` stages (default: all).

    The context is the longest of the stages that trained with the last stage's rotary base, and at
    least the recipe's `context`: a later, shorter stage does not take it away.
    """
    stages = recipe.stages[:n_stages]
    last = stages[-1]
    longest = max(s.row_length for s in stages if s.rope_theta == last.rope_theta)
    return replace(model_config(recipe, last), max_seq_len=max(longest, recipe.context))


def export(
    recipe: Recipe,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    dst: Path,
    *,
    n_stages: int | None = None,
    dtype: Dtype = "BF16",
) -> None:
    """Writes `weights` (our names, float32) as a Hugging Face folder, replacing an older one.

    Raises:
        CheckpointError: tensors are missing, or the folder cannot be written.
    """
    stages = recipe.stages[:n_stages]
    has_chat = any(CHAT in stage.mix for stage in stages)
    save_hf(
        dst,
        final_config(recipe, n_stages),
        _tensors(weights),
        tokenizer,
        generation=GenerationDefaults(bos_id=tokenizer.bos_id, eos_ids=(tokenizer.eos_id,)),
        chat_form="inst" if has_chat else None,
        dtype=dtype,
        overwrite=True,
    )


def _tensors(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, weight in weights.items():
        array = weight.detach().float().contiguous().numpy()
        yield name, Tensor(Format.F32, array.shape, array.reshape(-1).view("uint8"))
