"""What a run has cost so far: arithmetic, hours, share of the peak, energy and carbon."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codellama.errors import ConfigError
from codellama.train.arithmetic import Device
from codellama.train.device import Place

# Dense bfloat16 peak and board power, from the makers' data sheets.
_KNOWN = {
    "H200": Device(name="H200", peak_tflops=989.0, watts=700.0),
    "H100 PCIe": Device(name="H100 PCIe", peak_tflops=756.0, watts=350.0),
    "H100": Device(name="H100", peak_tflops=989.0, watts=700.0),
    "A100": Device(),
}


def device_at(place: Place, watts: float | None = None) -> Device | None:
    """What is known of the device; None for a GPU that is not on the list.

    A processor's peak is measured, by one product of matrices, and its power is what `watts` says,
    or else 0: nothing here can read it.
    """
    if place.device.type == "cuda":
        name = torch.cuda.get_device_name(place.device)
        found = next((device for key, device in _KNOWN.items() if key in name), None)
        return replace(found, watts=watts or found.watts) if found is not None else None
    return Device(name="CPU", peak_tflops=_measured_tflops(place), watts=watts or 0.0)


def cost(log: Path, device: Device | None, n_devices: int = 1) -> dict[str, Any]:
    """The sums of a run's log. Steps that were done again after a crash count each time.

    `flop` is the model's own arithmetic, without what recomputation adds; `mfu` its share of what
    the devices could have done in the seconds of the steps. Energy is the devices' power over that
    time: an estimate, as in arXiv 2308.12950, without processors, memory and cooling.

    Raises:
        ConfigError: the log cannot be read.
    """
    tokens = n_steps = 0
    flop = seconds = 0.0
    try:
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["event"] == "step":
                learned = entry["tokens_per_s"] * entry["seconds"]
                tokens += round(learned)
                flop += learned * entry["flop_per_token"]
                seconds += entry["seconds"]
                n_steps += 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{log} is not the log of a run: {error!r}") from error
    hours = n_devices * seconds / 3600
    found: dict[str, Any] = {
        "steps": n_steps, "tokens": tokens, "flop": flop, "device_hours": hours,
        "tokens_per_s": tokens / seconds if seconds else 0.0,
    }  # fmt: skip
    if device is not None and seconds:
        found |= {"device": device.name, "devices": n_devices, "peak_tflops": device.peak_tflops,
                  "mfu": flop / (seconds * n_devices * device.peak_tflops * 1e12)}  # fmt: skip
        if device.watts:
            kwh = hours * device.watts / 1000
            found |= {"watts": device.watts, "kwh": kwh,
                      "kg_co2": 1000 * device.tonnes_co2(hours)}  # fmt: skip
    return found


def _measured_tflops(place: Place, n: int = 768) -> float:
    dtype = torch.bfloat16 if place.bf16 else torch.float32
    a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best / 1e12
