"""A run's figures for TensorBoard and Weights & Biases, where these are installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from codellama.errors import MissingExtra
from codellama.train.progress import StepReport
from codellama.train.recipe import Recipe

TRACKERS = ("tensorboard", "wandb")
_STEP_FIGURES = ("loss", "lr", "grad_norm", "tokens_per_s")


class Tracker(Protocol):
    """Takes figures of a step."""

    def add(self, step: int, figures: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


def open_tracker(name: str, out: Path, recipe: Recipe) -> Tracker:
    """Raises MissingExtra when the package behind it is not installed."""
    return _TensorBoard(out) if name == "tensorboard" else _WeightsAndBiases(out, recipe)


def step_figures(step: StepReport) -> dict[str, float]:
    """What is drawn of a step."""
    return {f"train/{name}": float(getattr(step, name)) for name in _STEP_FIGURES}


class _TensorBoard:
    def __init__(self, out: Path) -> None:
        try:
            board: Any = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise MissingExtra("`--track tensorboard`", "tensorboard") from error
        self._writer = board.SummaryWriter(str(out / "tensorboard"))

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """Writes to the run's folder; `wandb sync` sends it, if and when somebody wants that."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise MissingExtra("`--track wandb`", "wandb") from error
        self._run = wandb.init(
            project="codellama", name=recipe.name, dir=str(out), mode="offline",
            config=asdict(recipe),
        )  # fmt: skip

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()
