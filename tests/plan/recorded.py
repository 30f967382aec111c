"""What `benchmarks/plan.py` measured, as the tests of the plan take it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codellama.model.config import ModelConfig
from codellama.plan.subject import Subject
from codellama.quant.formats import Format

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def recorded() -> list[dict[str, Any]]:
    """A model in a format each."""
    found: list[dict[str, Any]] = []
    for path in sorted(RESULTS.glob("*_plan-*.json")):
        record = json.loads(path.read_text())
        found += [run | {"threads": record["threads"]} for run in record["runs"]]
    return found


def label(run: dict[str, Any]) -> str:
    return f"{run['shape']} {run['format']}"


def recorded_subject(run: dict[str, Any]) -> Subject:
    """The model, with the formats that its file had."""
    return Subject(
        name=run["shape"],
        config=ModelConfig(**run["config"]),
        formats={name: Format(kind) for name, kind in run["formats"].items()},
        format=run["format"],
    )
