"""Logits that stay on the device, and the sampling kernel that draws from them there."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codellama.runners.fused.memory import made_current
from codellama.runners.sampling import Floats, Ints, SamplingKernel

_NEVER = -1e28  # finite, because samplers take other numbers for a fault


class DeviceLogits:
    """Logits [R, vocab] on a device; see `HeldLogits`. They hold until the runner's next step."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def columns(self, n: int) -> Self:
        return type(self)(self.values[:, :n])

    def rows(self, rows: list[int]) -> Self:
        return type(self)(self.values[torch.tensor(rows, device=self.values.device)])

    @torch.inference_mode()  # in which the runner made them
    def allow(self, row: int, allowed: NDArray[np.bool_]) -> None:
        mask = torch.from_numpy(~allowed).to(self.values.device)
        self.values[row, : len(allowed)].masked_fill_(mask, _NEVER)
        self.values[row, len(allowed) :] = _NEVER

    def numpy(self) -> Floats:
        return self.values.float().to("cpu", copy=True).numpy()


class DeviceSampler:
    """Draws on the device what the CPU's kernel would draw from the same logits.

    A step with penalties for what was said needs whole histories, and goes to the CPU's kernel; so
    does a single row with a temperature, which should be copied and drawn from sooner than the
    device bisects. Biases are added on the device.

    Args:
        host: the CPU's kernel.
    """

    def __init__(self, host: SamplingKernel) -> None:
        self._host = host

    def sample(self, logits: Any, *settings: Any) -> tuple[Ints, Floats]:
        """See `engine.sampler.Kernel`; `logits` are `DeviceLogits`, or an array as there."""
        if not isinstance(logits, DeviceLogits):
            return self._host.sample(logits, *settings)
        (temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, counter,
         _, _, _, bias_ids, bias_values, bias_offsets) = settings  # fmt: skip
        is_penalised = (repetition != 1).any() or presence.any() or frequency.any()
        if is_penalised or (len(seed) == 1 and temperature[0] > 0):  # which is not measured yet
            return self._host.sample(np.ascontiguousarray(logits.numpy()), *settings)
        raw = values = logits.values
        device = values.device
        if len(bias_ids):
            rows = np.repeat(np.arange(len(bias_offsets) - 1), np.diff(bias_offsets))
            at = tuple(torch.from_numpy(i).to(device).long() for i in (rows, bias_ids))
            biases = torch.from_numpy(bias_values).to(device)
            values = values.float().index_put(at, biases, accumulate=True)
        sample = _body(device)
        floats = torch.from_numpy(np.stack([temperature, top_p, min_p])).to(device)
        whole = np.stack([seed.view(np.int64), counter.view(np.int64), top_k.astype(np.int64)])
        wholes = torch.from_numpy(whole).to(device)
        with made_current(device):
            ids, logprobs = sample(
                values, raw, temperature=floats[0], top_k=wholes[2].int(), top_p=floats[1],
                min_p=floats[2], seed=wholes[0], counter=wholes[1],
            )  # fmt: skip
        both = torch.stack([ids, logprobs.view(torch.int32)]).cpu().numpy()  # one wait for both
        return both[0], both[1].view(np.float32)

    def top_logprobs(self, logits: Any, k: int) -> tuple[Ints, Floats]:
        """See `engine.sampler.Kernel`."""
        if isinstance(logits, DeviceLogits):
            logits = np.ascontiguousarray(logits.numpy())
        return self._host.top_logprobs(logits, k)


def _body(device: torch.device) -> Any:
    if device.type == "cuda":
        from codellama.runners.triton.sampling import sample
    else:
        from codellama.runners.fused.sampling import sample
    return sample
