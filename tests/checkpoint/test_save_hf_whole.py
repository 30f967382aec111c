"""Saving leaves the old folder or the new one, whatever stands there and whatever fails."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import tiny_weights
from codellama import checkpoint
from codellama.errors import CheckpointError
from codellama.quant.formats import Format, Tensor
from codellama.text.tokenizer import Tokenizer
from hostile import contents
from saving_tiny import as_tensors, only, save_tiny

# --- the destination


@pytest.mark.parametrize("kind", ["file", "link", "full"])
def test_what_exists_is_not_touched(dst: Path, tokenizer: Tokenizer, kind: str) -> None:
    dst.parent.mkdir()
    if kind == "file":
        dst.write_text("precious")
    elif kind == "link":
        dst.symlink_to(dst.parent)
    else:
        dst.mkdir()
        (dst / "config.json").write_text("precious")
    with pytest.raises(CheckpointError, match="exists"):
        save_tiny(dst, tokenizer)
    assert only(dst.parent) == ["model"]
    assert (
        kind == "link" or "precious" in (dst if kind == "file" else dst / "config.json").read_text()
    )


def test_an_empty_folder_is_filled(dst: Path, tokenizer: Tokenizer) -> None:
    dst.mkdir(parents=True)
    save_tiny(dst, tokenizer)
    assert len(contents(dst)) == 21


def test_overwriting_replaces_the_whole_folder(dst: Path, tokenizer: Tokenizer) -> None:
    save_tiny(dst, tokenizer, max_shard_bytes=1, chat_form="inst")
    new = as_tensors(tiny_weights(seed=1))
    save_tiny(dst, tokenizer, tensors=new.items(), overwrite=True)
    assert len(only(dst)) == 6
    assert contents(dst)["norm.weight"][2] == new["norm.weight"].data.tobytes()
    assert checkpoint.open(dst).chat_form is None
    assert only(dst.parent) == ["model"]


@pytest.mark.parametrize("name", ["notes.txt", "thesis", "README.md", "x.safetensors"])
def test_overwriting_spares_other_people_s_files(
    dst: Path, tokenizer: Tokenizer, name: str
) -> None:
    save_tiny(dst, tokenizer)
    (dst / name).write_text("precious")
    with pytest.raises(CheckpointError, match=f"would be lost, such as {name}"):
        save_tiny(dst, tokenizer, overwrite=True)
    assert (dst / name).read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_overwriting_is_no_way_to_write_over_a_file(
    dst: Path, tokenizer: Tokenizer, overwrite: bool
) -> None:
    dst.parent.mkdir()
    dst.write_text("precious")
    with pytest.raises(CheckpointError, match="is not a folder"):
        save_tiny(dst, tokenizer, overwrite=overwrite)
    assert dst.read_text() == "precious"


def test_a_place_that_cannot_be_written(dst: Path, tokenizer: Tokenizer) -> None:
    dst.parent.write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_tiny(dst, tokenizer)


# --- failures at every step


class Fault(BaseException):
    """Unlike an OSError, nothing expects it."""


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> list[int]:
    """Makes the `step`-th file operation of a save fail; counts them."""
    count = [0]

    def wrapped(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == step:
                raise error
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", wrapped(os.fsync))
    for name in ("rename", "mkdir", "open"):
        monkeypatch.setattr(Path, name, wrapped(getattr(Path, name)))
    return count


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Fault()], ids=repr)
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_at_any_step_leaves_the_old_or_the_new(
    dst: Path, tokenizer: Tokenizer, existing: bool, error: BaseException
) -> None:
    old, new = as_tensors(tiny_weights(seed=1)), as_tensors(tiny_weights())

    def start() -> None:
        for path in sorted(dst.parent.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if existing:
            save_tiny(dst, tokenizer, tensors=old.items())

    def attempt(step: int) -> int:
        start()
        with pytest.MonkeyPatch.context() as patch:
            count = fail_at(patch, step, error)
            with suppress(Fault if isinstance(error, Fault) else CheckpointError):
                save_tiny(dst, tokenizer, tensors=new.items(), overwrite=True)
        return count[0]

    n_steps = attempt(0)
    assert n_steps > 15
    for step in range(1, n_steps + 1):
        attempt(step)
        # The last step syncs the folder above, when the new checkpoint is already visible.
        expected = new if step == n_steps else old if existing else None
        assert dst.exists() == (expected is not None)
        if expected is not None:
            found = {name: data for name, (_, _, data) in contents(dst).items()}
            assert found == {name: tensor.data.tobytes() for name, tensor in expected.items()}
        beside = [name for name in only(dst.parent) if name != "model"]
        assert all(".old-" in name for name in beside)
        assert len(beside) == (existing and step == n_steps)


KILL = """
import os, sys
from pathlib import Path
step, count = int(sys.argv[1]), 0
def wrapped(real):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return real(*args, **kwargs)
    return call
from codellama.checkpoint.convert import convert
from codellama.text.tokenizer import Tokenizer
import codellama.checkpoint.huggingface, codellama.checkpoint.save
os.fsync = wrapped(os.fsync)
for name in ("rename", "mkdir"):
    setattr(Path, name, wrapped(getattr(Path, name)))
convert(sys.argv[2], sys.argv[3], dtype="BF16", overwrite=True)
"""


@pytest.mark.parametrize(
    "steps", [(2, 11, 12, 13), pytest.param(range(1, 15), marks=pytest.mark.slow)], ids=len
)
def test_killed_at_any_step_a_checkpoint_is_whole_or_invisible(
    tmp_path: Path, hf_folder: Path, steps: Any
) -> None:
    old, dst = contents(hf_folder), tmp_path / "model"
    new = {
        name: ("BF16", x.shape, Tensor.from_float32(x, Format.BF16).data.tobytes())
        for name, x in tiny_weights().items()
    }
    seen = set()
    for step in steps:
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        dst.mkdir()
        for file in hf_folder.iterdir():
            (dst / file.name).write_bytes(file.read_bytes())
        command = [sys.executable, "-c", KILL, str(step), str(hf_folder), str(dst)]
        status = subprocess.run(command, timeout=60).returncode
        assert status in (0, 9)
        if dst.exists():
            found = contents(dst)
            assert found in (old, new)
            seen.add("new" if found == new else "old")
        else:
            # Between the two renames the old folder waits beside, whole.
            (aside,) = tmp_path.glob(".model.old-*")
            assert contents(aside) == old
            seen.add("aside")
    assert seen == {"old", "aside", "new"}
