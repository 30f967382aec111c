"""The scripts beside the package: other engines' answers understood, and tables made of results."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DOCS = Path(__file__).parents[2] / "docs"

BENCH = """#!/bin/sh
echo "warming up" >&2
echo "$@" > "$(dirname "$0")/said"
echo '[{"avg_ts": 200.0, "samples_ts": [200.0]}]'
"""
BATCHED = """#!/bin/sh
echo "$@" > "$(dirname "$0")/said"
echo "main: n_kv_max = 640"
echo "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |"
echo "|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|"
echo "|     1 |     64 |    8 |    520 |    0.100 |    80.00 |    1.000 |   512.00 |    1.100 |   472.73 |"
"""  # noqa: E501  # as the program prints them


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("ik", "table"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, text in (("llama-bench", BENCH), ("llama-batched-bench", BATCHED)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_what_ik_prints_becomes_seconds(programs: Path) -> None:
    from ik import Ik

    engine = Ik(programs, "/m.gguf", 2)
    said = programs / "said"
    assert engine.prefill(512) == pytest.approx(512 / 200)
    assert said.read_text().split()[:8] == ["-m", "/m.gguf", "-t", "2", "-p", "512", "-n", "0"]
    assert "-rtr 1" in said.read_text()
    assert engine.decode(64, 1) == pytest.approx(64 / 200)
    assert engine.decode(64, 8) == pytest.approx(1.0)
    assert "-npl 8" in said.read_text()


def test_a_program_that_fails_is_reported_with_its_last_words(programs: Path) -> None:
    from ik import Ik

    from codellama.errors import EngineFailed

    (programs / "llama-bench").write_text("#!/bin/sh\necho 'cannot load it' >&2\nexit 3\n")
    with pytest.raises(EngineFailed, match="ended with 3: cannot load it"):
        Ik(programs, "m.gguf", 1).prefill(8)


def test_a_result_says_what_was_measured_and_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grid

    from codellama.errors import OutOfMemory

    def measure(shape: str, format: str, args: Namespace, skipped: list[str]) -> dict[str, Any]:
        if shape == "7b":
            raise OutOfMemory("no room")
        skipped.append(f"{shape} {format}, other: it is not here")
        return {"shape": shape, "format": format}

    monkeypatch.setattr(sys, "argv", ["benchmarks/peers.py", "--repeat", "2"])
    parser = grid.parser("Something measured.", ["s", "7b"], ["q4_0", "q8_0"], cache="kept here")
    args = parser.parse_args(["--repeat", "2", "--formats", "q8_0", "--out", f"{tmp_path}/a/r"])
    assert grid.run("a theme", "name", args, measure, str) == 0
    found = json.loads((tmp_path / "a" / "r").read_text())
    assert list(found) == ["theme", "date", "commit", "command", "machine", "threads", "repeat",
                           "runs", "skipped"]  # fmt: skip
    assert (found["theme"], found["repeat"]) == ("a theme", 2)
    assert found["command"] == "python benchmarks/peers.py --repeat 2"
    assert found["runs"] == [{"shape": "s", "format": "q8_0"}]
    assert found["skipped"] == ["s q8_0, other: it is not here", "7b q8_0: no room"]
    args.shapes = ["7b"]
    assert grid.run("a theme", "name", args, measure, str) == 1


def test_the_documented_tables_are_those_of_the_newest_result() -> None:
    from table import markdown

    results = [
        sorted((BENCHMARKS / "results").glob(name))[-1]
        for name in ("*_cpu-peers_*.json", "*_cpu-peers-7b_*.json")
    ]
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    made = page.split("<!-- made by benchmarks/table.py -->\n")[1].split("<!-- end -->")[0]
    tables = [markdown(json.loads(result.read_text())).strip() for result in results]
    assert made.strip() == "\n\n".join(tables), f"run: python benchmarks/table.py {results}"


def test_the_documented_servers_are_those_of_the_newest_result() -> None:
    from serve_table import markdown

    results = sorted((BENCHMARKS / "results").glob("*_serve_*.json"))
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    made = page.split("<!-- made by benchmarks/serve_table.py -->\n")[1]
    made = made.split("<!-- end of servers -->")[0]
    expected = markdown(json.loads(results[-1].read_text())) if results else ""
    assert made.strip() == expected.strip(), "run: python benchmarks/serve_table.py RESULT"


def test_servers_are_put_side_by_side_by_streams() -> None:
    from serve_table import markdown

    def row(n: int, speed: float, complete: int) -> dict[str, Any]:
        others = ("tokens", "first_p50_ms", "first_p99_ms", "gap_p50_ms", "gap_p99_ms")
        return {"streams": n, "tokens_per_s": speed, "complete": complete, "memory_mib": 9,
                **dict.fromkeys(others, 5.0)}  # fmt: skip

    record = {
        "machine": {"cpu": "a CPU", "memory_gb": 4}, "threads": 2, "date": "2026-01-01T00:00",
        "commit": "abc", "tokens": 8, "skipped": {"vllm": "it is not here"},
        "runs": [{"model": "nano", "format": "f32", "samples": {
            "ours": [row(1, 10, 1), row(1, 30, 1), row(1, 20, 1), row(8, 99, 8)],
            "llama": [row(1, 7, 1), row(8, 50, 6)],
        }}],
    }  # fmt: skip
    lines = markdown(record).splitlines()
    table = [line.split(" | ") for line in lines if line.startswith(("| 1 ", "| 8 "))]
    assert [(cells[0], cells[1], cells[2]) for cells in table] == [
        ("| 1", "codellama", "20"), ("| 1", "llama.cpp", "7"),
        ("| 8", "codellama", "99"), ("| 8", "llama.cpp (2 failed)", "50"),
    ]  # fmt: skip
    assert lines[-1] == "Left out: vLLM, it is not here."
    assert "medians of 1 to 3 rounds" in lines[0]


def test_a_result_of_servers_grows_in_pieces(tmp_path: Path) -> None:
    from serve import Record

    path, how = tmp_path / "r.json", Namespace(threads=2, tokens=64)
    for server in ("ours", "llama", "ours"):
        record = Record(path, how)
        record.add("nano", server, f"start {server}", [{"streams": 1, "tokens_per_s": 5.0}])
        record.save({"llama": "it is not here", "vllm": "nor this"})
    (run,) = json.loads(path.read_text())["runs"]
    assert {server: len(rows) for server, rows in run["samples"].items()} == {"ours": 2, "llama": 1}
    assert json.loads(path.read_text())["skipped"] == {"vllm": "nor this"}
    with pytest.raises(SystemExit, match="has 64 tokens: add to another file"):
        Record(path, Namespace(threads=2, tokens=8))
