"""Results of a folder as one page and one JSON file, the paper's figures beside the measured ones.

What models write is a stranger's text: everything is escaped, and the page holds no script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError
from codellama.eval import paper
from codellama.eval.charts import svg
from codellama.eval.failures import entries
from codellama.eval.page import page
from codellama.eval.suite import Judged

_RESULT = ".result.json"
_NEEDED = {"suite", "variant", "title", "model", "figures", "curves", "settings"}


def save(result: Mapping[str, Any], judged: Sequence[Judged], stem: Path) -> Path:
    """Writes a run's result, with failures to read, as `<stem>.result.json`, and the verdict on
    each sample as `<stem>.verdicts.jsonl`."""
    path = stem.with_name(stem.name + _RESULT)
    failures = entries(judged)
    verdicts = "".join(
        json.dumps(
            {
                "task_id": one.problem.id,
                "sample": one.sample,
                "passed": one.passed,
                "reason": one.reason,
                **one.measures,
            }
        )
        + "\n"
        for one in judged
    )
    stem.with_name(stem.name + ".verdicts.jsonl").write_text(verdicts)
    path.write_text(json.dumps({**result, "failures": failures}, indent=1) + "\n")
    return path


def load(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder, by file name. Raises ConfigError for one that is damaged."""
    found = []
    for path in sorted(folder.glob("*" + _RESULT)):
        try:
            result = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
        if not isinstance(result, dict) or not result.keys() >= _NEEDED:
            raise ConfigError(f"{path} is not a result of `codellama eval`")
        found.append(result)
    return found


