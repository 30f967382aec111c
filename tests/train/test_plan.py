"""The paper's recipes hold the paper's numbers, and their cost is the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codellama.cli.main import main
from codellama.errors import ConfigError
from codellama.model.family import MEMBERS
from codellama.model.transformer import Transformer
from codellama.train.arithmetic import Device, flop_per_token
from codellama.train.batch import model_config
from codellama.train.export import final_config
from codellama.train.plan import device_hours, epochs, plan
from codellama.train.recipe import Recipe
from train_corpus import RECIPES

SIZES = ("7b", "13b", "34b", "70b")
RECIPE = {(size, name): Recipe.read(RECIPES / size / f"{name}.toml")
          for size in SIZES for name in ("code", "base", "python", "instruct")}  # fmt: skip


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_a_recipe_ends_with_the_sizes_of_its_member(member) -> None:  # type: ignore[no-untyped-def]
    recipe = RECIPE[member.size.lower(), member.variant.lower()]
    assert final_config(recipe) == member.config


@pytest.mark.parametrize("size", SIZES)
def test_the_model_of_that_size_can_be_laid_out(size: str) -> None:
    config = model_config(RECIPE[size, "code"], RECIPE[size, "code"].stages[0])
    with torch.device("meta"):
        model = Transformer(config)
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == config.tensor_shapes()
    published = {"7b": 6.74e9, "13b": 13.02e9, "34b": 33.74e9, "70b": 68.98e9}[size]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize(
    ("size", "name", "stage", "tokens_per_step", "steps", "lr", "row_length"),
    [
        ("7b", "code", "code", 4 << 20, 119_210, 3e-4, 4096),
        ("13b", "code", "code", 4 << 20, 119_210, 3e-4, 4096),
        ("34b", "code", "code", 4 << 20, 119_210, 1.5e-4, 4096),
        ("70b", "code", "code", 4 << 20, 238_419, 1.5e-4, 4096),
        ("7b", "python", "python", 4 << 20, 23_842, 1e-4, 4096),
        ("7b", "base", "long", 2 << 20, 3_000, 2e-5, 16384),
        ("7b", "instruct", "long", 2 << 20, 10_000, 2e-5, 16384),
        ("13b", "base", "long", 2 << 20, 10_000, 2e-5, 16384),
        ("34b", "base", "long", 1 << 20, 11_000, 2e-5, 16384),
        ("34b", "instruct", "instruct", 524_288, 9_537, 2e-5, 4096),
    ],
)
def test_batches_steps_and_rates(
    size: str, name: str, stage: str, tokens_per_step: int, steps: int, lr: float, row_length: int
) -> None:
    recipe = RECIPE[size, name]
    i = [s.name for s in recipe.stages].index(stage)
    found, planned = recipe.stages[i], plan(recipe)[i]
    assert (planned.tokens_per_step, planned.steps) == (tokens_per_step, steps)
    assert (found.row_length, found.optimiser.adamw_lr) == (row_length, lr)
    assert found.optimiser.kind == "adamw"
    assert found.schedule.factor(10**9, 1.0) == pytest.approx(1 / 30, rel=2e-3)
    if stage == "code":
        assert found.schedule.factor(499, 0.0) == 0.5  # warm-up is 1000 steps


def test_infilling_is_learned_by_those_that_can_infill() -> None:
    for size in SIZES:
        assert RECIPE[size, "code"].stages[0].infill_rate == (0.0 if size == "34b" else 0.9)
    assert all(s.infill_rate == 0 for n in ("7b", "13b", "34b") for s in RECIPE[n, "python"].stages)


def test_flop_per_token_by_hand() -> None:
    recipe = RECIPE["7b", "code"]
    config = model_config(recipe, recipe.stages[0])
    blocks = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    head = 32016 * 4096
    attention = 6 * 32 * 4096 * 4096
    assert flop_per_token(config, 4096) == 6 * (blocks + head) + attention


def test_the_cascade_costs_what_the_paper_says() -> None:
    """1,400,000 A100 hours and 228.55 t for the twelve; 43 % of the peak is our assumption."""
    hours = device_hours(RECIPE.values())
    assert hours == pytest.approx(1_400_000, rel=0.05)
    assert Device().tonnes_co2(1_400_000) == pytest.approx(228.55, rel=1e-3)


def test_the_plan_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(RECIPES / "70b" / "code.toml"), "--plan"]) == 0
    out = capsys.readouterr().out
    assert "886,988.0" in out
    assert "144.76 t CO2" in out
    assert "1,027.8 GiB of state" in out


def test_epochs_follow_from_the_corpus(tmp_path: Path) -> None:
    """Table 1: 85 % of 500B tokens are 2.03 epochs of 209B tokens of code."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"tokens": {"train-code": {"tokens": 209_360_000_000}}}))
    assert epochs(Recipe.read(RECIPES / "7b" / "code.toml"), report) == [
        "code     reads code 2.03 times"
    ]
    report.write_text("{}")
    with pytest.raises(ConfigError, match="is not the report of a corpus"):
        epochs(Recipe.read(RECIPES / "7b" / "code.toml"), report)


def test_nano_for_a_gpu_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.read(RECIPES / "nano" / "nano.toml")
    config = model_config(recipe, recipe.stages[0])
    assert config.n_params == 61_292_160
    assert [p.tokens_per_step for p in plan(recipe)] == [262_144] * 3 + [131_072]
    assert main(["train", str(RECIPES / "nano" / "nano.toml"), "--plan"]) == 0
    total = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
    assert total.split()[1:3] == ["6.48e+08", "2749"]
