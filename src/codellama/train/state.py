"""Everything a run needs to go on as if it had never stopped.

A checkpoint is a folder `step-000123`:

    tensors.safetensors   weights and optimiser; of several processes each writes its own part,
                          tensors-00001-of-00004.safetensors (see `codellama.train.pieces`)
    state.json            counters and the position in the data; random numbers are keyed by
                          position, so there is no generator to save
    manifest.json         name, size and SHA-256 of them all, written last

It is written under `step-000123.tmp-…`, every file and then the folder synced, renamed, and the
parent synced; `LATEST` names it from then on. Loading takes the newest folder of which every byte
agrees with its manifest, with any number of processes. Nothing is ever written into a folder that
already has its name: a second save of one step becomes `step-000123.1`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from codellama.errors import CheckpointError
from codellama.train.disk import Disk, file_digest
from codellama.train.parallel import World
from codellama.train.pieces import SavedTensors, block_of, header, is_first_copy

_TENSORS, _STATE, _MANIFEST, _LATEST = (
    "tensors.safetensors",
    "state.json",
    "manifest.json",
    "LATEST",
)
_PART = re.compile(r"tensors(?:-\d{5}-of-\d{5})?\.safetensors")
_FINISHED = re.compile(r"step-(\d+)(?:\.(\d+))?")
_UNFINISHED = re.compile(r"step-\d+(?:\.\d+)?\.tmp-[0-9a-f]+|LATEST\.tmp-[0-9a-f]+")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint, and what was passed over to get to it: one sentence each."""

    tensors: SavedTensors
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
    world: World | None = None,
) -> Path:
    """Writes one checkpoint, then removes all but the newest `keep` and what crashes left.

    Every process of `world` must call it, with its own blocks of sharded tensors.

    Raises:
        CheckpointError: the disk refuses, to whichever process; older checkpoints are as they were.
    """
    disk, world = disk or Disk(), world or World()
    folder.mkdir(parents=True, exist_ok=True)
    serial, token = (
        int(n) for n in world.first(torch.tensor([_serial(folder, step), randbits(31)]))
    )
    final = folder / _name(step, serial)
    partial = folder / f"{final.name}.tmp-{token:08x}"
    problem: OSError | None = None
    part, size, digest = _part(world.rank, world.size), 0, bytes(32)
    try:
        if world.rank == 0:
            disk.make_folder(partial)
    except OSError as error:
        problem = error
    if not world.agree(problem is not None):
        try:
            _write_part(disk, partial / part, tensors, world)
            size = (partial / part).stat().st_size
            digest = bytes.fromhex(file_digest(partial / part))
        except OSError as error:
            problem = error
    if world.agree(problem is not None):
        raise _refused(final, problem) from problem
    written = world.each(torch.tensor([size, *digest]))
    try:
        if world.rank == 0:
            files = {
                _part(i, world.size): {
                    "size": int(entry[0]),
                    "sha256": bytes(entry[1:].tolist()).hex(),
                }
                for i, entry in enumerate(written)
            }
            _finish(disk, folder, partial, final, step, state, files, keep)
    except OSError as error:
        problem = error
    if world.agree(problem is not None):
        raise _refused(final, problem) from problem
    return final


def _part(rank: int, size: int) -> str:
    return _TENSORS if size == 1 else f"tensors-{rank + 1:05}-of-{size:05}.safetensors"


def _refused(final: Path, problem: OSError | None) -> CheckpointError:
    why = problem if problem is not None else "another process could not write its part"
    return CheckpointError(
        f"{final} could not be saved: {why}",
        hint="make room on the disk; the run goes on from the checkpoint before with --resume",
    )


