"""Muon for the blocks' matrices, AdamW for embeddings and norms, as one optimiser.

Muon (Keller Jordan et al., 2024): momentum, then five Newton-Schulz steps that push the update's
singular values towards one. Matrices of one shape are stacked, so that a step is a few batched
products; sharded ones are gathered first, and every process does the same. AdamW: Loshchilov and
Hutter, arXiv 1711.05101.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from codellama.train.parallel import like, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(updates: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz on a stack [N, rows, cols], in bfloat16; singular values end near one."""
    a, b, c = _COEFFICIENTS
    x: Tensor = updates.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.mT if tall else x
    return x.to(updates.dtype)


class MuonAdamW:
    """One step over named parameters; the state is a flat dictionary of tensors.

    `kind` "adamw" puts every parameter under AdamW. Weight decay is decoupled and spares vectors.
    """

    momentum_start, momentum, momentum_steps = 0.85, 0.95, 300
    betas = (0.9, 0.95)

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        kind: str,
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float,
        eps: float = 1e-10,
    ) -> None:
        self.muon_lr, self.adamw_lr, self.weight_decay = muon_lr, adamw_lr, weight_decay
        self.eps = eps
        self.steps = 0
        self._adamw: dict[str, nn.Parameter] = {}
        self._muon: dict[tuple[int, ...], dict[str, nn.Parameter]] = defaultdict(dict)
        self._state: dict[str, Tensor] = {}
        for name, parameter in parameters:
            if kind == "muon" and parameter.dim() == 2 and name.startswith("layers."):
                self._muon[tuple(parameter.shape)][name] = parameter
                self._state[f"{name}.momentum"] = torch.zeros_like(parameter)
            else:
                self._adamw[name] = parameter
                for part in ("mean", "square"):
                    self._state[f"{name}.{part}"] = torch.zeros_like(parameter)

    def state(self) -> dict[str, Tensor]:
        """The live state tensors, by name; writing into them restores a saved state."""
        return self._state

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Applies the gradients with both learning rates multiplied by `factor`."""
        self.steps += 1
        warm = min(self.steps / self.momentum_steps, 1.0)
        momentum = self.momentum_start + (self.momentum - self.momentum_start) * warm
        for shape, group in self._muon.items():
            updates = []
            for name, parameter in group.items():
                assert parameter.grad is not None, f"{name} has no gradient"
                buffer = self._state[f"{name}.momentum"]
                buffer.lerp_(parameter.grad, 1 - momentum)
                updates.append(whole(parameter.grad.lerp(buffer, momentum)))  # Nesterov
            lr = self.muon_lr * factor
            scale = lr * max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, update in zip(
                group.values(), orthogonalised(torch.stack(updates)), strict=True
            ):
                parameter.mul_(1 - lr * self.weight_decay)
                parameter.sub_(like(update, parameter), alpha=scale)
        lr = self.adamw_lr * factor
        beta1, beta2 = self.betas
        for name, parameter in self._adamw.items():
            assert parameter.grad is not None, f"{name} has no gradient"
            mean, square = self._state[f"{name}.mean"], self._state[f"{name}.square"]
            mean.lerp_(parameter.grad, 1 - beta1)
            square.lerp_(parameter.grad.square(), 1 - beta2)
            if parameter.dim() > 1:
                parameter.mul_(1 - lr * self.weight_decay)
            root = (square / (1 - beta2**self.steps)).sqrt_().add_(self.eps)
            parameter.addcdiv_(mean, root, value=-lr / (1 - beta1**self.steps))
