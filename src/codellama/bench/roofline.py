"""A roofline picture: operations per byte against operations per second, as SVG or PNG.

The slope is what reading weights allows, the flat parts what the arithmetic does; every kind of
work is a point below them, and its distance to the roof is what is left to gain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codellama.bench.report import threads
from codellama.errors import ConfigError, MissingExtra

SUFFIXES = (".svg", ".png")


def require(path: Path) -> None:
    """Raises ConfigError or MissingExtra unless a picture can be drawn to `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: a picture is {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401  # drawing axes with logarithms is not worth writing again
    except ModuleNotFoundError as error:
        raise MissingExtra("a picture", "bench") from error


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws the object of `run.run`. Raises as `require` does."""
    require(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits = report["limits"]
    read = limits["read_gb_s"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [(_intensity(report, entry), entry) for entry in report["works"]]
    left = min(x for x, _ in points) / 2
    right = 2 * max(x for x, _ in points)
    for label, roof in (
        (f"int8 {limits['int8_kind']}", limits["int8_gop_s"]),
        (f"float32 {limits['fp32_kind']}", limits["fp32_gflop_s"]),
        (f"products in {limits['product_kind']}", limits["product_gflop_s"]),
    ):
        if roof is None:
            continue
        ridge = roof / read
        xs = [left, min(max(ridge, left), right), right]
        axes.plot(xs, [min(roof, x * read) for x in xs], label=f"{label}: {roof:.0f} G/s")
    ops = {entry["work"]: _ops(report, entry) for _, entry in points}
    for x, entry in points:
        own = entry["tok_s"] * ops[entry["work"]] / 1e9
        axes.plot([x], [own], "o", color="black")
        axes.annotate(entry["work"], (x, own), xytext=(6, -10), textcoords="offset points")
        if entry["peer_tok_s"] is not None:
            axes.plot([x], [entry["peer_tok_s"] * ops[entry["work"]] / 1e9], "x", color="gray")
    axes.plot([], [], "o", color="black", label="codellama")
    if report["peer"] is not None:
        axes.plot([], [], "x", color="gray", label=report["peer"]["name"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte of weights, keys and values")
    axes.set_ylabel("10⁹ operations per second")
    axes.set_title(
        f"{report['model']}, {report['format']}: {_where(report)}, reading {read:.1f} GB/s",
        fontsize=9,
    )
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def _where(report: dict[str, Any]) -> str:
    if report["device"] is not None:
        return str(report["device"]["name"])
    return f"{report['machine']['cpu']}, {threads(report['threads'])}"


def _ops(report: dict[str, Any], entry: dict[str, Any]) -> float:
    """Operations per token of a kind of work."""
    cost = report["cost"]
    heads = 1 if entry["kind"] == "decode" else 1 / entry["n"]
    return float(2 * (cost["body_macs"] + heads * cost["head_macs"]))


def _intensity(report: dict[str, Any], entry: dict[str, Any]) -> float:
    """Operations per byte that must be read at least once."""
    cost = report["cost"]
    if entry["kind"] == "decode":
        return _ops(report, entry) / float(entry["bytes_per_token"])
    n_bytes = cost["weight_bytes"] + entry["n"] * cost["kv_bytes_per_position"]
    return _ops(report, entry) * float(entry["n"]) / float(n_bytes)
