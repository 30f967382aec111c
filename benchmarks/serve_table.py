"""A result of `serve.py` as Markdown.

python benchmarks/serve_table.py RESULT.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

_NAMES = {"ours": "codellama", "llama": "llama.cpp", "vllm": "vLLM"}


def markdown(record: dict[str, Any]) -> str:
    """A table for each model: servers by number of streams, medians of the rounds."""
    about = record["machine"]
    n_rounds = sorted(
        {n for run in record["runs"] for rows in run["samples"].values() for n in _counts(rows)}
    )
    parts = [
        f"{about['cpu']}, {record['threads']} threads, {about['memory_gb']} GB; "
        f"{record['date'][:10]}, commit {record['commit']}, {record['tokens']} tokens a stream, "
        f"medians of {' to '.join(map(str, dict.fromkeys((n_rounds[0], n_rounds[-1]))))} rounds.\n"
    ]
    for run in record["runs"]:
        rows = [
            "| streams | server | tokens/s | first text p50 / p99, ms | gap p50 / p99, ms | "
            "memory, MiB |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
        ]
        streams = dict.fromkeys(row["streams"] for rows in run["samples"].values() for row in rows)
        for n in streams:
            for server, samples in run["samples"].items():
                found = [row for row in samples if row["streams"] == n]
                if found:
                    rows.append(_row(n, server, found))
        parts.append(f"**{run['model']}, {run['format']}**\n\n" + "\n".join(rows) + "\n")
    for server, reason in record["skipped"].items():
        parts.append(f"Left out: {_NAMES[server]}, {reason}.\n")
    return "\n".join(parts)


def _counts(rows: list[dict[str, Any]]) -> set[int]:
    """How often each number of streams was measured."""
    streams = [row["streams"] for row in rows]
    return {streams.count(n) for n in streams}


def _row(n: int, server: str, found: list[dict[str, Any]]) -> str:
    keys = [key for key, value in found[0].items() if isinstance(value, (int, float))]
    middle = {key: statistics.median(row[key] for row in found) for key in keys}
    failed = n * len(found) - sum(row["complete"] for row in found)
    mark = f" ({failed} failed)" if failed else ""
    return (
        f"| {n} | {_NAMES[server]}{mark} | {middle['tokens_per_s']:.0f} | "
        f"{middle['first_p50_ms']:.0f} / {middle['first_p99_ms']:.0f} | "
        f"{middle['gap_p50_ms']:.1f} / {middle['gap_p99_ms']:.1f} | {middle['memory_mib']:.0f} |"
    )


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
