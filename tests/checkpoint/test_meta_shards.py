"""Models of Meta's in several files: which belong together, and what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoints_tiny import tiny_config, tiny_weights, write_meta
from codellama import checkpoint
from codellama.checkpoint import meta
from codellama.errors import CheckpointError
from hostile import refusal
from hostile_pth import State, change_state


def test_the_shards_are_numbered_without_a_gap(two_shards: Path) -> None:
    shutil.copy(two_shards / "consolidated.01.pth", two_shards / "consolidated.03.pth")
    assert "consolidated.02.pth is missing" in refusal(two_shards)
    (two_shards / "consolidated.00.pth").unlink()
    assert "consolidated.00.pth is missing" in refusal(two_shards)


@pytest.mark.parametrize("middle", ["0", "00 (1)", "x", "", "٠١", "00.pth", "00.PTH", "001"])
def test_a_shard_of_another_name_is_refused(two_shards: Path, middle: str) -> None:
    shutil.copy(two_shards / "consolidated.01.pth", two_shards / f"consolidated.{middle}.pth")
    assert "consolidated.NN.pth" in refusal(two_shards)


def test_there_are_at_most_eight_shards(two_shards: Path) -> None:
    for i in range(2, 9):
        shutil.copy(two_shards / "consolidated.01.pth", two_shards / f"consolidated.{i:02d}.pth")
    assert "more than 8" in refusal(two_shards)


def test_a_folder_without_shards_is_refused(smallest_meta: Path) -> None:
    (smallest_meta / "consolidated.00.pth").unlink()
    with pytest.raises(CheckpointError, match="holds no consolidated"):
        meta.open(smallest_meta)


@pytest.mark.parametrize(("n_shards", "n_left"), [(2, 1), (4, 1), (4, 2)])
def test_shards_that_were_not_downloaded_are_counted(
    tmp_path: Path, n_shards: int, n_left: int
) -> None:
    folder = write_meta(tmp_path, tiny_config(n_kv_heads=4), n_shards=n_shards, tokenizer=False)
    for i in range(n_left, n_shards):
        (folder / f"consolidated.{i:02d}.pth").unlink()
    assert f"has {n_left} of {n_shards} consolidated files" in refusal(folder)


def test_a_shard_too_many_is_refused(two_shards: Path) -> None:
    shutil.copy(two_shards / "consolidated.01.pth", two_shards / "consolidated.02.pth")
    assert "wrong shape" in refusal(two_shards)


def test_a_shard_of_another_model_is_refused(two_shards: Path, tmp_path: Path) -> None:
    others = {
        "smaller": tiny_config(dim=32, head_dim=8),
        "longer": tiny_config(n_layers=3),
        "of another vocabulary": tiny_config(vocab_size=324),
    }
    for name, config in others.items():
        other = write_meta(tmp_path / name, config, n_shards=2, tokenizer=False)
        for i in range(2):
            mixed = shutil.copytree(two_shards, tmp_path / f"{name} {i}")
            file = f"consolidated.{i:02d}.pth"
            shutil.copy(other / file, mixed / file)
            assert "parts do not fit" in (text := refusal(mixed)) or "only one of" in text


def test_shards_of_two_trainings_are_found_by_their_norms(two_shards: Path, tmp_path: Path) -> None:
    """Same sizes, other numbers: only what should be the same in all files can tell."""
    other = write_meta(
        tmp_path / "other", weights=tiny_weights(seed=1), n_shards=2, tokenizer=False
    )
    shutil.copy(other / "consolidated.01.pth", two_shards / "consolidated.01.pth")
    text = refusal(two_shards)
    assert "hold different values" in text
    assert "norm" in text


def test_shards_in_different_formats_are_refused(two_shards: Path, tmp_path: Path) -> None:
    other = write_meta(tmp_path / "other", n_shards=2, dtype="F16", tokenizer=False)
    shutil.copy(other / "consolidated.01.pth", two_shards / "consolidated.01.pth")
    text = refusal(two_shards)
    assert "BF16" in text
    assert "F16" in text.replace("BF16", "")


def test_formats_may_differ_from_tensor_to_tensor(smallest_meta: Path) -> None:
    def widen(state: State) -> None:
        state["norm.weight"] = state["norm.weight"].float()
        state["output.weight"] = state["output.weight"].half()

    before = {
        name: tensor.to_float32() for name, tensor in checkpoint.open(smallest_meta).tensors()
    }
    change_state(smallest_meta, widen)
    reader = checkpoint.open(smallest_meta)
    assert {name: info.format for name, info in reader.infos.items() if info.format != "BF16"} == {
        "norm.weight": "F32",
        "lm_head.weight": "F16",
    }
    for name, tensor in reader.tensors():
        assert np.array_equal(tensor.to_float32(), before[name])
