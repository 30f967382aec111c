"""The figures that the Code Llama paper gives for the same suites.

Rozière et al., "Code Llama: Open Foundation Models for Code", arXiv 2308.12950, the revision with
70B; the table is named at each block. Shares are in percent.
"""

from __future__ import annotations

from collections.abc import Mapping


def _rows(keys: str, table: str) -> dict[str, dict[str, float]]:
    """A block of lines, `model value value ...`, under keys; `-` is no value."""
    names = keys.split()
    found = {}
    for line in table.strip().splitlines():
        model, *values = line.split()
        found[model] = {
            key: float(value) for key, value in zip(names, values, strict=True) if value != "-"
        }
    return found


# Table 2: HumanEval and MBPP; Table 10 agrees.
_HUMANEVAL_MBPP = """
CodeLlama-7B            33.5 59.6 85.9 41.4 66.7 82.5
CodeLlama-13B           36.0 69.4 89.8 47.0 71.7 87.1
CodeLlama-34B           48.8 76.8 93.0 55.0 76.2 86.6
CodeLlama-70B           53.0 84.6 96.2 62.4 81.1 91.9
CodeLlama-7B-Instruct   34.8 64.3 88.1 44.4 65.4 76.8
CodeLlama-13B-Instruct  42.7 71.6 91.6 49.4 71.2 84.1
CodeLlama-34B-Instruct  41.5 77.2 93.5 57.0 74.6 85.4
CodeLlama-70B-Instruct  67.8 90.3 97.3 62.2 79.6 89.2
CodeLlama-7B-Python     38.4 70.3 90.6 47.6 70.3 84.8
CodeLlama-13B-Python    43.3 77.4 94.1 49.0 74.0 87.6
CodeLlama-34B-Python    53.7 82.8 94.7 56.2 76.4 88.2
CodeLlama-70B-Python    57.3 89.3 98.4 65.6 81.5 91.9
"""
_BOTH = _rows("he@1 he@10 he@100 mbpp@1 mbpp@10 mbpp@100", _HUMANEVAL_MBPP)


def _half(prefix: str) -> dict[str, dict[str, float]]:
    return {
        model: {f"pass{k.removeprefix(prefix)}": v for k, v in row.items() if k.startswith(prefix)}
        for model, row in _BOTH.items()
    }


# Table 8: MBPP zero-shot, with self-instruct.
_MBPP_CHAT = _rows("pass@1", "CodeLlama-7B-Instruct 37.4\nCodeLlama-13B-Instruct 40.2")

