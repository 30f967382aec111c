"""Rows -> tensors -> the loss of a model that a recipe describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.model.transformer import AttentionMetadata, Transformer
from codellama.train.data import Row
from codellama.train.loss import summed_loss
from codellama.train.recipe import Recipe, Stage


def model_config(recipe: Recipe, stage: Stage) -> ModelConfig:
    """The model of a recipe with the context and rotary base of one of its stages."""
    return ModelConfig(
        **asdict(recipe.model), max_seq_len=stage.row_length, rope_theta=stage.rope_theta
    )


def batch_tensors(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """tokens, positions and labels [B * L] and the attention mask [B, 1, L, L] of some rows."""
    tokens, positions, labels, document = (
        torch.stack([torch.from_numpy(getattr(row, name)) for row in rows])
        for name in ("tokens", "positions", "labels", "document")
    )
    mask = (document[:, :, None] == document[:, None, :]).tril()[:, None]
    return tokens.flatten(), positions.flatten(), labels.flatten(), mask


def batch_loss(
    model: Transformer, tokens: Tensor, positions: Tensor, labels: Tensor, mask: Tensor
) -> Tensor:
    """The loss of rows, summed over what is learned from; see `batch_tensors`."""
    attn = AttentionMetadata(starts=(), row_length=mask.shape[-1], mask=mask)
    hidden = model(tokens, positions, attn)
    return summed_loss(hidden, model.lm_head.weight, labels)
