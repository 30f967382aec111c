"""Recipes are read strictly, and the shipped ones can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codellama.errors import ConfigError
from codellama.train.recipe import Recipe, Schedule
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_read(path: Path) -> None:
    if path.parent.name == "corpus":
        pytest.skip("a list of sources, not a recipe")
    assert Recipe.read(path).stages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("warmup_steps = 5", "warmup_step = 5"), "unknown key `warmup_step`; did you mean"),
        (("seed = 1\n", ""), "`seed` is missing"),
        (("seed = 1\n", "seed = 1.5\n"), "1.5 is not of type int"),
        (("seed = 1\n", "seed = true\n"), "True is not of type int"),
        (("dim = 64", "dims = 64"), "unknown key `dims`; did you mean `dim`"),
        (("python = 0.8", "pyhton = 0.8"), "the mix names 'pyhton'"),
        (("python = 0.8", "python = 0.7"), "the mix adds up to 0.9"),
        (("infill_rate = 0.9", "infill_rate = 1.9"), "infill_rate 1.9"),
        (('kind = "adamw"', 'kind = "adam"'), "optimiser 'adam' is not known"),
        (("rows_per_step = 4", "rows_per_step = 4\nrows_at_once = 3"), "4 rows .* into 3 at once"),
        (("end = 0.2,", 'kind = "sine", end = 0.2,'), "schedule 'sine' is not known"),
        (("max_tokens = 60_000", "max_tokens = 0"), "`max_tokens` must be above zero"),
        (("row_length = 256", "row_length = 16"), "rows of 16 are too short"),
        (("[model]", "[model"), "cannot be read as TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = MICRO.read_text()
    assert change[0] in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(change[0], change[1], 1))
    with pytest.raises(ConfigError, match=message):
        Recipe.read(path)


def test_shares_must_add_up_when_time_is_shared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shares add up to"):
        Recipe.read(MICRO, ("time_budget_min=3", "stages.0.share=0.5"))


def test_a_time_budget_is_above_zero() -> None:
    with pytest.raises(ConfigError, match="a time budget of 0 minutes"):
        Recipe.read(MICRO, ("time_budget_min=0",))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Recipe.read(tmp_path / "none.toml")


def test_overrides() -> None:
    recipe = Recipe.read(MICRO, ("seed=9", "stages.1.max_tokens=77", "name=other"))
    assert (recipe.seed, recipe.stages[1].max_tokens, recipe.name) == (9, 77, "other")
    with pytest.raises(ConfigError, match="did you mean `max_tokens`"):
        Recipe.read(MICRO, ("stages.1.max_token=77",))
    with pytest.raises(ConfigError, match="there is no `9`"):
        Recipe.read(MICRO, ("stages.9.max_tokens=77",))
    with pytest.raises(ConfigError, match="not of the form"):
        Recipe.read(MICRO, ("seed",))


def test_cosine_schedule_is_torchs() -> None:
    schedule = Schedule(kind="cosine", warmup_steps=0, end=1 / 30)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 100, eta_min=1 / 30)
    for step in range(101):
        assert schedule.factor(step, step / 100) == pytest.approx(reference.get_last_lr()[0])
        optimiser.step()
        reference.step()


def test_schedule() -> None:
    schedule = Schedule(warmup_steps=4, start=1.0, end=0.2, decay=0.5)
    assert [schedule.factor(step, 0.0) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert schedule.factor(9, 0.5) == pytest.approx(1.0)
    assert schedule.factor(9, 0.75) == pytest.approx(0.6)
    assert schedule.factor(9, 1.5) == pytest.approx(0.2)
    assert Schedule(warmup_steps=0).factor(0, 0.3) == 1.0
