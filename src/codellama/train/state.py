"""Everything a run needs to go on as if it had never stopped.

A checkpoint is a folder `step-000123`:

    tensors.safetensors   weights and optimiser
    state.json            counters and the position in the data; random numbers are keyed by
                          position, so there is no generator to save
    manifest.json         name, size and SHA-256 of both, written last

It is written under `step-000123.tmp-…`, every file and then the folder synced, renamed, and the
parent synced; `LATEST` names it from then on. Loading takes the newest folder of which every byte
agrees with its manifest. Nothing is ever written into a folder that already has its name: a second
save of one step becomes `step-000123.1`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from codellama.errors import CheckpointError
from codellama.train.disk import Disk, file_digest

_TENSORS, _STATE, _MANIFEST, _LATEST = (
    "tensors.safetensors",
    "state.json",
    "manifest.json",
    "LATEST",
)
_FINISHED = re.compile(r"step-(\d+)(?:\.(\d+))?")
_UNFINISHED = re.compile(r"step-\d+(?:\.\d+)?\.tmp-[0-9a-f]+|LATEST\.tmp-[0-9a-f]+")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint, and what was passed over to get to it: one sentence each."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    skipped: tuple[str, ...]


def save_state(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    disk: Disk | None = None,
) -> Path:
    """Writes one checkpoint, then removes all but the newest `keep` and what crashes left.

    Raises:
        CheckpointError: the disk refuses; older checkpoints are as they were.
    """
    disk = disk or Disk()
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:06d}"
    serial = 0
    while final.exists():
        serial += 1
        final = folder / f"step-{step:06d}.{serial}"
    partial = folder / f"{final.name}.tmp-{secrets.token_hex(4)}"
    try:
        disk.make_folder(partial)
        whole = {name: t.detach().contiguous() for name, t in tensors.items()}
        disk.write_tensors(partial / _TENSORS, whole)
        disk.write_json(partial / _STATE, state)
        for name in (_TENSORS, _STATE):
            disk.sync(partial / name)
        files = {
            name: {"size": (partial / name).stat().st_size, "sha256": file_digest(partial / name)}
            for name in (_TENSORS, _STATE)
        }
        disk.write_json(partial / _MANIFEST, {"step": step, "files": files})
        disk.sync(partial / _MANIFEST)
        disk.sync(partial)
        disk.rename(partial, final)
        disk.sync(folder)
        pointer = folder / f"{_LATEST}.tmp-{secrets.token_hex(4)}"
        disk.write_json(pointer, {"checkpoint": final.name})
        disk.sync(pointer)
        disk.rename(pointer, folder / _LATEST)
        disk.sync(folder)
        for old in _finished(folder)[:-keep]:
            disk.remove_folder(old)
        for left in unfinished(folder):
            if left.is_dir():
                disk.remove_folder(left)
            else:
                left.unlink()
    except OSError as error:
        raise CheckpointError(
            f"{final} could not be saved: {error}",
            hint="make room on the disk; the run goes on from the checkpoint before with --resume",
        ) from error
    return final


def holds_run(folder: Path) -> bool:
    """Whether a run has left a finished checkpoint in `folder`, damaged or not."""
    return bool(_finished(folder))


def load_state(folder: Path) -> Loaded | None:
    """The newest checkpoint of which every byte is there; None when there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    finished = _finished(folder)
    skipped = [f"{path.name} was never finished" for path in unfinished(folder)]
    for path in reversed(finished):
        try:
            tensors, state = _read(path)
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        return Loaded(tensors, state, tuple(skipped))
    if not finished:
        return None
    raise CheckpointError(
        f"{folder} holds no whole checkpoint: " + "; ".join(skipped),
        hint="put one back from a copy, or start again in another folder",
    )


def unfinished(folder: Path) -> list[Path]:
    """What crashes left behind: folders and pointers that never got their name."""
    return sorted(p for p in folder.glob("*.tmp-*") if _UNFINISHED.fullmatch(p.name))


def _finished(folder: Path) -> list[Path]:
    """Folders that have a checkpoint's name, oldest first."""
    found = []
    for path in folder.glob("step-*"):
        match = _FINISHED.fullmatch(path.name)
        if match and path.is_dir():
            found.append(((int(match[1]), int(match[2] or 0)), path))
    return [path for _, path in sorted(found)]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors.torch import load_file

    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = {name: (f["size"], f["sha256"]) for name, f in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} has no readable manifest: {error}") from error
    if set(files) != {_TENSORS, _STATE}:
        raise CheckpointError(f"{path.name} has a manifest of other files: {sorted(files)}")
    for name, (size, digest) in files.items():
        try:
            found = (path / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{path.name}/{name} has {found} bytes, not {size}")
            if file_digest(path / name) != digest:
                raise CheckpointError(
                    f"{path.name}/{name} does not have the SHA-256 it was saved with"
                )
        except OSError as error:
            raise CheckpointError(f"{path.name}/{name} cannot be read: {error}") from error
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return load_file(path / _TENSORS), state
    except Exception as error:  # safetensors raises its own kind, which has no public base
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
