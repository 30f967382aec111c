"""Low-rank adapters: a frozen model and a small difference to learn (LoRA, arXiv 2106.09685).

Every linear layer of the blocks becomes `W x + alpha / rank * up (down x)`. `up` starts at zero, so
that training starts from the model itself. With `base = "nf4"` W is kept in four bits (QLoRA,
arXiv 2305.14314): blocks of 64 values share a scale, and a value is one of the 16 quantiles of a
normal distribution. W is packed when it is read, unpacked when it is used, and never trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.errors import ConfigError
from codellama.model.transformer import Transformer
from codellama.train.recipe import Lora

BLOCK = 64
_TAIL = 0.9677083  # the outermost quantile: 1 - (1/30 + 1/32) / 2, QLoRA's choice


class Adapted(nn.Module):
    """A frozen linear layer with its difference: x [..., in] -> [..., out]."""

    def __init__(
        self, linear: nn.Linear, lora: Lora, generator: torch.Generator, device: torch.device | str
    ) -> None:
        super().__init__()
        n_out, n_in = linear.weight.shape
        if lora.base == "nf4" and n_in % BLOCK:
            raise ConfigError(f"lora: rows of {n_in} do not divide into blocks of {BLOCK} for nf4")
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        down = torch.empty(lora.rank, n_in).normal_(std=1 / math.sqrt(n_in), generator=generator)
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(n_out, lora.rank, device=device))
        self._scale = lora.alpha / lora.rank
        self._in_four_bits = lora.base == "nf4"

    def base(self) -> Tensor:
        """The frozen weight [out, in]."""
        if self.weight.dtype == torch.uint8:
            return unpack(self.weight, self.scales)
        return self.weight

    def take(self, weight: Tensor) -> None:
        """Makes `weight` the frozen one, in four bits where the recipe says so."""
        if self._in_four_bits:
            weight, self.scales = pack(weight)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def merged(self) -> Tensor:
        """The weight of one linear layer that does the same."""
        return self.base() + self._scale * self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.down), self.up)
        return F.linear(x, self.base().to(x.dtype)) + self._scale * low


def adapt(
    model: Transformer,
    lora: Lora,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> None:
    """Freezes `model` and puts an adapter at every linear layer of its blocks.

    The adapters lie on `device`. The model may be on the meta device, until `take` fills it.
    """
    for parameter in model.parameters():
        parameter.requires_grad = False
    for block in model.layers:
        for module in list(block.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Adapted(child, lora, generator, device))


def take(model: Transformer, weights: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Fills an adapted model with the weights it starts from, by our names.

    One at a time: where they are kept in four bits the whole of them is never on the device.
    """
    for name, weight in weights:
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, Adapted):
            module.take(weight.to(device))
        else:
            setattr(module, leaf, nn.Parameter(weight.to(device), requires_grad=False))
    model.tie()


def merged(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the plain model that does what the adapted one does, by our names."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Adapted)}
    for name, parameter in model.named_parameters():
        layer, _, part = name.rpartition(".")
        if layer not in layers:
            yield name, parameter.detach()
        elif part == "weight":
            yield name, layers[layer].merged().detach()


def levels() -> Tensor:
    """The sixteen values of nf4, rising, from -1 to 1; 0 is among them."""
    above = torch.special.ndtri(torch.linspace(_TAIL, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(_TAIL, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat((above, torch.zeros(1, dtype=torch.float64), below)).sort().values
    return (values / values.max()).float()


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> codes uint8 [out, in / 2], two to a byte, and scales [out, in / 64]."""
    blocks = weight.detach().reshape(len(weight), -1, BLOCK)
    scales = blocks.abs().amax(-1)
    unit = blocks / scales.clamp(min=1e-30)[..., None]
    values = levels().to(weight.device)
    borders = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(unit, borders).flatten(-2).to(torch.uint8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales


def unpack(codes: Tensor, scales: Tensor) -> Tensor:
    """What `pack` kept, as float32 [out, in]."""
    pairs = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    values = levels().to(codes.device)[pairs.int()].reshape(len(codes), -1, BLOCK)
    return (values * scales[..., None]).flatten(-2)
