"""Next-token loss, fused with the head.

The gradient of a softmax is known as soon as its probabilities are, so it is taken chunk by chunk
on the way forwards: logits live for one chunk, which stays in the processor's cache, and nothing of
their size is kept until the way back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100  # the label of a position that is not learned from
CHUNK = {"cpu": 256, "cuda": 4096}  # positions; logits of a chunk fit the cache of a CPU core


def summed_loss(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """Cross-entropy of `hidden @ head.T` against `labels`, summed over the learned positions.

    hidden [T, D], head [V, D], labels [T] -> a float32 scalar. Logits exist for `chunk` positions
    at a time. The products are taken in hidden's type, or autocast's, the softmax in float32.
    """
    size = chunk or CHUNK.get(hidden.device.type, 1024)
    if not torch.is_grad_enabled():
        return _losses(hidden, head, labels, size)
    return _Fused.apply(hidden, head, labels, size)  # type: ignore[no-untyped-call, no-any-return]


def _losses(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for rows, wanted in zip(torch.split(hidden, chunk), torch.split(labels, chunk), strict=True):
        logits = F.linear(rows, head).float()  # [chunk, V]
        total = total + F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
    return total


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            low = head.to(dtype)
            d_hidden = torch.zeros_like(hidden)
            d_head = torch.zeros_like(head, dtype=torch.float32)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            learned = (labels != IGNORED).nonzero().squeeze(1)
            for places in torch.split(learned, chunk):
                rows, wanted = hidden[places].to(dtype), labels[places][:, None]
                logits = (rows @ low.T).float()  # [chunk, V]
                said = F.log_softmax(logits, 1)
                total -= said.gather(1, wanted).sum()
                said.exp_().scatter_add_(1, wanted, said.new_full((), -1.0).expand_as(wanted))
                slope = said.to(dtype)
                d_hidden[places] = (slope @ low).to(d_hidden.dtype)
                d_head += slope.T @ rows
        ctx.save_for_backward(d_hidden, d_head.to(head.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * slope.to(d_hidden.dtype), d_head * slope.to(d_head.dtype), None, None
