"""Sizes in bytes, counted from a configuration and shown for people."""

from __future__ import annotations

from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, n_bytes

SHOWN = (Format.F32, Format.BF16, Format.Q8_0, Format.Q4_0)
_UNITS = ("B", "kB", "MB", "GB", "TB")


def weight_bytes(config: ModelConfig, format: Format) -> int | None:
    """Bytes of the weights with every matrix in `format` and every norm in F32.

    None where a row is not a whole number of blocks.
    """
    total = 0
    for shape in config.tensor_shapes().values():
        if shape[-1] % format.block_size and len(shape) > 1:
            return None
        total += n_bytes(format if len(shape) > 1 else Format.F32, shape)
    return total


def human_bytes(n: int | None) -> str:
    """Three digits and a decimal unit, as disks are sold."""
    if n is None:
        return "-"
    value, unit = float(n), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{_three(value)} {_UNITS[unit]}" if unit else f"{n} B"


def human_count(n: int) -> str:
    """Three digits and K, M or B, as models are named."""
    value, suffix = float(n), ""
    for step in ("K", "M", "B"):
        if value < 999.5:
            break
        value, suffix = value / 1000, step
    return f"{_three(value)}{suffix}" if suffix else str(n)


def counted(n: int, noun: str) -> str:
    """A number and its noun, in the plural unless there is one."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def table(rows: list[list[str]], *, n_left: int = 1) -> str:
    """Rows in columns: the first `n_left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "".join(
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )


def _three(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )
