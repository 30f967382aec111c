"""Attention of documents laid side by side is that of each document alone."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from codellama.model.transformer import AttentionMetadata, attend
from codellama.train import attention
from codellama.train.attention import Documents

SIZES = (1, 31, 33, 0, 64, 2, 97, 130, 48, 32)


def _tensors(dtype: torch.dtype, n_kv_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    sides = (4, n_kv_heads, n_kv_heads)
    made = [torch.randn(sum(SIZES), n, 16, generator=generator).to(dtype) for n in sides]
    return [tensor.requires_grad_() for tensor in made]


@pytest.mark.parametrize("largest", [768, 60, 0], ids=["grouped", "some", "none"])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_side_by_side_is_each_alone(
    monkeypatch: pytest.MonkeyPatch,
    largest: int,
    n_kv_heads: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    monkeypatch.setattr(attention, "_LARGEST", largest)
    starts = tuple(accumulate(SIZES, initial=0))
    slope = torch.randn(sum(SIZES), 4, 16, generator=torch.Generator().manual_seed(4))
    found = []
    for kind, within in ((dtype, Documents(starts)), (torch.float32, None)):
        parts = [t.detach().to(kind).requires_grad_() for t in _tensors(dtype, n_kv_heads)]
        spans = tuple(dict.fromkeys(starts))  # one by one, empty documents have no kernel
        out = attend(*parts, AttentionMetadata(starts=spans, within=within), None)
        assert out.dtype == kind
        out.backward(slope.to(kind))
        grads = [t.grad for t in parts]
        assert all(grad is not None for grad in grads)
        found.append([out.detach().float(), *(grad.float() for grad in grads if grad is not None)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_empty_places_say_nothing() -> None:
    """What stands behind a document, and is laid into its empty places, has no gradient from it."""
    q, k, v = _tensors(torch.float32, 4)
    out = Documents(tuple(accumulate(SIZES, initial=0))).attend(q, k, v)
    out[:1].sum().backward()
    assert k.grad is not None
    assert v.grad is not None
    assert not v.grad[1:].any()
    assert not k.grad[1:].any()
