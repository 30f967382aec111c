"""The comparison as a text table and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from codellama.eval.page import page
from codellama.eval.repo.bench import Choice, Tried

_COLUMNS = {
    "exact_line": "line",
    "exact_lines": "lines",
    "exact_body": "body",
    "similarity": "similar",
    "parses": "parses",
    "passed": "tests",
}
_TIMES = {"median_ms": "median ms", "p90_ms": "p90 ms", "first_ms": "first token ms"}
_MOST_CASES = 30


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal. Shares in percent; `line`, `lines` and `body` are exact matches."""
    cells = [["model", "format", "context", *_COLUMNS.values(), *_TIMES.values()]]
    cells += [[row["model"], row["format"], row["context"], *_numbers(row)] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "".join(
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in cells
    )


def html(facts: Mapping[str, Any], tried: Sequence[tuple[Choice, Sequence[Tried]]]) -> str:
    """The page: what was compared, the table, and the replies of the best choice to read."""
    rows = facts["rows"]
    head = ["model", "format", "context", *_COLUMNS.values(), *_TIMES.values()]
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(str(row[k]))}</td>" for k in ("model", "format", "context"))
        + "".join(f"<td class=n>{cell}</td>" for cell in _numbers(row))
        + "</tr>"
        for row in rows
    )
    counts = ", ".join(f"{n} {kind}" for kind, n in facts["holes"].items())
    said = {
        "repository": f"{facts['repository']} at {facts['head'][:12]}",
        "holes": f"{counts}; seed {facts['seed']}, from the last {facts['commits']} commits",
        "tests": facts["tests"] or "none were run",
        "machine": f"{facts['machine']['cpu']}, {facts['machine']['cores']} cores",
        "date": facts["machine"]["date"],
    }
    facts_rows = "".join(f"<tr><th>{k}</th><td>{escape(str(v))}</td></tr>" for k, v in said.items())
    return page(
        "Models on this repository",
        f"<h1>Models on {escape(facts['repository'])}</h1>{_EXPLAINED}"
        f"<div class=wide><table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"
        f"{body}</table></div><table>{facts_rows}</table>{_cases(tried)}",
    )


def _numbers(row: Mapping[str, Any]) -> list[str]:
    shares = ["-" if row[k] is None else f"{100 * row[k]:.0f}" for k in _COLUMNS]
    return shares + ["-" if row[k] is None else f"{row[k]:.0f}" for k in _TIMES]


def _cases(tried: Sequence[tuple[Choice, Sequence[Tried]]]) -> str:
    parts = ["<h2>Replies to read</h2>"]
    for choice, ones in tried:
        missed = [one for one in ones if not one.exact]
        items = "".join(_case(one) for one in missed[:_MOST_CASES])
        title = f"{choice.model}, {choice.format}, {choice.context}: {len(missed)} not exact"
        parts.append(f"<details><summary>{escape(title)}</summary>{items}</details>")
    return "".join(parts)


def _case(one: Tried) -> str:
    before = "".join(one.hole.prefix.splitlines(keepends=True)[-8:])
    after = "".join(one.hole.suffix.splitlines(keepends=True)[:4])
    blocks = {"before": before, "reply": one.error or one.reply, "was": one.hole.middle,
              "after": after}  # fmt: skip
    said = "".join(f"<h4>{k}</h4><pre>{escape(v)}</pre>" for k, v in blocks.items())
    passed = "" if one.passed is None else ", tests pass" if one.passed else ", tests fail"
    return (
        f"<details><summary>{escape(one.hole.id)}: {100 * one.similarity:.0f} % alike{passed}"
        f"</summary>{said}</details>"
    )


_EXPLAINED = (
    "<p>A hole is cut where a commit of this repository added code, in the file as the commit left "
    "it. <b>line</b>, <b>lines</b> and <b>body</b> are the share of holes of that kind that a "
    "model filled exactly; <b>similar</b> is the mean edit similarity, <b>parses</b> the share of "
    "files that are valid Python afterwards, <b>tests</b> the share that passes the commit's own "
    "tests. Replies are greedy and made one at a time.</p>"
)