def _write_part(disk: Disk, path: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    blocks = {
        name: block_of(tensor.detach())
        for name, tensor in tensors.items()
        if is_first_copy(tensor, world.tensor_rank)
        and (world.rank == 0 or isinstance(tensor, DTensor))
    }
    values = {n: b.values.contiguous() for n, b in blocks.items() if b.values.numel()}
    notes = None
    if world.size > 1:
        notes = header({n: b for n, b in blocks.items() if n in values})
    disk.write_tensors(path, values, notes)
    disk.sync(path)


def _finish(
    disk: Disk,
    folder: Path,
    partial: Path,
    final: Path,
    step: int,
    state: Mapping[str, Any],
    files: dict[str, dict[str, Any]],
    keep: int,
) -> None:
    """What one process does when all parts are written: state, manifest, names, tidying."""
    disk.write_json(partial / _STATE, state)
    disk.sync(partial / _STATE)
    path = partial / _STATE
    files = files | {_STATE: {"size": path.stat().st_size, "sha256": file_digest(path)}}
    manifest = {"step": step, "processes": len(files) - 1, "files": files}
    disk.write_json(partial / _MANIFEST, manifest)
    disk.sync(partial / _MANIFEST)
    disk.sync(partial)
    disk.rename(partial, final)
    disk.sync(folder)
    pointer = folder / f"{_LATEST}.tmp-{partial.name[-8:]}"
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


def holds_run(folder: Path) -> bool:
    """Whether a run has left a finished checkpoint in `folder`, damaged or not."""
    return bool(_finished(folder))


def load_state(
    folder: Path, *, step: int | None = None, world: World | None = None
) -> Loaded | None:
    """The newest checkpoint of which every byte is there; None when there is none at all.

    With `step` the newest of that step. Of several processes the first one looks and decides.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged; or none of that step.
    """
    world = world or World()
    if world.rank == 0:
        try:
            loaded = _newest(folder, step)
        except CheckpointError:
            world.first(torch.tensor([_FAILED, 0]))
            raise
        place = (_NONE, 0) if loaded is None else _place(loaded[0])
        world.first(torch.tensor(place))
        return None if loaded is None else loaded[1]
    found, serial = (int(n) for n in world.first(torch.zeros(2, dtype=torch.int64)))
    if found == _FAILED:
        raise CheckpointError(f"{folder}: the first process found no checkpoint to go on from")
    if found == _NONE:
        return None
    path = folder / _name(found, serial)
    return Loaded(*_open(path, _files(path)), ())


_NONE, _FAILED = -1, -2


def _newest(folder: Path, step: int | None) -> tuple[Path, Loaded] | None:
    finished = [p for p in _finished(folder) if step is None or _place(p)[0] == step]
    if step is not None and not finished:
        there = sorted({_place(p)[0] for p in _finished(folder)})
        raise CheckpointError(
            f"{folder} has no checkpoint of step {step}",
            hint=f"there are those of {', '.join(map(str, there)) or 'no step'}",
        )
    skipped = [f"{path.name} was never finished" for path in unfinished(folder)]
    for path in reversed(finished):
        try:
            tensors, state = _read(path)
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        return path, Loaded(tensors, state, tuple(skipped))
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
    found = [p for p in folder.glob("step-*") if _FINISHED.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=_place)


def _place(path: Path) -> tuple[int, int]:
    """Step and serial number that a finished folder's name says."""
    match = _FINISHED.fullmatch(path.name)
    assert match is not None, "only finished folders are asked"
    return int(match[1]), int(match[2] or 0)


def _name(step: int, serial: int) -> str:
    return f"step-{step:06d}" + (f".{serial}" if serial else "")


def _serial(folder: Path, step: int) -> int:
    serial = 0
    while (folder / _name(step, serial)).exists():
        serial += 1
    return serial


def _files(path: Path) -> dict[str, tuple[int, str]]:
    """Name -> size and digest, as the manifest says."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = {name: (f["size"], f["sha256"]) for name, f in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} has no readable manifest: {error}") from error
    parts = [name for name in files if name != _STATE]
    if _STATE not in files or not parts or not all(map(_PART.fullmatch, parts)):
        raise CheckpointError(f"{path.name} has a manifest of other files: {sorted(files)}")
    return files


def _read(path: Path) -> tuple[SavedTensors, dict[str, Any]]:
    files = _files(path)
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
    return _open(path, files)


def _open(path: Path, files: Mapping[str, object]) -> tuple[SavedTensors, dict[str, Any]]:
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    return SavedTensors([path / name for name in sorted(files) if name != _STATE]), state
