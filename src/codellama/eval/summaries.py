"""From verdicts and measures to figures: the two ways most suites add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from codellama.eval.metrics import pass_at_k, standard_error
from codellama.eval.suite import Curve, Figure, Judged, Summary

KS = (1, 5, 10, 100)


def passes(judged: Sequence[Judged], *, ks: Sequence[int] = KS) -> list[Figure]:
    """pass@k of each group and every k that the samples allow, by the unbiased estimator.

    A problem's samples count together, and problems count alike. Nothing where nothing was run.
    """
    found: list[Figure] = []
    for group, ones in _groups(judged).items():
        counts = [(len(v), sum(v)) for v in _verdicts(ones).values()]
        if not counts:
            continue
        most = min(n for n, _ in counts)
        for k in ks:
            if k <= most:
                values = [pass_at_k(n, c, k) for n, c in counts]
                found.append(_mean(f"pass@{k}", group, values))
    return found


def means(judged: Sequence[Judged], units: Mapping[str, str]) -> list[Figure]:
    """The mean of each measure in `units` over a group's problems, whose samples count together."""
    found: list[Figure] = []
    for group, ones in _groups(judged).items():
        for measure, unit in units.items():
            by_problem: dict[str, list[float]] = defaultdict(list)
            for one in ones:
                if measure in one.measures:
                    by_problem[one.problem.id].append(one.measures[measure])
            values = [sum(v) / len(v) for v in by_problem.values()]
            if values:
                found.append(_mean(measure, group, values, unit))
    return found


def pass_curve(judged: Sequence[Judged]) -> tuple[Curve, ...]:
    """pass@k against k; nothing for a single sample to each problem."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for group, ones in _groups(judged).items():
        counts = [(len(v), sum(v)) for v in _verdicts(ones).values()]
        most = min((n for n, _ in counts), default=0)
        if most < 2:
            continue
        ks = sorted({*range(1, min(most, 10) + 1), *range(10, most + 1, max(1, most // 20)), most})
        lines[group or "pass@k"] = [
            (k, 100 * sum(pass_at_k(n, c, k) for n, c in counts) / len(counts)) for k in ks
        ]
    if not lines:
        return ()
    return (
        Curve(title="pass@k", x_label="k samples", y_label="% of problems", lines=lines),
    )  # fmt: skip


def passing(judged: Sequence[Judged], units: Mapping[str, str] | None = None) -> Summary:
    """What most suites that run programs report."""
    figures = [*passes(judged), *means(judged, units or {})]
    return Summary(figures=tuple(figures), curves=pass_curve(judged))


def _mean(key: str, group: str, values: Sequence[float], unit: str = "%") -> Figure:
    return Figure(
        key=f"{group}/{key}" if group else key,
        label=f"{key.replace('_', ' ')}{', ' + group if group else ''}",
        value=sum(values) / len(values),
        n=len(values),
        unit=unit,
        error=standard_error(values),
    )


def _groups(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        found[one.problem.group].append(one)
    return found


def _verdicts(judged: Sequence[Judged]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = defaultdict(list)
    for one in judged:
        if one.passed is not None:
            found[one.problem.id].append(one.passed)
    return found
