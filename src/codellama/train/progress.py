"""Where a run is, what it says about a step, and when a step is better left out."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from codellama.train.recipe import Recipe, Stage

SPIKE, RECENT, MAX_SKIPPED = 10.0, 64, 3
_FREE = ("time_budget_min", "save_every_s", "eval_every_s", "n_threads", "compile", "recompute",
         "corpus", "device", "tensor_parallel", "context_parallel", "patience_s",
         "keep")  # fmt: skip


@dataclass
class Progress:
    """Where a run is. All of it is saved."""

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    stage_tokens: int = 0
    stage_elapsed_s: float = 0.0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    optimiser_steps: int = 0
    rows: dict[str, Any] | None = None
    norms: list[float] = field(default_factory=list)

    def share_done(self, stage: Stage, budget_s: float | None) -> float:
        """Of the stage: by its tokens or by its time, whichever is further along."""
        by_time = self.stage_elapsed_s / budget_s if budget_s else 0.0
        return max(self.stage_tokens / stage.max_tokens, by_time)

    def is_spike(self, norm: float) -> bool:
        """Whether a gradient of that norm should not be applied."""
        usual = statistics.median(self.norms) if len(self.norms) >= 16 else math.inf
        return not math.isfinite(norm) or norm > SPIKE * usual

    def count(self, norm: float, n_learned: int, *, skipped: bool) -> None:
        """Takes note of one more step."""
        if skipped:
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
        else:
            self.norms = [*self.norms, norm][-RECENT:]
            self.skipped_in_a_row = 0
        self.step += 1
        self.stage_step += 1
        self.stage_tokens += n_learned

    def next_stage(self) -> Progress:
        """At the beginning of the stage that follows."""
        return Progress(stage=self.stage + 1, step=self.step, skipped_steps=self.skipped_steps)


@dataclass(frozen=True)
class StepReport:
    """One line of the log."""

    stage: str
    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    tokens: int
    progress: float
    eta_s: float | None
    skipped: bool
    flop_per_token: float
    seconds: float
    rows: dict[str, Any]  # where the step's rows begin in the stream of the stage


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What must be equal for a run to go on: all but how long, how fast and on what."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=str))
    return {key: value for key, value in plain.items() if key not in _FREE}
