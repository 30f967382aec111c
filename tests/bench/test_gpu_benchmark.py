"""The GPU's benchmark runs: a dry run at tiny shapes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.parametrize(
    ("part", "peers"),
    [
        ("7b-bf16", {"transformers", "gpt-fast style"}),
        pytest.param("34b-int8", {"gpt-fast style"}, marks=pytest.mark.slow),
        pytest.param("70b-int4", set(), marks=pytest.mark.slow),
    ],
)
def test_a_dry_run_writes_a_whole_record(tmp_path: Path, part: str, peers: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--device", "cpu", "--only", part, "--out", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["part"] == part
    assert record["is_tiny"]
    works = {work["work"]: work for work in record["works"]}
    assert list(works) == ["decode, batch 1", "decode, batch 3", "prompt of 32", "prompt of 48"]
    for name, work in works.items():
        assert set(work["engines"]) == {"codellama", *peers}
        assert all(engine["tok_s"] > 0 for engine in work["engines"].values())
        assert work["limit_share"] > 0
        assert f"| {name} |" in done.stdout


def test_without_a_gpu_it_says_what_can_be_run() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == ("PyTorch sees no CUDA device; --tiny --device cpu is a dry run")
