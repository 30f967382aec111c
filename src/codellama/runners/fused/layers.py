"""The pass that gives a finished model layers of few, large steps.

`Transformer` never learns of it: its blocks and its last norm are replaced by ones that hand a
`Stream` on to each other where the model hands on a tensor, and that take `Paged` for attention.
Projections of the same input are joined: queries, keys and values, and gates and ups.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.model.transformer import Rope, Transformer
from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Paged
from codellama.runners.fused.kernels import Kernels, Norm, Stream
from codellama.runners.fused.weights import Dense, Matrix, Placed, Weight, joined

# Joined weights, and what they are made of in the order of their rows.
_JOINTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = {"before": "input_layernorm", "between": "post_attention_layernorm"}


class FusedBlock(nn.Module):
    """One decoder layer over a paged cache."""

    def __init__(
        self, config: ModelConfig, kernels: Kernels, weights: dict[str, Weight],
        norms: dict[str, Norm],
    ) -> None:  # fmt: skip
        super().__init__()
        self._n_heads = config.n_heads
        self._kernels = kernels
        self._weights = weights
        self._norms = norms

    def forward(self, x: Tensor | Stream, rope: Rope, paged: Paged, cache: LayerCache) -> Stream:
        do, weights, norms = self._kernels, self._weights, self._norms
        stream = x if isinstance(x, Stream) else Stream(x)
        qkv = do.project(stream, norms["before"], weights["qkv"])
        q = do.rotate_and_store(qkv, rope, paged.slots, cache, self._n_heads)
        do.add(stream, do.attend(q, cache, paged).flatten(1), weights["out"])
        hidden = do.gate(stream, norms["between"], weights["gate_up"])
        do.add(stream, hidden, weights["down"])
        return stream


class FusedNorm(nn.Module):
    """The norm after the last layer."""

    def __init__(self, kernels: Kernels, norm: Norm) -> None:
        super().__init__()
        self._kernels, self._norm = kernels, norm

    def forward(self, stream: Stream) -> Tensor:
        return self._kernels.norm(stream, self._norm)


class _Embedding(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self._values = values

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self._values)


class Head(nn.Module):
    """The output projection."""

    def __init__(self, kernels: Kernels, weight: Weight) -> None:
        super().__init__()
        self._kernels, self._weight = kernels, weight

    def forward(self, hidden: Tensor) -> Tensor:
        return self._kernels.product(hidden, self._weight)


def fused(config: ModelConfig, parameters: Iterable[Placed], kernels: Kernels) -> Transformer:
    """A model with fused layers, filled from parameters as they go by.

    Args:
        parameters: each once, by name and on the device: matrices, and as plain tensors the
            embeddings and the norms' gains, whose type is that of the activations.

    Raises:
        CheckpointError: a parameter is missing or was given twice.
    """
    with torch.device("meta"):
        model = Transformer(config)
    due = set(config.tensor_shapes())
    parts: dict[str, Matrix] = {}
    plain: dict[str, Tensor] = {}
    blocks: dict[int, FusedBlock] = {}
    for name, value in parameters:
        if name not in due:
            raise CheckpointError(f"{name} was given twice, or no such model has it")
        due.remove(name)
        if isinstance(value, Tensor):
            plain[name] = value
        else:
            parts[name.removesuffix(".weight")] = value
        layer = _layer_of(name)
        if layer is not None and layer not in blocks:
            block = _block(layer, config, kernels, parts, plain)
            if block is not None:
                blocks[layer] = block
    if due:
        raise CheckpointError(f"the reader left out {', '.join(sorted(due))}")
    embeddings = plain["embed_tokens.weight"]
    head = Dense(embeddings) if config.tie_embeddings else parts["lm_head"]
    for name, module in (
        ("embed_tokens", _Embedding(embeddings)),
        ("layers", nn.ModuleList(blocks[i] for i in range(config.n_layers))),
        ("norm", FusedNorm(kernels, Norm(plain["norm.weight"], config.norm_eps))),
        ("lm_head", Head(kernels, (head,))),
    ):
        model.add_module(name, module)
    return model.eval()


def _layer_of(name: str) -> int | None:
    words = name.split(".")
    return int(words[1]) if words[0] == "layers" else None


def _block(
    layer: int,
    config: ModelConfig,
    kernels: Kernels,
    parts: dict[str, Matrix],
    plain: dict[str, Tensor],
) -> FusedBlock | None:
    """The layer if all of it is there; takes what it is made of, so that nothing is kept twice."""
    at = f"layers.{layer}."
    needed = [at + name for names in _JOINTS.values() for name in names]
    gains = {key: f"{at}{name}.weight" for key, name in _NORMS.items()}
    if not (all(name in parts for name in needed) and all(g in plain for g in gains.values())):
        return None
    weights = {
        joint: joined([parts.pop(at + name) for name in names]) for joint, names in _JOINTS.items()
    }
    norms = {key: Norm(plain.pop(name), config.norm_eps) for key, name in gains.items()}
    return FusedBlock(config, kernels, weights, norms)
