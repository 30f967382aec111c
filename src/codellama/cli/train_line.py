"""What `codellama train` shows and logs while it runs."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from codellama.train.progress import StepReport
from codellama.train.tracking import Tracker, step_figures


class ProgressLine:
    """Writes every step to the log and about one line a second (or a minute) to stderr."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._trackers: list[Tracker] = []
        self._peak_flops: float | None = None
        self._is_terminal = sys.stderr.isatty()
        self._shown = 0.0
        self._loss: float | None = None
        self._speed: float | None = None

    def also(self, trackers: Sequence[Tracker], peak_flops: float | None) -> None:
        """Tells trackers about steps too; shows the share of all devices' peak, where known."""
        self._trackers = list(trackers)
        self._peak_flops = peak_flops

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Tells the trackers about an evaluation."""
        for tracker in self._trackers:
            tracker.add(step, {f"held out/{name}": value for name, value in figures.items()})

    def close(self) -> None:
        """Ends the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def report(self, step: StepReport) -> None:
        """Takes one step."""
        self._log.write(json.dumps({"event": "step", **dataclasses.asdict(step)}) + "\n")
        for tracker in self._trackers:
            tracker.add(step.step, step_figures(step))
        if math.isfinite(step.loss):
            self._loss = step.loss if self._loss is None else 0.95 * self._loss + 0.05 * step.loss
        seen = self._speed or step.tokens_per_s
        self._speed = 0.95 * seen + 0.05 * step.tokens_per_s
        now = time.monotonic()
        if now - self._shown < (1 if self._is_terminal else 20):
            return
        self._shown = now
        self._log.flush()
        flops = self._speed * step.flop_per_token
        share = f" ({flops / self._peak_flops:.0%})" if self._peak_flops else ""
        eta = "" if step.eta_s is None else f"  {step.eta_s / 60:.1f} min left"
        line = (
            f"{step.stage} {step.progress:4.0%}  step {step.step}  loss {step.loss:.3f} "
            f"(~{self._loss:.3f})  lr {step.lr:.2g}  |g| {step.grad_norm:.2f}  "
            f"{self._speed:,.0f} tok/s, {flops / 1e9:,.0f} GFLOP/s{share}{eta}"
        )
        end = "" if self._is_terminal else "\n"
        print(
            f"\r\033[K{line}" if self._is_terminal else line, end=end, file=sys.stderr, flush=True
        )

    def flush(self) -> None:
        """Puts every line of the log into the file."""
        self._log.flush()

    def draw(self, out: Path, title: str) -> None:
        """Writes the curves of the whole log."""
        from codellama.train.curves import Log, svg

        self._log.flush()
        picture = svg(Log.read(out / "log.jsonl"), title)
        (out / "curves.svg").write_text(picture, encoding="utf-8")

    def note(self, text: str) -> None:
        """A line of its own."""
        print(f"\n{text}" if self._is_terminal else text, file=sys.stderr, flush=True)
