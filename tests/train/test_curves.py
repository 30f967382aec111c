"""Curves: the log is read as it was written, the picture is well-formed and to scale."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from codellama.errors import ConfigError
from codellama.train.curves import Log, smooth, svg

SVG = "{http://www.w3.org/2000/svg}"


def _write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _step(
    stage: str, step: int, tokens: int, loss: float, skipped: bool = False
) -> dict[str, object]:
    return {"event": "step", "stage": stage, "step": step, "tokens": tokens, "loss": loss,
            "skipped": skipped}  # fmt: skip


def test_stages_follow_one_another_and_repeated_steps_count_once(tmp_path: Path) -> None:
    log = Log.read(_write(tmp_path / "log.jsonl", [
        _step("code", 1, 100, 6.0), _step("code", 2, 200, 5.0),
        _step("code", 2, 200, 5.5),  # once more, after a resume
        {"event": "evaluation", "stage": "code", "step": 2, "bits/byte": 1.5},
        _step("chat", 3, 90, 4.0), _step("chat", 4, 180, float("nan"), skipped=True),
    ]))  # fmt: skip
    assert log.steps == [(100, 6.0), (200, 5.5), (290, 4.0)]
    assert log.stages == [("code", 0), ("chat", 200)]
    assert [at for at, _ in log.skipped] == [380]
    assert log.figures == {"bits/byte": [(200, 1.5)]}


def test_the_picture_is_to_scale() -> None:
    log = Log(steps=[(0, 4.0), (500, 3.0), (1000, 2.0)], stages=[("code <1>", 0)])
    root = ET.fromstring(svg(log, "a & b"))
    points = [
        tuple(map(float, p.split(",")))
        for p in root.findall(f"{SVG}polyline")[0].get("points", "").split()
    ]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y2 > y0, "a lower loss is lower in the picture"
    texts = [t.text for t in root.findall(f"{SVG}text")]
    assert {"a & b", "code <1>", "3"} <= set(texts)


@pytest.mark.parametrize("log", [Log(), Log(steps=[(1, 2.0)]), Log(skipped=[(5, float("nan"))])])
def test_little_to_draw_is_drawn(log: Log) -> None:
    assert ET.fromstring(svg(log, "")).tag == f"{SVG}svg"


def test_smoothing_keeps_the_mean_and_leaves_out_what_is_not_finite() -> None:
    points = [(i, float(i % 2)) for i in range(100)] + [(100, float("inf"))]
    assert smooth(points, 10) == [(i * 10 + 9, 0.5) for i in range(10)]


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the log of a run"):
        Log.read(_write(tmp_path / "log.jsonl", [{"a": 1}]))
    with pytest.raises(ConfigError, match="is not the log of a run"):
        Log.read(tmp_path / "none.jsonl")
