"""Next-token loss, fused with the head.

The gradient of a softmax is known as soon as its probabilities are, so it is taken chunk by chunk
on the way forwards: logits live for one chunk, which stays in the processor's cache, and nothing of
their size is kept until the way back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100  # the label of a position that is not learned from
_AVOIDED = -1000
CHUNK = {"cpu": 256, "cuda": 4096}  # positions; logits of a chunk fit the cache of a CPU core


def avoided(pieces: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels of positions where these pieces are to become unlikely."""
    return _AVOIDED - pieces


def summed_loss(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """Cross-entropy of `hidden @ head.T` against `labels`, summed over the learned positions.

    hidden [T, D], head [V, D], labels [T] -> a float32 scalar. Logits exist for `chunk` positions
    at a time. The products are taken in hidden's type, or autocast's, the softmax in float32. Where
    a label is an `avoided` one, -log(1 - p) takes the place of -log(p) (arXiv 1908.04319).
    """
    size = chunk or CHUNK.get(hidden.device.type, 1024)
    if not torch.is_grad_enabled():
        return _losses(hidden, head, labels, size)
    return _Fused.apply(hidden, head, labels, size)  # type: ignore[no-untyped-call, no-any-return]  # torch's own, untyped


def _losses(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for rows, wanted in zip(torch.split(hidden, chunk), torch.split(labels, chunk), strict=True):
        logits = F.linear(rows, head).float()  # [chunk, V]
        pieces, against = _pieces(wanted)
        said = -F.cross_entropy(logits, pieces, ignore_index=IGNORED, reduction="none")
        total = total - torch.where(against, _log_of_rest(said), said).sum()
    return total


def _pieces(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pieces that labels name, and which of them are avoided."""
    against = labels <= _AVOIDED
    return torch.where(against, _AVOIDED - labels, labels), against


def _log_of_rest(log_p: Tensor) -> Tensor:
    """log(1 - p), with p at most 0.9999."""
    return torch.log1p(-log_p.exp().clamp(max=1 - 1e-4))


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
                rows = hidden[places].to(dtype)
                wanted, against = (t[:, None] for t in _pieces(labels[places]))
                logits = (rows @ low.T).float()  # [chunk, V]
                said = F.log_softmax(logits, 1)
                log_p = said.gather(1, wanted)
                rest = _log_of_rest(log_p)
                total -= torch.where(against, rest, log_p).sum()
                said.exp_().scatter_add_(1, wanted, said.new_full((), -1.0).expand_as(wanted))
                said *= torch.where(against, -(log_p - rest).exp(), 1.0)
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
