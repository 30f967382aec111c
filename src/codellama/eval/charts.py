"""Curves as SVG: a few lines of it, so that a report needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_W, _H, _LEFT, _BOTTOM, _TOP, _RIGHT = 560, 300, 56, 46, 16, 150
_COLOURS = ("#0b6bcb", "#c4452d", "#1f8a4c", "#8a4fc7", "#b07d00", "#00808a", "#7a4b3a", "#555")


def svg(curve: Mapping[str, Any]) -> str:
    """A `Curve` in its plain form as an SVG element, readable without colour by its marks."""
    lines: Mapping[str, Sequence[Sequence[float]]] = curve["lines"]
    xs = [p[0] for line in lines.values() for p in line]
    ys = [p[1] for line in lines.values() for p in line]
    if not xs:
        return ""
    is_log = bool(curve.get("log_x")) and min(xs) > 0
    low_x, high_x = _range([math.log2(x) for x in xs] if is_log else xs)
    low_y, high_y = _range([0.0, *ys])

    def px(x: float) -> float:
        x = math.log2(x) if is_log else x
        return _LEFT + (x - low_x) / (high_x - low_x) * (_W - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return _H - _BOTTOM - (y - low_y) / (high_y - low_y) * (_H - _BOTTOM - _TOP)

    parts = [
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(curve["title"])}" '
        f'width="{_W}" height="{_H}" font-size="11">'
    ]
    for y in _ticks(low_y, high_y):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}" '
            f'stroke="#8885" /><text x="{_LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end" '
            f'fill="currentColor">{y:g}</text>'
        )
    marks = sorted(set(xs)) if is_log else _ticks(low_x, high_x)
    for x in marks[:: max(1, len(marks) // 8)]:
        parts.append(
            f'<text x="{px(x):.1f}" y="{_H - _BOTTOM + 16}" text-anchor="middle" '
            f'fill="currentColor">{x:g}</text>'
        )
    for i, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.5" fill="{colour}"/>'
                  for x, y in line]  # fmt: skip
        at = _TOP + 12 + 15 * i
        parts.append(
            f'<rect x="{_W - _RIGHT + 12}" y="{at - 8}" width="10" height="3" fill="{colour}"/>'
            f'<text x="{_W - _RIGHT + 28}" y="{at - 3}" fill="currentColor">{escape(name)}</text>'
        )
    middle = (_LEFT + _W - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_H - 8}" text-anchor="middle" fill="currentColor">'
        f"{escape(curve['x_label'])}</text>"
        f'<text x="14" y="{_H / 2}" text-anchor="middle" fill="currentColor" '
        f'transform="rotate(-90 14 {_H / 2})">{escape(curve["y_label"])}</text></svg>'
    )
    return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
