"""TRN-4 and TRN-5: TERM saves and leaves; without one of its processes a run ends and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codellama.train.state import load_state
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"
SHORT = [part for i in range(3) for part in ("--set", f"stages.{i}.optimiser.kind=adamw")]
SHORT += ["--set", "stages.1.max_tokens=1000", "--set", "stages.2.max_tokens=1000"]


def _start(
    corpus: Path, out: Path, *launcher: str, more: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *launcher, "codellama", "train", str(MICRO), "--corpus",
               str(corpus), "--out", str(out), *SHORT, *more]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )


def _wait_for_a_step(child: subprocess.Popen[str]) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        if " step " in line and "loss" in line:
            return
    raise AssertionError("the run ended before its first step")


def _losses(out: Path) -> dict[int, set[float]]:
    found: dict[int, set[float]] = {}
    for line in (out / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "step":
            found.setdefault(entry["step"], set()).add(entry["loss"])
    return found


def test_term_saves_and_leaves(corpus_folder: Path, tmp_path: Path) -> None:
    more = ("--set", "stages.0.max_tokens=100000000")
    child = _start(corpus_folder, tmp_path, more=more)
    _wait_for_a_step(child)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "go on with: codellama train" in err
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded.state["progress"]["step"] == max(_losses(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_one_of_two_processes_is_lost(
    corpus_folder: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """One that is frozen is given up after `patience_s`, and torchrun needs 30 s to end it."""
    two = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    more = ("--set", "stages.0.max_tokens=40000", "--set", "save_every_s=0.0",
            "--set", "patience_s=15.0")  # fmt: skip
    whole = _start(corpus_folder, tmp_path / "whole", *two, more=more)
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err

    child = _start(corpus_folder, tmp_path / "broken", *two, more=more)
    _wait_for_a_step(child)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    trainers = [int(pid) for pid in children
                if b"codellama" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # fmt: skip
    assert len(trainers) == 2
    os.kill(trainers[1], how)
    _, err = child.communicate(timeout=60 if how == signal.SIGKILL else 120)
    assert child.returncode != 0
    rest = _start(corpus_folder, tmp_path / "broken", *two, more=(*more, "--resume"))
    _, err = rest.communicate(timeout=300)
    assert rest.returncode == 0, err
    assert _losses(tmp_path / "broken") == _losses(tmp_path / "whole")
