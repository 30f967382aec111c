"""Two processes of Ray Train, and two of torchrun, are one process: the same losses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

from test_parallel import _command, _losses, _run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; use make test-ray"
)


def test_ray_train_and_torchrun_are_one_process(corpus_folder: Path, tmp_path: Path) -> None:
    kinds = [part for i in range(3) for part in ("--set", f"stages.{i}.optimiser.kind=adamw")]
    commands = {
        "one": _command(corpus_folder, tmp_path / "one", 1, *kinds),
        "torchrun": _command(corpus_folder, tmp_path / "torchrun", 2, *kinds),
        "ray": _command(corpus_folder, tmp_path / "ray", 1, *kinds, "--cluster", "--workers", "2"),
    }
    for name, words in commands.items():
        done = _run(words)
        assert done.returncode == 0, (name, done.stderr[-3000:])
    one, torchrun, ray = (_losses(tmp_path / name) for name in commands)
    assert len(one) == len(torchrun) == len(ray) > 8
    for (loss, norm), *others in zip(one, torchrun, ray, strict=True):
        for other, other_norm in others:
            assert other == pytest.approx(loss, rel=1e-5)
            assert other_norm == pytest.approx(norm, rel=1e-3)
    assert ray == torchrun  # the same processes in the same loop
