"""A run's log as a picture: loss by tokens read, stage by stage, as SVG.

The loss is a running mean over about a hundredth of the run; steps that were left out are marked.
Held-out figures of the log are a second line with its own scale, at the right.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codellama.errors import ConfigError

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 880, 420, 60, 60, 40, 50
_STYLE = (
    "text{font:12px sans-serif;fill:#444}.t{font-size:15px;fill:#222}line{stroke:#ddd}"
    "polyline{fill:none;stroke-width:1.6;stroke:#2563a8}.v{stroke:#c0501f}.v+text,.vt{fill:#c0501f}"
    "circle{fill:#c0501f}.s{fill:#b00}rect{fill:#fff}.b{stroke:#999;stroke-dasharray:3 3}"
)


@dataclass
class Log:
    """What the lines of a `log.jsonl` say; tokens are counted over all stages."""

    steps: list[tuple[int, float]] = field(default_factory=list)  # tokens, loss
    skipped: list[tuple[int, float]] = field(default_factory=list)
    figures: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    stages: list[tuple[str, int]] = field(default_factory=list)  # name, tokens at its start

    @classmethod
    def read(cls, path: Path) -> Log:
        """Reads a log; what a resumed run did twice is taken from its last time.

        Raises:
            ConfigError: the file is absent or is not such a log.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return cls._from(json.loads(line) for line in lines)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not the log of a run: {error!r}") from error

    @classmethod
    def _from(cls, lines: Iterable[dict[str, object]]) -> Log:
        steps: dict[int, dict[str, object]] = {}
        evaluations: dict[int, dict[str, object]] = {}
        for line in lines:
            number = int(str(line["step"]))
            if line["event"] == "step":
                steps[number] = line
            elif line["event"] == "evaluation":
                evaluations[number] = line
        log, before, at = cls(), 0, 0
        for number, line in sorted(steps.items()):
            if not log.stages or log.stages[-1][0] != line["stage"]:
                before = at
                log.stages.append((str(line["stage"]), before))
            at = before + int(str(line["tokens"]))
            loss = float(str(line["loss"]))
            (log.skipped if line["skipped"] else log.steps).append((at, loss))
            for name, value in evaluations.get(number, {}).items():
                if name not in ("event", "stage", "step"):
                    log.figures.setdefault(name, []).append((at, float(str(value))))
        return log


def smooth(points: Sequence[tuple[int, float]], n: int) -> list[tuple[int, float]]:
    """Means over `n` runs of neighbours at most, each at the place of its last point."""
    finite = [p for p in points if math.isfinite(p[1])]
    width = max(1, len(finite) // n)
    groups = [finite[i : i + width] for i in range(0, len(finite), width)]
    return [(g[-1][0], sum(loss for _, loss in g) / len(g)) for g in groups]


def svg(log: Log, title: str) -> str:
    """The picture. A log without steps gives axes only."""
    points = smooth(log.steps, 120)
    end = max([at for at, _ in (*log.steps, *log.skipped)], default=1)
    low, high = _range([loss for _, loss in points])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}"><style>{_STYLE}</style>',
        f'<rect width="{_W}" height="{_H}"/>',
        f'<text class="t" x="{_LEFT}" y="22">{html.escape(title)}</text>',
    ]
    for value in _ticks(low, high):
        y = _y(value, low, high)
        parts.append(f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for name, at in log.stages:
        x = _x(at, end)
        parts.append(f'<line class="b" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>')
        parts.append(f'<text x="{x + 4:.1f}" y="{_TOP + 12}">{html.escape(name)}</text>')
    for value in _ticks(0, end):
        label = f"{value / 1e6:g}M" if end >= 1e6 else f"{value:g}"
        parts.append(f'<text x="{_x(value, end):.1f}" y="{_H - _BOTTOM + 18}" '
                     f'text-anchor="middle">{label}</text>')  # fmt: skip
    parts.append(
        f'<text x="{_LEFT}" y="{_H - 12}">tokens learned from; loss in nats a token</text>'
    )
    parts.append(_line(points, end, low, high, ""))
    for at, _ in log.skipped:
        parts.append(f'<text class="s" x="{_x(at, end):.1f}" y="{_H - _BOTTOM - 4}">×</text>')
    for name, values in list(log.figures.items())[:1]:
        v_low, v_high = _range([v for _, v in values])
        parts.append(_line(values, end, v_low, v_high, "v"))
        parts += [f'<circle cx="{_x(at, end):.1f}" cy="{_y(v, v_low, v_high):.1f}" r="2.5"/>'
                  for at, v in values]  # fmt: skip
        for value in _ticks(v_low, v_high):
            parts.append(f'<text class="vt" x="{_W - _RIGHT + 8}" '
                         f'y="{_y(value, v_low, v_high) + 4:.1f}">{value:g}</text>')  # fmt: skip
        parts.append(f'<text class="vt" x="{_W - _RIGHT}" y="{_H - 12}" text-anchor="end">'
                     f"{html.escape(name)}: {values[-1][1]:.3f}</text>")  # fmt: skip
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(
    points: Sequence[tuple[int, float]], end: float, low: float, high: float, kind: str
) -> str:
    places = " ".join(f"{_x(at, end):.1f},{_y(v, low, high):.1f}" for at, v in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers within the range."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * f for f in (1, 2, 5, 10) if size * f >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _x(at: float, end: float) -> float:
    return _LEFT + (_W - _LEFT - _RIGHT) * at / end


def _y(value: float, low: float, high: float) -> float:
    return _H - _BOTTOM - (_H - _TOP - _BOTTOM) * (value - low) / (high - low)
