"""The chunked loss against torch's cross-entropy over all positions at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from codellama.train.loss import IGNORED, avoided, summed_loss


@pytest.mark.parametrize("chunk", [1, 7, 32, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(33, 8, generator=generator, requires_grad=True)
    head = torch.randn(20, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 20, (33,), generator=generator)
    labels[::4] = IGNORED
    plain = F.cross_entropy(hidden @ head.T, labels, reduction="sum", ignore_index=IGNORED)
    wanted = torch.autograd.grad(plain, (hidden, head))
    ours = summed_loss(hidden, head, labels, chunk)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(torch.autograd.grad(ours, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_nothing_to_learn_is_zero() -> None:
    labels = torch.full((5,), IGNORED)
    assert summed_loss(torch.randn(5, 4), torch.randn(9, 4), labels) == 0


@pytest.mark.parametrize("chunk", [7, 100])
def test_avoided_labels_are_learned_against(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(33, 8, generator=generator, requires_grad=True)
    head = torch.randn(20, 8, generator=generator, requires_grad=True)
    pieces = torch.randint(0, 20, (33,), generator=generator)
    labels = pieces.clone()
    labels[::3] = torch.from_numpy(avoided(pieces[::3].numpy()))
    p = torch.softmax(hidden @ head.T, 1).gather(1, pieces[:, None]).squeeze(1)
    weight = torch.arange(33) % 3 == 0
    plain = -torch.where(weight, torch.log(1 - p), torch.log(p)).sum()
    wanted = torch.autograd.grad(plain, (hidden, head))
    ours = summed_loss(hidden, head, labels, chunk)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(torch.autograd.grad(ours, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(summed_loss(hidden, head, labels, chunk), plain)


def test_a_certain_piece_can_be_avoided() -> None:
    hidden, head = torch.full((1, 1), 50.0, requires_grad=True), torch.tensor([[1.0], [-1.0]])
    summed_loss(hidden, head, torch.from_numpy(avoided(np.array([0])))).backward()  # type: ignore[no-untyped-call]  # torch's own
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()
