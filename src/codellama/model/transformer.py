"""The Code Llama decoder, top to bottom.

Shapes: T tokens in the flat batch, D dim, H query heads, K key/value heads, E head_dim, F ffn_dim.
A batch is one row of T tokens: sequences lie end to end, `attn` says where each one starts.
Module names are Hugging Face's without the `model.` prefix. The model has parameters and no
buffers: rotary angles come from the positions at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.config import ModelConfig

Rope = tuple[Tensor, Tensor]


class Attends(Protocol):
    """Causal attention within sequences that it knows the places of."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class AttentionMetadata:
    """Where sequences lie in the flat batch.

    Without a cache a sequence sees itself only: `starts` is enough. When all sequences have the
    same length, `row_length` lets attention run over all of them at once, and `mask`, [B, 1, L, L]
    and true where a query may look, then tells documents that share a row apart. Where the batch
    holds a stretch of each row only, `whole_rows` makes the stretches' keys [B, K, l, E] those of
    the whole rows. `within`, where it is there, does all of this some faster way.

    With a cache, `slots` [T] says where each token's key and value are stored, and `context_slots`
    holds for every sequence the slots of its positions 0, 1, ... up to its last token.
    """

    starts: tuple[int, ...]  # S + 1 offsets into the flat batch
    row_length: int | None = None
    mask: Tensor | None = None
    whole_rows: Callable[[Tensor], Tensor] | None = None
    within: Attends | None = None
    slots: Tensor | None = None
    context_slots: Sequence[Tensor] = ()


@dataclass(frozen=True)
class KV:
    """One layer's cache: keys and values by slot, each [n_slots, K, E]."""

    k: Tensor
    v: Tensor


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight


def rope_angles(positions: Tensor, head_dim: int, theta: float) -> Rope:
    """Cosines and sines [T, 1, E/2] of every position's rotation, in float32.

    The order of operations is the reference's: at position 16,000 one rounding more would turn
    the fastest pairs by a thousandth of a radian.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = 1.0 / theta ** (exponents / head_dim)
    angles = positions.float()[:, None] * frequencies
    return angles.cos()[:, None], angles.sin()[:, None]


def apply_rope(x: Tensor, rope: Rope) -> Tensor:
    """Rotates the pairs (i, i + E/2) of x [T, heads, E]; in float32, as the reference does."""
    cos, sin = rope
    first, second = x.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, attn: AttentionMetadata, kv: KV | None) -> Tensor:
    """Causal attention within each sequence: q [T, H, E], k and v [T, K, E] -> [T, H, E]."""
    if attn.within is not None:
        return attn.within.attend(q, k, v)
    if attn.row_length is not None:
        q, k, v = (t.view(-1, attn.row_length, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))
        if attn.whole_rows is not None:
            k, v = attn.whole_rows(k), attn.whole_rows(v)
        out = _sdpa(q, k, v, mask=attn.mask)  # [B, H, L, E]
        return out.transpose(1, 2).flatten(0, 1)
    outs = []
    if kv is not None:
        assert attn.slots is not None, "a cache needs slots"
        kv.k[attn.slots], kv.v[attn.slots] = k, v
    for s, (a, b) in enumerate(pairwise(attn.starts)):
        mask = None
        keys, values = k[a:b], v[a:b]
        if kv is not None:
            seen = attn.context_slots[s]
            keys, values = kv.k[seen], kv.v[seen]
            mask = _causal(b - a, len(seen), q.device)
        parts = (t.transpose(0, 1)[None] for t in (q[a:b], keys, values))
        outs.append(_sdpa(*parts, mask=mask)[0].transpose(0, 1))
    return torch.cat(outs)


def _causal(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """True where a query may look, when the queries are the last of the keys' positions."""
    keys = torch.arange(n_keys, device=device)
    return keys[None] <= keys[n_keys - n_queries :, None]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )


class Attention(nn.Module):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        self.q_proj = nn.Linear(cfg.dim, cfg.n_heads * cfg.head_dim, bias=False)
        self.k_proj = nn.Linear(cfg.dim, cfg.n_kv_heads * cfg.head_dim, bias=False)
        self.v_proj = nn.Linear(cfg.dim, cfg.n_kv_heads * cfg.head_dim, bias=False)
        self.o_proj = nn.Linear(cfg.n_heads * cfg.head_dim, cfg.dim, bias=False)

    def forward(self, x: Tensor, rope: Rope, attn: AttentionMetadata, kv: KV | None) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))  # [T, H, E]
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))  # [T, K, E]
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))  # [T, K, E]
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        out = attend(q, k, v, attn, kv)  # [T, H, E]; stores k, v when kv is given
        return self.o_proj(out.flatten(-2))  # type: ignore[no-any-return]  # modules return Any


class FeedForward(nn.Module):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.dim, cfg.ffn_dim, bias=False)
        self.up_proj = nn.Linear(cfg.dim, cfg.ffn_dim, bias=False)
        self.down_proj = nn.Linear(cfg.ffn_dim, cfg.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)  # [T, F]
        return self.down_proj(hidden)  # type: ignore[no-any-return]  # modules return Any


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.mlp = FeedForward(cfg)

    def forward(self, x: Tensor, rope: Rope, attn: AttentionMetadata, kv: KV | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, attn, kv)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]  # Any in a library's stubs


class Transformer(nn.Module):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.norm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.lm_head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Makes head and embedding one parameter, where the configuration says so."""
        if self.cfg.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attn: AttentionMetadata,
        cache: Sequence[KV] | None = None,
    ) -> Tensor:
        """Hidden states [T, D]. Apply `lm_head` to the rows you need logits for."""
        rope = rope_angles(positions, self.cfg.head_dim, self.cfg.rope_theta)
        x = self.embed_tokens(tokens)
        for block, kv in zip(self.layers, cache or repeat(None), strict=False):
            x = block(x, rope, attn, kv)
        return self.norm(x)  # type: ignore[no-any-return]  # modules return Any


def initial_weights(
    model: Transformer, generator: torch.Generator | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(name, whole float32 tensor) of each parameter in turn: normal(0, 0.02).

    Matrices that write to the residual stream are scaled down by depth; norms are ones. Only shapes
    are asked of the model, so it may have no storage yet, or a part of it.
    """
    residual_std = 0.02 / (2 * model.cfg.n_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            yield name, torch.ones(parameter.shape)
            continue
        writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = residual_std if writes_residual else 0.02
        yield name, torch.empty(parameter.shape).normal_(std=std, generator=generator)
