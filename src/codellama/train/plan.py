"""What a recipe would cost: steps, arithmetic, hours of a device, energy and carbon."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from codellama.errors import ConfigError
from codellama.train.arithmetic import STATE_BYTES_PER_PARAM, Device, flop_per_token
from codellama.train.batch import model_config
from codellama.train.recipe import KINDS, Recipe


@dataclass(frozen=True)
class StagePlan:
    """One stage in figures."""

    name: str
    tokens: int
    tokens_per_step: int
    steps: int
    flop: float


def plan(recipe: Recipe) -> list[StagePlan]:
    """Every stage, as if it ran to its last token."""
    plans = []
    for stage in recipe.stages:
        per_step = stage.row_length * stage.rows_per_step
        flop = stage.max_tokens * flop_per_token(model_config(recipe, stage), stage.row_length)
        steps = -(-stage.max_tokens // per_step)
        plans.append(StagePlan(stage.name, stage.max_tokens, per_step, steps, flop))
    return plans


def state_bytes(recipe: Recipe) -> int:
    """Weights, gradients and AdamW's moments over all devices, in float32."""
    return STATE_BYTES_PER_PARAM * model_config(recipe, recipe.stages[0]).n_params


def device_hours(recipes: Iterable[Recipe], device: Device | None = None) -> float:
    """Of several recipes together."""
    device = device or Device()
    return sum(device.hours(stage.flop) for recipe in recipes for stage in plan(recipe))


def table(recipe: Recipe, device: Device) -> str:
    """The plan for people, one line a stage."""
    lines = [f"{'stage':8} {'tokens':>9} {'steps':>8} {'FLOP':>9} {device.name + ' hours':>12}"]
    plans = plan(recipe)
    for p in [*plans, _sum(plans)]:
        lines.append(
            f"{p.name:8} {p.tokens:9.3g} {p.steps:8} {p.flop:9.3g} {device.hours(p.flop):12,.1f}"
        )
    hours = device_hours([recipe], device)
    lines.append(
        f"{hours * device.watts / 1000:,.0f} kWh, {device.tonnes_co2(hours):,.2f} t CO2 "
        f"({device.share:.0%} of {device.peak_tflops:g} TFLOP/s, {device.watts:g} W); "
        f"{state_bytes(recipe) / 2**30:,.1f} GiB of state"
    )
    return "\n".join(lines)


def epochs(recipe: Recipe, report: Path) -> list[str]:
    """How often every stage would read the sources of a corpus, from its report; one line each.

    Table 1 of arXiv 2308.12950 gives a mixture like that: shares, and the epochs they come to.

    Raises:
        ConfigError: the report is not one of a built corpus.
    """
    try:
        counted = json.loads(report.read_text(encoding="utf-8"))["tokens"]
        tokens = {kind: counted.get(f"train-{kind}", {}).get("tokens", 0) for kind in KINDS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{report} is not the report of a corpus: {error!r}") from error
    lines = []
    for stage in recipe.stages:
        read = [f"{kind} {stage.max_tokens * share / tokens[kind]:.2f} times"
                for kind, share in stage.mix.items() if tokens.get(kind)]  # fmt: skip
        if read:
            lines.append(f"{stage.name:8} reads {', '.join(read)}")
    return lines


def _sum(plans: list[StagePlan]) -> StagePlan:
    total = StagePlan("all", 0, 0, 0, 0.0)
    for p in plans:
        total = replace(total, tokens=total.tokens + p.tokens, steps=total.steps + p.steps,
                        flop=total.flop + p.flop)  # fmt: skip
    return total
