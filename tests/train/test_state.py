"""Checkpoints of a run: whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from codellama.errors import CheckpointError
from codellama.train.state import load_state, save_state

_WRITER = """
import sys, torch
from pathlib import Path
from codellama.train.state import save_state
for step in range(1, 100000):
    save_state(Path(sys.argv[1]), step, {"w": torch.full((50_000,), float(step))}, {"step": step})
    print(step, flush=True)
"""


def test_the_newest_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        save_state(tmp_path, step, {"w": torch.full((3,), float(step))}, {"step": step})
    loaded = load_state(tmp_path)
    assert loaded is not None
    tensors, state, skipped = loaded
    assert (tensors["w"].tolist(), state, skipped) == ([30.0] * 3, {"step": 30}, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000030"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


def test_a_crash_before_the_rename_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, 1, {"w": torch.zeros(2)}, {"step": 1})

    def crash(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, 2, {"w": torch.ones(2)}, {"step": 2})
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded[1:] == ({"step": 1}, ["step-000002.partial"])
    save_state(tmp_path, 2, {"w": torch.ones(2)}, {"step": 2})
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded[1:] == ({"step": 2}, [])


def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        for _ in range(5):
            child.stdout.readline()
        time.sleep(0.003)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    loaded = load_state(tmp_path)
    assert loaded is not None
    tensors, state, _ = loaded
    assert state["step"] >= 5
    assert bool((tensors["w"] == state["step"]).all())


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = save_state(tmp_path, 4, {"w": torch.zeros(2)}, {})
    (folder / "tensors.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="step-000004 cannot be read"):
        load_state(tmp_path)
