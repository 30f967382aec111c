"""The chunked loss against torch's cross-entropy over all positions at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from codellama.train.loss import IGNORED, summed_loss


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
