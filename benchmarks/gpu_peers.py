"""Who runs beside us on a GPU: `transformers`, and a loop in the manner of gpt-fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.config import ModelConfig
from codellama.model.transformer import apply_rope, rope_angles
from codellama.runners.fused.weights import Kind


class Peer(Protocol):
    """Another program, of a model's shape and random weights of the kind asked for."""

    name: str

    def decode(self, n_sequences: int, before: int, n_tokens: int) -> None:
        """Greedy steps of one token for each sequence, behind `before` tokens in the cache."""
        ...

    def prefill(self, n_tokens: int) -> None:
        """One prompt."""
        ...


class Transformers:
    """`LlamaForCausalLM` with sdpa and a static cache, decoding compiled without overhead.

    In bfloat16 whatever the kind: it has no 8-bit or 4-bit weights of its own.
    """

    name = "transformers in bf16"

    def __init__(self, config: ModelConfig, kind: Kind, device: torch.device) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        self._device = device
        made = LlamaConfig(**config.to_hf())
        made._attn_implementation = "sdpa"
        with torch.device("meta"):
            model = LlamaForCausalLM(made).to(torch.bfloat16)
        self._model = model.to_empty(device=device).eval()
        for parameter in self._model.parameters():
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
        # Not a parameter, and so left empty.
        self._model.model.rotary_emb = type(self._model.model.rotary_emb)(made).to(device)
        self._kept: tuple[tuple[int, int], Any] = (0, 0), None
        self._step: Any = self._model.forward
        if device.type == "cuda":
            self._step = torch.compile(self._model.forward, mode="reduce-overhead", fullgraph=True)

    def decode(self, n_sequences: int, before: int, n_tokens: int) -> None:
        cache = self._cache(n_sequences, before + n_tokens)
        tokens = torch.zeros(n_sequences, 1, dtype=torch.long, device=self._device)
        for position in range(before, before + n_tokens):
            at = torch.tensor([position], device=self._device)
            found = self._step(
                input_ids=tokens, past_key_values=cache, cache_position=at, position_ids=at[None],
                use_cache=True,
            )  # fmt: skip
            tokens = found.logits[:, -1:].argmax(-1).clone()
        tokens.tolist()

    def prefill(self, n_tokens: int) -> None:
        tokens = torch.zeros(1, n_tokens, dtype=torch.long, device=self._device)
        cache = self._cache(1, n_tokens)
        self._model(input_ids=tokens, past_key_values=cache, logits_to_keep=1)

    def _cache(self, n_sequences: int, n: int) -> Any:
        """An empty one, in the same memory each time, or recorded steps could not be replayed."""
        from transformers import StaticCache

        if self._kept[0] != (n_sequences, n):
            self._kept = (n_sequences, n), StaticCache(config=self._model.config, max_cache_len=n)
        else:
            self._kept[1].reset()
        return self._kept[1]


