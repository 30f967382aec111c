"""The scripts beside the package: other engines' answers understood, and tables made of results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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

    engine = Ik(programs, "m.gguf", 2)
    said = programs / "said"
    assert engine.prefill(512) == pytest.approx(512 / 200)
    assert said.read_text().split()[:8] == ["-m", "m.gguf", "-t", "2", "-p", "512", "-n", "0"]
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


def test_the_documented_tables_are_those_of_the_newest_result() -> None:
    from table import markdown

    results = sorted((BENCHMARKS / "results").glob("*_cpu-peers_*.json"))
    assert results
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    made = page.split("<!-- made by benchmarks/table.py -->\n")[1].split("<!-- end -->")[0]
    assert made.strip() == markdown(json.loads(results[-1].read_text())).strip(), (
        f"run: python benchmarks/table.py {results[-1]}"
    )
