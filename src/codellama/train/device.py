"""What a process computes on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from codellama.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """One process's device and the type it computes in."""

    device: torch.device
    bf16: bool = False

    @classmethod
    def of(cls, name: str, bf16: bool, local_rank: int = 0) -> Place:
        """The device called `name`; of several GPUs the one numbered `local_rank`.

        Raises:
            ConfigError: there is no such device here.
        """
        if name == "cpu":
            return cls(torch.device("cpu"), bf16)
        if not torch.cuda.is_available():
            raise ConfigError(
                'the recipe asks for device "cuda", and PyTorch finds none here',
                hint="use a PyTorch built for CUDA on a machine with a GPU, or pass --device cpu",
            )
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank} has no GPU of its own; there are "
                f"{torch.cuda.device_count()}",
                hint="start one process for each GPU with --nproc-per-node",
            )
        torch.cuda.set_device(local_rank)
        torch.set_float32_matmul_precision("high")
        return cls(torch.device("cuda", local_rank), bf16)

    def autocast(self) -> AbstractContextManager[None]:
        """Products in bfloat16 where the recipe wants it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def finish(self) -> None:
        """Waits until what was asked of the device is done, so that clocks tell the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
