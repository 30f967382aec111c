"""What training would cost: the paper's stages of each member, or any number of tokens.

Tokens and row lengths are those of arXiv 2308.12950, sections 2.2 to 2.6, where the long-context
stage is steps times batch; the recipes in `recipes/` carry the same numbers, and the arithmetic is
theirs (`train.arithmetic`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from codellama.model.config import ModelConfig
from codellama.model.family import MEMBERS, Member
from codellama.plan.hardware import Hardware
from codellama.train.arithmetic import STATE_BYTES_PER_PARAM, Device, flop_per_token

PAPER_HOURS = 1_400_000  # of A100s for all twelve; table 23 of the paper, version 3
PAPER_TONNES = 228.55
_LONG = {"7B": 20_971_520_000, "13B": 20_971_520_000, "34B": 11_534_336_000, "70B": 11_534_336_000}
_BASE_7B_LONG = 6_291_456_000
_ACTIVATION_BYTES = 34  # of a token, layer and dimension, with nothing computed again


@dataclass(frozen=True)
class Stage:
    """So many tokens in rows of a length."""

    name: str
    tokens: int
    row_length: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of stages on devices. State and activations are over all devices, in bytes."""

    stages: tuple[Stage, ...]
    flop: float
    device_hours: float
    days: float
    state_bytes: int
    row_bytes: int  # activations of one row, layers computed again in the backward pass
    devices_needed: int  # that hold the state and a row each
    dollars: float
    kwh: float
    tonnes_co2: float


def own_stages(member: Member) -> tuple[Stage, ...]:
    """What this member has to itself, after the code stage that its size shares."""
    size, variant = member.size, member.variant
    python = Stage("python", 100_000_000_000, 4096)
    instruct = Stage("instruct", 5_000_000_000, 4096)
    n_long = _BASE_7B_LONG if (size, variant) == ("7B", "base") else _LONG[size]
    long = Stage("long", n_long, 16384)
    if size == "70B":  # only its base model had the long-context stage
        return {"base": (long,), "Python": (python,), "Instruct": (instruct,)}[variant]
    return {"base": (long,), "Python": (python, long), "Instruct": (long, instruct)}[variant]


def code_stage(size: str) -> Stage:
    """The stage that all variants of a size start from."""
    return Stage("code", 1_000_000_000_000 if size == "70B" else 500_000_000_000, 4096)


def stages(member: Member) -> tuple[Stage, ...]:
    """Everything between Llama 2 and this member; 70B-Instruct starts from 70B-Python."""
    before: tuple[Stage, ...] = (code_stage(member.size),)
    if (member.size, member.variant) == ("70B", "Instruct"):
        before += (Stage("python", 100_000_000_000, 4096),)
    return before + own_stages(member)


def flop(config: ModelConfig, found: Iterable[Stage]) -> float:
    """Operations of the stages, forwards and backwards."""
    return sum(
        stage.tokens
        * flop_per_token(
            dataclasses.replace(config, max_seq_len=stage.row_length), stage.row_length
        )
        for stage in found
    )


def device(hardware: Hardware, mfu: float) -> Device:
    """The accelerator as the recipes' arithmetic knows it."""
    return Device(
        name=hardware.name,
        peak_tflops=hardware.peak / 1e12,
        share=mfu,
        watts=hardware.watts,
        kg_co2_per_kwh=hardware.kg_co2_per_kwh,
    )


def cost(config: ModelConfig, found: tuple[Stage, ...], hardware: Hardware, mfu: float) -> Cost:
    """What the stages cost at `mfu`, the share of the devices' peak that training reaches."""
    one = device(hardware, mfu)
    n_flop = flop(config, found)
    hours = one.hours(n_flop)
    longest = max(stage.row_length for stage in found)
    state = STATE_BYTES_PER_PARAM * config.n_params
    # A layer's input of every layer, and all of one layer's insides.
    row = longest * config.dim * (2 * config.n_layers + _ACTIVATION_BYTES)
    room = 0.9 * hardware.memory - row
    return Cost(
        stages=found,
        flop=n_flop,
        device_hours=hours,
        days=hours / hardware.count / 24,
        state_bytes=state,
        row_bytes=row,
        devices_needed=int(-(-state // room)) if room > 0 else 0,
        dollars=hours * hardware.price,
        kwh=hours * hardware.watts / 1000,
        tonnes_co2=one.tonnes_co2(hours),
    )


def whole_family(hardware: Hardware, mfu: float) -> tuple[float, float]:
    """Device hours and tonnes of CO2 of all twelve, the code stage once for each size."""
    n_flop = sum(flop(member.config, own_stages(member)) for member in MEMBERS)
    n_flop += sum(
        flop(member.config, (code_stage(member.size),))
        for member in MEMBERS
        if member.variant == "base"
    )
    one = device(hardware, mfu)
    hours = one.hours(n_flop)
    return hours, one.tonnes_co2(hours)
