"""The GPU's benchmark runs: a dry run at tiny shapes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


TRANSFORMERS, GPT_FAST = "transformers in bf16", "gpt-fast style"


def dry_run(folder: Path, part: str, *more: str) -> tuple[dict[str, Any], str, str]:
    """The record, and what went to standard output and standard error."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--device", "cpu", "--only", part, "--out", folder,
         *more],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    record = json.loads(path.read_text())
    assert record["part"] == part
    assert record["is_tiny"]
    names = [work["work"] for work in record["works"]]
    assert names == ["decode, batch 1", "decode, batch 3", "prompt of 32", "prompt of 48"]
    for work in record["works"]:
        assert all(engine["tok_s"] > 0 for engine in work["engines"].values())
        assert work["limit_share"] > 0
        assert f"| {work['work']} |" in done.stdout
    return record, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("part", "peers"),
    [
        ("7b-bf16", {TRANSFORMERS, GPT_FAST}),
        pytest.param("34b-int8", {TRANSFORMERS, GPT_FAST}, marks=pytest.mark.slow),
        pytest.param("70b-int4", {TRANSFORMERS, GPT_FAST}, marks=pytest.mark.slow),
        pytest.param("7b-fp8", {TRANSFORMERS}, marks=pytest.mark.slow),
    ],
)
def test_a_dry_run_writes_a_whole_record(tmp_path: Path, part: str, peers: set[str]) -> None:
    record, _, said = dry_run(tmp_path, part)
    assert record["left_out"] == []
    assert "left out" not in said
    for work in record["works"]:
        assert set(work["engines"]) == {"codellama", *peers}
        assert all(work["engines"][peer]["ratio"] > 0 for peer in peers)


@pytest.mark.slow
def test_when_the_minutes_are_over_we_are_measured_alone(tmp_path: Path) -> None:
    record, table, said = dry_run(tmp_path, "7b-bf16", "--minutes", "0")
    assert all(set(work["engines"]) == {"codellama"} for work in record["works"])
    assert len(record["left_out"]) == 8
    assert f"{GPT_FAST}, decode, batch 1 is left out: the minutes are over" in said
    assert "ratio" not in table


def test_every_part_that_was_asked_for_is_listed() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--list"], capture_output=True, text=True,
                          check=True)  # fmt: skip
    wanted = {
        f"{size}-{kind}" for size in ("7b", "13b", "34b") for kind in ("bf16", "int8", "int4")
    }
    assert wanted | {"70b-int8", "70b-int4"} <= set(done.stdout.split())


def test_without_a_gpu_it_says_what_can_be_run() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == ("PyTorch sees no CUDA device; --tiny --device cpu is a dry run")
