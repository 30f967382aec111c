"""TRN-1 and TRN-6. Checkpoints are whole or not there, whatever happens during a save."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.train.disk import Disk
from codellama.train.state import Loaded, holds_run, load_state, save_state

_WRITER = """
import sys, torch
from pathlib import Path
from codellama.train.state import save_state
for step in range(1, 100000):
    save_state(Path(sys.argv[1]), step, {"w": torch.full((50_000,), float(step))}, {"step": step})
    print(step, flush=True)
"""


def _save(folder: Path, step: int, disk: Disk | None = None) -> Path:
    tensors = {"w": torch.full((300,), float(step)), "b": torch.tensor([step])}
    return save_state(folder, step, tensors, {"step": step}, disk=disk)


def _load(folder: Path) -> Loaded:
    loaded = load_state(folder)
    assert loaded is not None
    step = loaded.state["step"]
    assert bool((loaded.tensors["w"] == step).all())
    assert loaded.tensors["b"].tolist() == [step]
    return loaded


def test_the_newest_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        _save(tmp_path, step)
    loaded = _load(tmp_path)
    assert (loaded.state, loaded.skipped) == ({"step": 30}, ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-000002", "step-000030"]
    assert json.loads((tmp_path / "LATEST").read_text()) == {"checkpoint": "step-000030"}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert not holds_run(tmp_path)


def test_a_step_saved_twice_leaves_the_first_alone(tmp_path: Path) -> None:
    first = _save(tmp_path, 4)
    second = save_state(tmp_path, 4, {"w": torch.zeros(2)}, {"step": 4, "stage": 1})
    assert (first.name, second.name) == ("step-000004", "step-000004.1")
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded.state == {"step": 4, "stage": 1}


class _Crash(BaseException):
    """The process is gone, or the power is."""


class _FaultyDisk(Disk):
    """Dies or fails at operation `at`, and loses what was not synced when `loses`.

    kinds: "kill" before the operation; "torn" in the middle of it; "lost" before it, after which
    content that was never synced is gone; "late" like "lost", but names that were not synced have
    come true all the same; "ENOSPC" and "EIO" are errors that the program lives to see.
    """

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind, self.n = at, kind, 0
        self.unsynced: dict[Path, None] = {}
        self.unsynced_names: list[tuple[Path, Path]] = []

    def _operation(self) -> bool:
        """Counts; True when the coming operation is to be torn."""
        self.n += 1
        if self.n != self.at:
            return False
        if self.kind in ("ENOSPC", "EIO"):
            raise OSError(getattr(errno, self.kind), os.strerror(getattr(errno, self.kind)))
        if self.kind in ("lost", "late"):
            self._lose()
        if self.kind == "torn":
            return True
        raise _Crash

    def _lose(self) -> None:
        for path in self.unsynced:
            if path.exists():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if self.kind == "lost":
            for before, after in reversed(self.unsynced_names):
                if after.exists():
                    after.rename(before)

    def write_tensors(
        self, path: Path, tensors: Mapping[str, Tensor], notes: dict[str, str] | None = None
    ) -> None:
        torn = self._operation()
        super().write_tensors(path, tensors, notes)
        self._written(path, torn)

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        torn = self._operation()
        super().write_json(path, value)
        self._written(path, torn)

    def _written(self, path: Path, torn: bool) -> None:
        self.unsynced[path] = None
        if torn:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
            raise _Crash

    def make_folder(self, path: Path) -> None:
        torn = self._operation()
        super().make_folder(path)
        if torn:
            raise _Crash

    def sync(self, path: Path) -> None:
        if self._operation():
            raise _Crash
        super().sync(path)
        self.unsynced.pop(path, None)
        self.unsynced_names = [n for n in self.unsynced_names if n[1].parent != path]

    def rename(self, path: Path, target: Path) -> None:
        torn = self._operation()
        if target.exists():  # the pointer: what it replaces can come back as well as not
            target.unlink()
        super().rename(path, target)
        self.unsynced = {
            target / p.name if p.parent == path else (target if p == path else p): None
            for p in self.unsynced
        }
        self.unsynced_names.append((path, target))
        if torn:
            raise _Crash

    def remove_folder(self, path: Path) -> None:
        if self._operation():
            for file in list(path.iterdir())[:1]:
                file.unlink()
            raise _Crash
        super().remove_folder(path)


def _count_operations(folder: Path) -> int:
    for step in (1, 2):
        _save(folder, step)
    (folder / "step-000009.tmp-00ff").mkdir()
    counter = _FaultyDisk(0, "kill")
    _save(folder, 3, counter)
    return counter.n


@pytest.mark.parametrize("kind", ["kill", "torn", "lost", "late", "ENOSPC", "EIO"])
def test_a_fault_at_any_operation_of_a_save_loses_nothing(tmp_path: Path, kind: str) -> None:
    n = _count_operations(tmp_path / "count")
    assert n == 16, "not the operations that a save is known to have"
    seen = set()
    for at in range(1, n + 1):
        folder = tmp_path / str(at)
        for step in (1, 2):
            _save(folder, step)
        (folder / "step-000009.tmp-00ff").mkdir()
        with pytest.raises((_Crash, CheckpointError)):
            _save(folder, 3, _FaultyDisk(at, kind))
        loaded = _load(folder)
        seen.add(loaded.state["step"])
        assert loaded.state["step"] in (2, 3)
        _save(folder, 4)  # and the run goes on
        assert _load(folder).state == {"step": 4}
        assert not list(folder.glob("*.tmp-*"))
        shutil.rmtree(folder)
    assert seen == {2, 3}


def test_a_full_disk_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"step-000002 could not be saved: .*No space left"):
        _save(tmp_path, 2, _FaultyDisk(2, "ENOSPC"))
    assert _load(tmp_path).state == {"step": 1}


def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        for _ in range(5):
            child.stdout.readline()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] >= 5
    assert bool((loaded.tensors["w"] == loaded.state["step"]).all())


def _damage(folder: Path, how: str) -> None:
    tensors = folder / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    if how == "bit":
        data[-5] ^= 4
        tensors.write_bytes(data)
    elif how == "short":
        tensors.write_bytes(data[:-1])
    elif how == "long":
        tensors.write_bytes(data + b"\0")
    elif how == "gone":
        tensors.unlink()
    elif how == "state":
        (folder / "state.json").write_text("{}")
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "manifest":
        (folder / "manifest.json").write_text("[]")
    elif how == "other step":
        shutil.copyfile(folder.parent / "step-000001" / tensors.name, tensors)


@pytest.mark.parametrize(
    "how", ["bit", "short", "long", "gone", "state", "no manifest", "manifest", "other step"]
)
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, how: str) -> None:
    _save(tmp_path, 1)
    _damage(_save(tmp_path, 2), how)
    loaded = _load(tmp_path)
    assert loaded.state == {"step": 1}
    assert len(loaded.skipped) == 1
    assert "step-000002" in loaded.skipped[0]


def test_damaged_ones_only_stop_the_run(tmp_path: Path) -> None:
    _damage(_save(tmp_path, 4), "bit")
    assert holds_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint: step-000004/tensors"):
        load_state(tmp_path)