class _Int8(nn.Module):
    """A linear layer of 8-bit weights with a scale for each row."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.abs().amax(1).float() / 127
        self.weight = (weight.float() / scale[:, None]).round().to(torch.int8)
        self.scale = scale.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


class _Int4(nn.Module):
    """A linear layer of 4-bit weights with a scale and a zero for a group of each row, by PyTorch's
    own product. The numbers are random, and only their deviation is the weight's."""

    _TILES = 8

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self._group = 128 if n_in % 128 == 0 else 32
        self._n_out = n_out
        q = torch.randint(0, 16, (n_out, n_in), dtype=torch.int32, device=weight.device)
        self._is_cuda = weight.device.type == "cuda"
        if self._is_cuda:
            pairs = (q[:, ::2] << 4 | q[:, 1::2]).to(torch.uint8)
            self._packed = torch.ops.aten._convert_weight_to_int4pack(pairs, self._TILES)
        else:
            self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, self._TILES)
        scales = torch.zeros(n_in // self._group, n_out, 2, dtype=torch.bfloat16, device=q.device)
        scales[..., 0] = n_in**-0.5 / 4.6  # the deviation of equally likely numbers
        self._scales = scales

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        multiply = torch.ops.aten._weight_int4pack_mm
        if not self._is_cuda:
            multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        out: Tensor = multiply(rows, self._packed, self._group, self._scales)
        return out.view(*x.shape[:-1], self._n_out)


class _Bf16(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


_LINEARS: dict[Kind, Callable[[Tensor], nn.Module]] = {
    Kind.PLAIN: _Bf16, Kind.INT8: _Int8, Kind.INT4: _Int4,
}  # fmt: skip


class GptFastStyle:
    """A plain decoder with joined projections and a static cache, compiled as a whole."""

    name = "gpt-fast style"

    def __init__(self, config: ModelConfig, kind: Kind, device: torch.device) -> None:
        self._config, self._device = config, device
        width = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        shapes = {
            "qkv": (width, config.dim),
            "out": (config.dim, config.n_heads * config.head_dim),
            "gate_up": (2 * config.ffn_dim, config.dim),
            "down": (config.dim, config.ffn_dim),
        }

        def linear(shape: tuple[int, int]) -> nn.Module:
            weight = torch.empty(shape, dtype=torch.bfloat16, device=device)
            return _LINEARS[kind](weight.normal_(std=shape[1] ** -0.5))

        self._layers = [
            {name: linear(shape) for name, shape in shapes.items()} for _ in range(config.n_layers)
        ]
        self._head = linear((config.vocab_size, config.dim))
        self._table = torch.randn(config.vocab_size, config.dim, device=device).bfloat16()
        self._gain = torch.ones(config.dim, dtype=torch.bfloat16, device=device)
        self._kept: tuple[tuple[int, int], list[tuple[Tensor, Tensor]]] = (0, 0), []
        self._step: Any = self._forward
        if device.type == "cuda":
            self._step = torch.compile(self._forward, mode="reduce-overhead", fullgraph=True)

    def decode(self, n_sequences: int, before: int, n_tokens: int) -> None:
        cache = self._cache(n_sequences, before + n_tokens)
        tokens = torch.zeros(n_sequences, 1, dtype=torch.long, device=self._device)
        for position in range(before, before + n_tokens):
            at = torch.tensor([position], device=self._device)
            tokens = self._step(tokens, at, cache).argmax(-1).clone()
        tokens.tolist()

    def prefill(self, n_tokens: int) -> None:
        tokens = torch.zeros(1, n_tokens, dtype=torch.long, device=self._device)
        at = torch.arange(n_tokens, device=self._device)
        self._forward(tokens, at, self._cache(1, n_tokens), is_prompt=True)

    def _cache(self, n_sequences: int, n: int) -> list[tuple[Tensor, Tensor]]:
        """The same memory each time, or recorded steps could not be replayed."""
        if self._kept[0] != (n_sequences, n):
            shape = (2, n_sequences, self._config.n_kv_heads, n, self._config.head_dim)
            layers = [
                torch.zeros(shape, dtype=torch.bfloat16, device=self._device).unbind(0)
                for _ in self._layers
            ]
            for tensor in (tensor for layer in layers for tensor in layer):
                torch._dynamo.mark_static_address(tensor)
            self._kept = (n_sequences, n), [(keys, values) for keys, values in layers]
        return self._kept[1]

    def _forward(
        self, tokens: Tensor, at: Tensor, cache: list[tuple[Tensor, Tensor]], *,
        is_prompt: bool = False,
    ) -> Tensor:  # fmt: skip
        """Logits [B, 1, vocab] behind tokens [B, T] at the positions `at` [T].

        A prompt is all that there is, and attends without a mask, which is quicker.
        """
        config = self._config
        heads = [config.n_heads, config.n_kv_heads, config.n_kv_heads]
        rope = rope_angles(at, config.head_dim, config.rope_theta)
        seen = torch.arange(cache[0][0].shape[2], device=at.device)
        mask = None if is_prompt else seen[None] <= at[:, None]
        x = self._table[tokens]
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            qkv = layer["qkv"](self._norm(x)).unflatten(-1, (-1, config.head_dim))
            q, k, v = qkv.split(heads, dim=2)
            q, k = apply_rope(q, rope).transpose(1, 2), apply_rope(k, rope).transpose(1, 2)
            v = v.transpose(1, 2)
            keys[:, :, at], values[:, :, at] = k, v
            seen_by = (k, v) if is_prompt else (keys, values)
            out = F.scaled_dot_product_attention(
                q, *seen_by, attn_mask=mask, is_causal=is_prompt,
                enable_gqa=heads[0] != heads[1],
            )  # fmt: skip
            x = x + layer["out"](out.transpose(1, 2).flatten(2))
            gate, up = layer["gate_up"](self._norm(x)).chunk(2, dim=-1)
            x = x + layer["down"](F.silu(gate) * up)
        logits: Tensor = self._head(self._norm(x[:, -1:]))
        return logits

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self._gain, self._config.norm_eps)