def write(folder: Path) -> tuple[Path, Path]:
    """Writes `report.html` and `report.json` of all results in a folder."""
    results = load(folder)
    shown_at, data = folder / "report.html", folder / "report.json"
    shown_at.write_text(html(results), encoding="utf-8")
    short = [{k: v for k, v in one.items() if k != "failures"} | {"paper": _paper(one)}
             for one in results]  # fmt: skip
    data.write_text(json.dumps(short, indent=1) + "\n")
    return shown_at, data


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Figures as a text table, for a terminal."""
    rows = [("suite", "figure", "measured", "n", "paper")]
    for result in results:
        name, theirs = _yardstick(result)
        for figure in result["figures"]:
            value = theirs.get(figure["key"])
            said = "" if value is None else f"{value:g} ({name})"
            rows.append(
                (_title(result), figure["label"], shown(figure), str(figure["n"]), said)
            )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def shown(figure: Mapping[str, Any]) -> str:
    """A figure with its standard error, as people read it."""
    scale = 100 if figure["unit"] == "%" else 1
    digits = 1 if scale == 100 else 3
    text = f"{scale * figure['value']:.{digits}f}"
    if figure["error"] is not None:
        text += f" ± {scale * figure['error']:.{digits}f}"
    return text + (f" {figure['unit']}" if figure["unit"] else "")


def html(results: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    models = ", ".join(sorted({one["model"]["name"] for one in results})) or "no run yet"
    body = [f"<h1>Evaluation of {escape(models)}</h1>", _INTRO, _overview(results)]
    body += [_section(one) for one in results]
    return page(f"Evaluation of {models}", "\n".join(body))


def _overview(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        name, theirs = _yardstick(result)
        figures = result["figures"]
        # A suite of many groups has its own table; here its first figures are enough.
        for figure in figures[:4]:
            value = theirs.get(figure["key"])
            beside = "" if value is None else f"{value:g} <small>{escape(name)}</small>"
            rows.append(
                f"<tr><td>{escape(_title(result))}</td><td>{escape(figure['label'])}</td>"
                f"<td class=n>{escape(shown(figure))}</td><td class=n>{figure['n']}</td>"
                f"<td class=n>{beside}</td></tr>"
            )
    return (
        "<table><tr><th>suite</th><th>figure</th><th>measured</th><th>problems</th>"
        f"<th>paper</th></tr>{''.join(rows)}</table>"
    )


def _section(result: Mapping[str, Any]) -> str:
    curves = "".join(f"<h3>{escape(c['title'])}</h3>{svg(c)}" for c in result["curves"])
    return (
        f"<h2>{escape(_title(result))}</h2>{_comparison(result)}{curves}"
        f"{_facts(result)}{_failures(result.get('failures', []))}"
    )


def _comparison(result: Mapping[str, Any]) -> str:
    """The measured row and, below it, all rows of the paper with the same columns."""
    figures = result["figures"]
    if not figures:
        return "<p>Nothing was measured.</p>"
    rows = paper.figures(result["suite"], result["variant"])
    head = "".join(f"<th>{escape(one['label'])}</th>" for one in figures)
    own = "".join(f"<td class=n>{escape(shown(one))}</td>" for one in figures)
    body = f"<tr class=own><td>{escape(result['model']['name'])}, measured</td>{own}</tr>"
    for model, row in rows.items():
        cells = [row.get(one["key"]) for one in figures]
        if any(cell is not None for cell in cells):
            said = "".join(f"<td class=n>{'' if c is None else f'{c:g}'}</td>" for c in cells)
            body += f"<tr><td>{escape(model)}, paper</td>{said}</tr>"
    return f"<div class=wide><table><tr><th></th>{head}</tr>{body}</table></div>"


def _facts(result: Mapping[str, Any]) -> str:
    model, data, settings = result["model"], result["data"], result["settings"]
    facts = {
        "model": f"{model['name']}, sha256 {model.get('sha256') or 'unknown'}{_computed(model)}",
        "data": f"{data['origin']}, sha256 {data['sha256']}",
        "problems": f"{result['problems']}" + _part(settings),
        "samples": f"{result['samples']} ({settings['n']} to each problem), {_drawn(result)}, "
        f"top-p {settings['top_p']:g}, seed {settings['seed']}, {result['tokens']} tokens",
        "unfinished": f"{result['cut_at_limit']} cut at the limit of tokens, "
        f"{result['no_reply']} without a reply",
        "sandbox": result["sandbox"] or "no program was run",
        "versions": ", ".join(f"{k} {v}" for k, v in result["versions"].items()),
        "date": f"{result['date']}; {result['generate_s']:g} s for samples, "
        f"{result['judge_s']:g} s for verdicts",
    }
    rows = "".join(f"<tr><th>{k}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return f"<details><summary>How it was measured</summary><table>{rows}</table></details>"


def _computed(model: Mapping[str, Any]) -> str:
    """What computed it and in which numbers, where somebody chose."""
    chosen = model.get("computed", {}).items()
    return "".join(f", {name.replace('_', ' ')} {value}" for name, value in chosen)


def _title(result: Mapping[str, Any]) -> str:
    """The suite and how replies were drawn, which tells apart its runs."""
    n = result["settings"]["n"]
    return f"{result['title']}, {_drawn(result)}" + (f", {n} samples" if n > 1 else "")


def _drawn(result: Mapping[str, Any]) -> str:
    if "samples_sha256" in result["model"]:
        return "stored"
    temperature = result["settings"]["temperature"]
    return f"temperature {temperature:g}" if temperature else "greedy"


def _part(settings: Mapping[str, Any]) -> str:
    words = []
    if settings.get("every", 1) > 1:
        words.append(f"every {settings['every']}th")
    if settings.get("limit"):
        words.append(f"the first {settings['limit']}")
    return f" ({' of '.join(reversed(words))} of the data)" if words else ""


def _failures(failures: Sequence[Mapping[str, Any]]) -> str:
    if not failures:
        return ""
    items = []
    for one in failures:
        blocks = [("asked", "…" + one["asked"]), ("reply", one["reply"])]
        blocks += [("after the hole", one["after"])] if one["after"] else []
        blocks += [("expected", one["expected"])] if one["expected"] else []
        said = "".join(f"<h4>{k}</h4><pre>{escape(v)}</pre>" for k, v in blocks)
        items.append(
            f"<details><summary>{escape(one['problem'])}: {escape(one['reason'] or 'differs')}"
            f"</summary>{said}</details>"
        )
    title = f"Failing cases to read ({len(items)})"
    return f"<details><summary>{title}</summary>{''.join(items)}</details>"


def _yardstick(result: Mapping[str, Any]) -> tuple[str, Mapping[str, float]]:
    found = paper.yardstick(result["suite"], result["variant"], result["model"].get("family"))
    return found or ("", {})


def _paper(result: Mapping[str, Any]) -> dict[str, Any]:
    return {m: dict(row) for m, row in paper.figures(result["suite"], result["variant"]).items()}


_INTRO = (
    "<p>Shares are in percent, with their standard error over problems. Where the model is no "
    "member of the Code Llama family, the paper's smallest model stands beside it as a "
    "yardstick.</p>"
)
