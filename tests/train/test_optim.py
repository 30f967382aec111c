"""The optimiser against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codellama.train.optim import MuonAdamW, orthogonalised


def _problem(*shape: int) -> tuple[nn.Parameter, nn.Parameter, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(*shape, generator=generator)
    gradients = [torch.randn(*shape, generator=generator) for _ in range(6)]
    return nn.Parameter(start.clone()), nn.Parameter(start.clone()), gradients


@pytest.mark.parametrize("shape", [(7, 5), (11,)])
def test_adamw_is_torchs(shape: tuple[int, ...]) -> None:
    ours, theirs, gradients = _problem(*shape)
    decay = 0.1 if len(shape) > 1 else 0.0  # vectors are spared
    mine = MuonAdamW([("norm.weight", ours)], kind="adamw", muon_lr=0.0, adamw_lr=0.01,
                     weight_decay=0.1)  # fmt: skip
    reference = torch.optim.AdamW([theirs], lr=0.005, betas=(0.9, 0.95), eps=1e-10,
                                  weight_decay=decay)  # fmt: skip
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step(0.5)
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_muon_is_torchs(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MuonAdamW, "momentum_start", 0.95)  # torch has no momentum warm-up
    ours, theirs, gradients = _problem(*shape)
    mine = MuonAdamW([("layers.0.mlp.up_proj.weight", ours)], kind="muon", muon_lr=0.04,
                     adamw_lr=0.0, weight_decay=0.05)  # fmt: skip
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.05, momentum=0.95)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step(0.5)
        reference.step()
    # Both run Newton-Schulz in bfloat16, ours on a stack: the last bits may differ.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8)])
def test_newton_schulz_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    update = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(update))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_stack_is_its_members() -> None:
    update = torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([orthogonalised(u[None]) for u in update])
    torch.testing.assert_close(orthogonalised(update), alone, rtol=0, atol=1e-2)


def test_muon_takes_the_blocks_matrices_only() -> None:
    parameters = {
        "embed_tokens.weight": nn.Parameter(torch.zeros(8, 4)),
        "layers.0.input_layernorm.weight": nn.Parameter(torch.zeros(4)),
        "layers.0.mlp.up_proj.weight": nn.Parameter(torch.zeros(6, 4)),
    }
    state = MuonAdamW(parameters.items(), kind="muon", muon_lr=1.0, adamw_lr=1.0,
                      weight_decay=0.0).state()  # fmt: skip
    assert {name for name in state if name.endswith(".momentum")} == {
        "layers.0.mlp.up_proj.weight.momentum"
    }
