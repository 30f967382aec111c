"""Files of rows, and pages that are safe to open."""

from __future__ import annotations

import gzip
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import ConfigError
from codellama.eval import report
from codellama.eval.charts import svg
from codellama.eval.data import find
from codellama.eval.failures import entries
from codellama.eval.sources.stored import StoredSource
from codellama.eval.suite import Ask, Figure, Judged, Problem, Reply
from codellama.eval.suites import Options, suite

HUMANEVAL = suite("humaneval", Options())
ROWS = [{"task_id": "a", "x": 1}, {"task_id": "b", "x": [2]}]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json"])
def test_rows_of_each_kind(tmp_path: Path, kind: str) -> None:
    lines = "\n".join(map(json.dumps, ROWS)) + "\n\n"
    data = (json.dumps(ROWS) if kind == "json" else lines).encode()
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    found = find(HUMANEVAL, path)
    assert list(found.rows()) == ROWS
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c"])
def test_what_ends_lines_elsewhere_is_part_of_a_text(tmp_path: Path, mark: str) -> None:
    text = f"a{mark}b"
    lines, cells = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    escaped = mark if ord(mark) > 31 else json.dumps(mark)[1:-1]
    lines.write_text(f'{{"task_id": "a{escaped}b"}}\n', newline="\n")
    assert list(find(HUMANEVAL, lines).rows()) == [{"task_id": text}]
    cells.write_text(f'task_id,x\n"{text}",1\n', newline="\n")
    assert list(find(HUMANEVAL, cells).rows()) == [{"task_id": text, "x": "1"}]
    assert StoredSource(stored(tmp_path, text)).n == 1


def stored(folder: Path, text: str) -> Path:
    path = folder / "samples.jsonl"
    row = json.dumps({"task_id": "a", "completion": text}, ensure_ascii=False)
    path.write_text(row + "\n", newline="\n")
    return path


def test_a_table_of_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table({"task_id": ["a"], "tests": [["x", "y"]]}), path)
    assert list(find(HUMANEVAL, path).rows()) == [{"task_id": "a", "tests": ["x", "y"]}]


def test_a_folder_has_the_suites_file(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(ROWS[0]))
    assert [row["task_id"] for row in find(HUMANEVAL, tmp_path).rows()] == ["a"]
    with pytest.raises(ConfigError, match=r"none of mbpp\.jsonl"):
        find(suite("mbpp", Options()), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"{}\n{", "line 2 is not JSON"),
        ("a.jsonl", b"[1]", "line 1 is not a JSON object"),
        ("a.json", b"{}", "not a list of objects"),
        ("a.jsonl.gz", b"plain", "cannot be read as text"),
        ("a.jsonl", b"\xff\xfe", "cannot be read as text"),
        ("a.exe", b"", "no kind that can be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        list(find(HUMANEVAL, path).rows())


def test_a_suite_that_only_needs_python_takes_the_standard_librarys() -> None:
    found = find(suite("keys", Options()), None)
    assert len(found.paths) > 50
    assert next(iter(found.rows()))["text"]


def test_infilling_needs_a_file() -> None:
    with pytest.raises(ConfigError) as refused:
        find(suite("infill-single-line", Options()), None)
    assert "HumanEval-SingleLineInfilling.jsonl.gz" in str(refused.value.hint)


EVIL = "<script>alert(1)</script>&\"'<img src=x onerror=y>"


def judged(**options: Any) -> Judged:
    ask = Ask(kind="complete", text=EVIL, suffix=EVIL)
    problem = Problem(id=f"P{EVIL}", ask=ask, row={"canonical_solution": EVIL})
    return Judged(problem=problem, sample=0, reply=Reply(text=EVIL), passed=False, reason=EVIL,
                  measures={})  # fmt: skip


def result() -> dict[str, Any]:
    figure = Figure(key="pass@1", label="pass@1", value=0.125, n=8, error=0.01)
    return {
        "suite": "humaneval", "variant": "", "title": f"HumanEval {EVIL}",
        "model": {"name": EVIL, "sha256": None, "family": None},
        "data": {"origin": EVIL, "sha256": "0", "files": 1}, "problems": 8, "samples": 8,
        "settings": {"n": 1, "temperature": 0.0, "top_p": 0.95, "seed": 0, "limit": 8, "every": 2},
        "sandbox": "full", "versions": {"codellama": "0"}, "date": "2026", "generate_s": 1.0,
        "judge_s": 2.0, "tokens": 9, "no_reply": 0, "cut_at_limit": 1,
        "figures": [vars(figure) if hasattr(figure, "__dict__") else {}],
        "curves": [{"title": EVIL, "x_label": "k", "y_label": "%", "log_x": False,
                    "lines": {EVIL: [[1, 2.0], [2, 3.0]]}}],
    }  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs), attrs
        if tag not in ("meta", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_a_page_holds_nothing_that_runs(tmp_path: Path) -> None:
    report.save(result(), [judged()], tmp_path / "humaneval")
    page, data = report.write(tmp_path)
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert not {"script", "img", "link", "iframe"} & set(tags.seen)
    assert "svg" in tags.seen
    assert "http" not in text.replace("http-equiv", "")  # nothing is fetched
    assert "12.5 ± 1.0 %" in text
    assert "33.5" in text  # the paper's smallest model beside it
    assert "(the first 8 of every 2th of the data)" in text
    [short] = json.loads(data.read_text())
    assert "failures" not in short
    assert short["paper"]["CodeLlama-7B"]["pass@1"] == 33.5


def test_verdicts_are_kept(tmp_path: Path) -> None:
    report.save(result(), [judged()], tmp_path / "humaneval")
    [line] = (tmp_path / "humaneval.verdicts.jsonl").read_text().splitlines()
    assert json.loads(line)["passed"] is False


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.result.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a result"):
        report.write(tmp_path)


def test_failures_are_spread_over_problems() -> None:
    ones = []
    for i in range(50):
        problem = Problem(id=str(i), ask=Ask(kind="complete", text=""), row={})
        for sample in range(3):
            ones.append(Judged(problem=problem, sample=sample, reply=Reply(), passed=i % 2 == 0,
                               reason="", measures={}))  # fmt: skip
    found = [int(one["problem"]) for one in entries(ones, most=5)]
    assert found == [1, 11, 21, 31, 41]


def test_a_curve_without_points_is_nothing() -> None:
    assert svg({"title": "", "x_label": "", "y_label": "", "lines": {}}) == ""


def test_a_flat_curve_is_drawn() -> None:
    drawn = svg({"title": "t", "x_label": "x", "y_label": "y", "lines": {"a": [[1, 0.0]]}})
    assert "nan" not in drawn
    assert "circle" in drawn


def test_a_report_does_not_say_where_files_lay(tmp_path: Path) -> None:
    path = tmp_path / "private" / "HumanEval.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(ROWS[0]))
    assert find(HUMANEVAL, path).origin == "HumanEval.jsonl"
    assert find(HUMANEVAL, path.parent).origin == "HumanEval.jsonl"
