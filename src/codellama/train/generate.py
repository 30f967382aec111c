"""Sampling from the torch model during training, without a cache: for measures, not for use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from codellama.model.transformer import KV, AttentionMetadata, Transformer


@torch.no_grad()
def sample(
    model: Transformer,
    prompt: Sequence[int],
    *,
    stop_ids: frozenset[int],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
    should_stop: Callable[[list[int]], bool] = lambda _: False,
) -> list[int]:
    """The ids that follow `prompt`, without the stop id; greedy at temperature 0.

    Prompt and answer together stay within the model's context.
    """
    cfg = model.cfg
    n_slots = min(len(prompt) + max_tokens, cfg.max_seq_len)
    cache = [
        KV(*(torch.zeros(n_slots, cfg.n_kv_heads, cfg.head_dim) for _ in range(2)))
        for _ in range(cfg.n_layers)
    ]
    ids = list(prompt)
    done = 0
    out: list[int] = []
    while len(ids) < n_slots:
        slots = torch.arange(done, len(ids))
        attn = AttentionMetadata(
            starts=(0, len(ids) - done), slots=slots, context_slots=[torch.arange(len(ids))]
        )
        hidden = model(torch.tensor(ids[done:]), slots, attn, cache)
        logits = model.lm_head(hidden[-1])
        done = len(ids)
        if temperature == 0:
            token = int(logits.argmax())
        else:
            chances = torch.softmax(logits / temperature, -1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        if token in stop_ids:
            break
        ids.append(token)
        out.append(token)
        if should_stop(out):
            break
    return out