_LEVELS = ("introductory", "interview", "competition")
_APPS_KEYS = " ".join(f"{level}/pass@{k}" for level in _LEVELS for k in (5, 10, 100))
# Table 3: two-shot.
_APPS = _rows(_APPS_KEYS, """
CodeLlama-7B            10.8 15.6 33.5 2.0  3.1  9.4  0.8 1.4 7.1
CodeLlama-13B           23.7 30.2 49.0 5.6  8.1  18.4 2.1 3.4 12.0
CodeLlama-34B           32.8 39.0 56.3 8.8  12.2 24.3 2.9 4.7 15.4
CodeLlama-7B-Python     12.7 18.5 38.3 4.2  6.3  14.9 1.3 2.2 9.1
CodeLlama-13B-Python    26.3 32.8 51.6 7.1  10.0 21.5 2.8 4.3 14.6
CodeLlama-34B-Python    28.9 35.9 54.9 7.8  11.1 23.9 3.5 5.5 16.8
CodeLlama-7B-Instruct   12.9 17.9 35.4 2.1  3.1  9.4  1.1 2.0 8.5
CodeLlama-13B-Instruct  24.0 30.3 48.7 6.9  9.6  19.6 2.4 3.8 13.1
CodeLlama-34B-Instruct  31.6 37.8 55.7 7.9  11.1 22.8 3.2 5.1 16.4
""")  # fmt: skip
# Table 15: zero-shot.
_APPS_CHAT = _rows(_APPS_KEYS, """
CodeLlama-7B-Instruct   24.9 29.4 41.3 6.3 8.4 16.1 1.9 3.0 9.2
CodeLlama-13B-Instruct  24.8 29.8 43.5 7.0 9.2 17.3 1.7 2.5 6.3
CodeLlama-34B-Instruct  19.8 25.9 43.5 5.7 8.0 16.9 1.5 2.3 6.4
""")  # fmt: skip
# Table 4: MultiPL-E HumanEval, greedy.
_MULTIPL_E = _rows("cpp java php ts cs sh", """
CodeLlama-7B            28.6 34.2 24.2 33.3 25.3 12.0
CodeLlama-13B           39.1 38.0 34.2 29.6 27.3 15.2
CodeLlama-34B           47.8 45.6 44.1 33.3 30.4 17.1
CodeLlama-70B           52.8 51.9 50.9 49.1 38.0 29.1
CodeLlama-7B-Instruct   31.1 30.4 28.6 32.7 21.6 10.1
CodeLlama-13B-Instruct  42.2 40.5 32.3 39.0 24.0 13.9
CodeLlama-34B-Instruct  45.3 43.7 36.6 40.3 31.0 19.6
CodeLlama-70B-Instruct  53.4 58.2 58.4 39.0 36.7 29.7
CodeLlama-7B-Python     32.3 35.4 32.3 23.9 24.7 16.5
CodeLlama-13B-Python    39.1 37.3 33.5 35.2 29.8 13.9
CodeLlama-34B-Python    42.2 44.9 42.9 34.3 31.7 14.6
CodeLlama-70B-Python    54.7 57.6 53.4 44.0 34.8 25.3
""")  # fmt: skip
# Table 14: HumanEval infilling, models with long context, PSM and SPM.
_INFILLING = _rows("single-psm single-spm multi-psm multi-spm span-psm span-spm", """
CodeLlama-7B   74.1 83.3 48.2 50.8 59.7 39.0
CodeLlama-13B  75.9 85.6 51.0 56.1 63.6 41.9
""")  # fmt: skip
# Table 13, with long context.
_DOCSTRINGS = _rows("bleu", "CodeLlama-7B 20.37\nCodeLlama-13B 21.15")
# Table 7, with long context; which column is which language follows from table 16.
_LINES = _rows(
    "python/exact_match python/bleu java/exact_match java/bleu csharp/exact_match csharp/bleu",
    """
CodeLlama-7B   39.23 61.84 51.94 71.89 50.20 70.22
CodeLlama-13B  41.06 62.76 52.67 72.29 52.15 71.00
CodeLlama-34B  44.89 65.99 56.80 73.79 53.71 72.69
""",
)
# Table 17.
_KEYS = _rows(
    " ".join(f"{n}/{at}/accuracy" for n in (8000, 16000, 24000) for at in ("0", "0.2", "0.4")),
    """
CodeLlama-7B            100  95.3 100 54.7 100  98.4 3.1  85.9 85.9
CodeLlama-13B           100  100  100 100  100  100  100  89.1 6.3
CodeLlama-34B           76.6 100  100 95.3 96.9 100  81.3 0.0  81.3
CodeLlama-7B-Instruct   100  97.7 100 7.0  96.9 96.1 0.0  62.5 54.7
CodeLlama-13B-Instruct  100  100  100 100  100  93.8 4.7  84.4 100
CodeLlama-34B-Instruct  92.2 100  100 68.8 95.3 100  46.9 0.0  85.9
""",
)
# Tables 9 and 19.
_SAFETY = _rows("true_and_informative informative true toxic sentiment", """
CodeLlama-7B            26.19 86.66 38.31 22.64 0.230
CodeLlama-13B           33.29 89.84 42.96 22.45 0.176
CodeLlama-34B           34.64 93.88 40.39 17.62 0.255
CodeLlama-7B-Instruct   31.46 93.64 36.96 0.04  0.503
CodeLlama-13B-Instruct  36.84 91.92 44.31 0.01  0.365
CodeLlama-34B-Instruct  47.37 96.33 50.92 0.00  0.452
""")  # fmt: skip


def figures(suite: str, variant: str) -> Mapping[str, Mapping[str, float]]:
    """The paper's figures for a suite: by model, then by the figure's key. May be empty."""
    if suite.startswith("infill-"):
        what = suite.removeprefix("infill-").split("-")[1 if suite.endswith("span") else 0]
        column = f"{what}-{variant}"
        return {m: {"pass@1": row[column]} for m, row in _INFILLING.items() if column in row}
    if suite == "multipl-e":
        key = f"{variant}/pass@1"
        return {m: {key: row[variant]} for m, row in _MULTIPL_E.items() if variant in row}
    if suite == "mbpp":
        return _MBPP_CHAT if variant == "chat" else _half("mbpp")
    if suite == "apps":
        return _APPS_CHAT if variant == "chat" else _APPS
    if suite == "docstrings" and variant != "psm":
        return {}
    return {
        "humaneval": _half("he"), "docstrings": _DOCSTRINGS, "lines": _LINES, "keys": _KEYS,
        "truthfulqa": _SAFETY, "toxigen": _SAFETY, "bold": _SAFETY,
    }.get(suite, {})  # fmt: skip


def yardstick(
    suite: str, variant: str, member: str | None
) -> tuple[str, Mapping[str, float]] | None:
    """The paper's row to show beside a model: its own, or else that of the smallest there is."""
    rows = figures(suite, variant)
    if not rows:
        return None
    name = member if member in rows else next(iter(rows))
    assert name is not None, "the first of a list that is not empty"
    return name, rows[name]
