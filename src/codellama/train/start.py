"""The weights a run starts from: those of a checkpoint, in place of random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from codellama.checkpoint.reader import Reader
from codellama.errors import ConfigError
from codellama.train.batch import model_config
from codellama.train.recipe import Recipe

_MAX_PIECES_APART = 64  # between the vocabularies of a model and of what starts from it
_SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "norm_eps",
          "tie_embeddings")  # fmt: skip


def starting_weights(
    reader: Reader, recipe: Recipe, note: Callable[[str], None]
) -> Iterator[tuple[str, Tensor]]:
    """(our name, float32 tensor) of every weight of a checkpoint, for a model of `recipe`.

    Vocabularies may differ by a few pieces at the end, as Llama 2's and Code Llama's do: rows too
    many are left out, rows too few become the mean of the others.

    Raises:
        ConfigError: the checkpoint's sizes are not the recipe's.
    """
    ours = model_config(recipe, recipe.stages[0])
    for name in _SIZES:
        found, wanted = getattr(reader.config, name), getattr(ours, name)
        if found != wanted:
            raise ConfigError(
                f"{reader.path}: `{name}` is {found}, and {recipe.name} has {wanted}",
                hint="use a recipe of the model's own sizes",
            )
    theirs = reader.config.vocab_size
    if abs(theirs - ours.vocab_size) > _MAX_PIECES_APART:
        raise ConfigError(
            f"{reader.path}: a vocabulary of {theirs}, and {recipe.name} has {ours.vocab_size}",
            hint="train with the tokenizer of the model",
        )
    note(f"starts from the weights of {reader.path}")
    if reader.config.rope_theta != ours.rope_theta:
        note(f"its rotary base of {reader.config.rope_theta:g} becomes {ours.rope_theta:g}")
    if theirs != ours.vocab_size:
        note(f"its vocabulary of {theirs} becomes one of {ours.vocab_size}")
    for name, tensor in reader.tensors():
        weight = torch.from_numpy(tensor.to_float32().copy())
        if name in ("embed_tokens.weight", "lm_head.weight"):
            weight = _with_rows(weight, ours.vocab_size)
        yield name, weight


def _with_rows(matrix: Tensor, n: int) -> Tensor:
    """The first `n` rows; when there are fewer, the mean row fills up."""
    if len(matrix) < n:
        matrix = torch.cat((matrix, matrix.mean(0).expand(n - len(matrix), -1)))
    return matrix[:n]
