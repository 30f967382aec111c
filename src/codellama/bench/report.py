"""Samples and limits as one JSON object, and that object as a table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from codellama.bench.cost import Cost
from codellama.bench.limits import Roof
from codellama.bench.measure import Results, Work

OWN = "codellama"


def use(work: Work, cost: Cost) -> float:
    """What a piece of work takes of its limit: operations of a prompt, bytes of decoding."""
    if work.kind == "prefill":
        return cost.prefill_ops(work.n)
    return cost.decode_bytes(work.n, work.n_streams)


def share(work: Work, cost: Cost, limits: Roof, tok_s: float) -> float | None:
    """The share of the machine's limit that a speed is, or None where it was not measured.

    A prompt's limit is arithmetic in the numbers that are multiplied, a decoded token's is reading
    every weight and the keys and values.
    """
    most = limits.ops(cost) if work.kind == "prefill" else limits.read
    return tok_s / work.n_tokens * use(work, cost) / most if most else None


def work_entry(
    results: Results, work: Work, cost: Cost, limits: Roof, peer: str | None
) -> dict[str, Any]:
    """One kind of work: speed, the peer's, the ratio of medians, and the shares of the limit."""
    own = results.of(OWN, work)
    assert own is not None, "every work was done"
    theirs = None if peer is None else results.of(peer, work)
    return {
        "work": str(work),
        "kind": work.kind,
        "n": work.n,
        "streams": work.n_streams,
        "tok_s": own.median,
        "tok_s_low": own.low,
        "tok_s_high": own.high,
        "samples": list(own.samples),
        "peer_tok_s": None if theirs is None else theirs.median,
        "peer_tok_s_low": None if theirs is None else theirs.low,
        "peer_tok_s_high": None if theirs is None else theirs.high,
        "peer_samples": None if theirs is None else list(theirs.samples),
        "ratio": None if theirs is None else own.median / theirs.median,
        "limit_share": share(work, cost, limits, own.median),
        "peer_limit_share": None if theirs is None else share(work, cost, limits, theirs.median),
        ("bytes" if work.kind == "decode" else "ops") + "_per_token": use(work, cost)
        / work.n_tokens,
    }


def first(entries: Sequence[dict[str, Any]], kind: str, *, many: bool = False) -> Any:
    """The first entry of a kind, of one stream or of several; None if there is none."""
    found = (e for e in entries if e["kind"] == kind and (e["streams"] > 1) == many)
    return next(found, None)


def to_json(report: dict[str, Any]) -> str:
    """The object in one line, numbers with six digits, which is more than they are worth."""
    return json.dumps(_rounded(report))


def page(report: dict[str, Any]) -> str:
    """The object for people."""
    peer, machine, limits = report["peer"], report["machine"], report["limits"]
    head = ["", "tok/s", "low-high", "of the limit"]
    if peer is not None:
        head += [f"{peer['name']} tok/s", "low-high", "ratio"]
    rows = [head]
    for entry in report["works"]:
        row = [
            entry["work"],
            number(entry["tok_s"]),
            f"{number(entry['tok_s_low'])}-{number(entry['tok_s_high'])}",
            percent(entry["limit_share"]),
        ]
        if peer is not None:
            low, high = entry["peer_tok_s_low"], entry["peer_tok_s_high"]
            row += [
                number(entry["peer_tok_s"]),
                f"{number(low)}-{number(high)}",
                f"{entry['ratio']:.2f} x",
            ]
        rows.append(row)
    facts = [
        ("model", f"{report['model']}, {report['format']}, {report['n_params'] / 1e6:.1f} M "
                  f"parameters, {report['weights_mb']:.1f} MB"),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
                    f"{machine['kernel']}"),
        ("engine", _engine(report)),
        ("limits", _limits(limits)),
        ("memory", f"{report['rss_mb']:.0f} MB resident, {report['peak_rss_mb']:.0f} at most"
                   + ("" if peer is None else f"; {peer['name']} {peer['rss_mb']:.0f}, "
                                              f"{peer['peak_rss_mb']:.0f} at most")),
        ("start", "not measured" if report["start_s"] is None else
                  f"{report['start_s']:.3f} s to the first token, {report['interpreter_s']:.3f} "
                  "of it Python's own start"),
    ]  # fmt: skip
    width = max(len(label) for label, _ in facts) + 2
    return _columns(rows) + "\n" + "".join(f"{label:<{width}}{text}\n" for label, text in facts)


def _engine(report: dict[str, Any]) -> str:
    device = report["device"]
    if device is None:
        return f"{threads(report['threads'])}, {report['simd']} kernels"
    held = "" if device["memory_mb"] is None else f", {device['memory_mb']:.0f} MB held there"
    return (
        f"PyTorch {device['torch']} on {device['name']}{held}; weights "
        f"{device['weights'] or 'as stored'}, activations {device['activations']}, keys and values "
        f"{device['kv_cache']}"
    )


def _limits(limits: dict[str, Any]) -> str:
    if limits["product_kind"] is not None:
        return (
            f"copying {number(limits['read_gb_s'])} GB/s, products in {limits['product_kind']} "
            f"{number(limits['product_gflop_s'])} GFLOP/s"
        )
    return (
        f"reading {number(limits['read_gb_s'])} GB/s over this model "
        f"({number(limits['dram_gb_s'])} over 1 GiB), int8 {number(limits['int8_gop_s'])} GOP/s, "
        f"float32 {number(limits['fp32_gflop_s'])} GFLOP/s"
    )


def threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
