"""Everything a run needs to go on as if it had never stopped.

A checkpoint is a folder `step-000123` with `tensors.safetensors` (weights and optimiser) and
`state.json` (counters and the position in the data; random numbers are keyed by position, so
there is no generator to save). It is written under another name, synced, renamed and the parent
synced: a folder with the right name is whole. What a crash leaves behind is skipped and named.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codellama.errors import CheckpointError

_TENSORS, _STATE = "tensors.safetensors", "state.json"
_PARTIAL = ".partial"


def save_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Writes one checkpoint and removes all but the newest `keep`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:06d}"
    partial = folder / f"{final.name}{_PARTIAL}"
    for leftover in (partial, final):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, partial / _TENSORS)
    (partial / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for path in (partial / _TENSORS, partial / _STATE, partial):
        _sync(path)
    partial.rename(final)
    _sync(folder)
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def holds_run(folder: Path) -> bool:
    """Whether a run has left a whole checkpoint in `folder`."""
    return bool(_complete(folder))


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest checkpoint: its tensors, its state and the names of partial folders skipped.

    None when there is no checkpoint at all.

    Raises:
        CheckpointError: the newest checkpoint cannot be read.
    """
    from safetensors.torch import load_file

    complete = _complete(folder)
    skipped = sorted(p.name for p in folder.glob(f"step-*{_PARTIAL}"))
    if not complete:
        return None
    newest = complete[-1]
    try:
        tensors = load_file(newest / _TENSORS)
        state = json.loads((newest / _STATE).read_text(encoding="utf-8"))
    except Exception as error:
        raise CheckpointError(
            f"{newest} cannot be read: {error}",
            hint="remove the folder to go on from the checkpoint before it",
        ) from error
    return tensors, state, skipped


def _complete(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.is_dir() and p.suffix != _PARTIAL)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
