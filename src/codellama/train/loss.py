"""Next-token loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a position that is not learned from


def summed_loss(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int = 2048) -> Tensor:
    """Cross-entropy of `hidden @ head.T` against `labels`, summed over the learned positions.

    hidden [T, D], head [V, D], labels [T] -> a float32 scalar. Logits exist for `chunk` positions
    at a time and the softmax is taken in float32.
    """
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for rows, wanted in zip(torch.split(hidden, chunk), torch.split(labels, chunk), strict=True):
        logits = F.linear(rows, head).float()  # [chunk, V]
        total = total + F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
    return total
