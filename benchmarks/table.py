"""A result of `peers.py` as Markdown.

python benchmarks/table.py RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from codellama.bench.report import OWN, number, percent, threads


def markdown(record: dict[str, Any]) -> str:
    """The tables of one result: speeds with the ratio to each peer, then memory."""
    machine = record["machine"]
    parts = [
        f"{machine['cpu']}, {threads(record['threads'])}, {machine['memory_gb']} GB, "
        f"{machine['kernel']}; {record['date'][:10]}, commit {record['commit']}, medians of "
        f"{record['repeat']} interleaved repetitions [least-most].\n"
    ]
    for run in record["runs"]:
        peers = [name for name in run["engines"] if name != OWN]
        limits = run["limits"]
        parts.append(
            f"**{run['shape']}, {run['format']}** ({run['file_mb']:.0f} MB). Reading "
            f"{limits['read_gb_s']:.1f} GB/s, int8 {_or_dash(limits['int8_gop_s'])} GOP/s; others "
            f"used {percent(run['others_cpu_share'])} of the processors.\n"
        )
        rows = [["", f"{OWN} tok/s", "of the limit"]]
        for name in peers:
            rows[0] += [f"{name} tok/s", "ratio"]
        for entry in run["works"]:
            own = entry["engines"][OWN]
            row = [entry["work"], _speed(own), percent(own["limit_share"])]
            for name in peers:
                speed = entry["engines"][name]
                row += [_speed(speed), f"{speed['ratio']:.2f} x"]
            rows.append(row)
        memory = ["resident MB, at most", f"{run['engines'][OWN]['peak_rss_mb']:.0f}", ""]
        for name in peers:
            memory += [f"{run['engines'][name]['peak_rss_mb']:.0f}", ""]
        starts = run["start"]
        begin = ["first token after, s", _seconds(starts.get(OWN)), ""]
        for name in peers:
            begin += [_seconds(starts.get(name)), ""]
        rows += [memory, begin]
        parts.append(_table(rows))
    return "\n".join(parts)


def _table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "| " + " | ".join(["---"] + ["---:"] * (len(rows[0]) - 1)) + " |")
    return "\n".join(lines) + "\n"


def _speed(speed: dict[str, Any]) -> str:
    return f"{number(speed['tok_s'])} [{number(speed['low'])}-{number(speed['high'])}]"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
