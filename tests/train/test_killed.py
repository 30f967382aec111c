"""Law 10 at its hardest: killed again and again, a run's figures are those of an unbroken one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("killing.py")


def _train(corpus: Path, out: Path, n_kills: int, n_processes: int) -> int:
    paths = os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(corpus), str(out), str(n_kills),
         str(n_processes)],
        capture_output=True, text=True, timeout=3600,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _figures(out: Path) -> dict[str, set[str]]:
    """Step -> the different lines that were written about it; torn last lines do not count."""
    found: dict[str, set[str]] = {}
    for line in (out / "figures").read_text().splitlines():
        if len(line.split(" ")) == 5 and line.endswith(("True", "False")):
            found.setdefault(line.split(" ")[0], set()).add(line)
    return found


@pytest.mark.parametrize(
    ("n_kills", "n_processes"),
    [
        (5, 1),
        pytest.param(40, 1, marks=pytest.mark.slow),
        pytest.param(3, 2, marks=pytest.mark.slow),
        pytest.param(40, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_equals_unbroken(
    corpus_folder: Path, tmp_path: Path, n_kills: int, n_processes: int
) -> None:
    """TRN-2."""
    _train(corpus_folder, tmp_path / "whole", 0, n_processes)
    n_killed = _train(corpus_folder, tmp_path / "broken", n_kills, n_processes)
    assert n_killed > 0
    whole, broken = _figures(tmp_path / "whole"), _figures(tmp_path / "broken")
    assert len(whole) >= 50
    assert broken == whole  # in every step's every attempt, to the last bit
    one, two = (load_file(tmp_path / n / "chat.safetensors") for n in ("whole", "broken"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert torch.equal(two[name], weight), name
