"""What a save does to the disk, one operation at a time.

Tests put another `Disk` in its place, which fails or dies at the k-th operation.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class Disk:
    """The real one. Every method is one operation that can fail on its own."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True)

    def write_tensors(
        self, path: Path, tensors: Mapping[str, Tensor], notes: dict[str, str] | None = None
    ) -> None:
        """A safetensors file; `notes` go into its header."""
        from safetensors.torch import save_file

        save_file(dict(tensors), path, notes)

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        path.write_text(json.dumps(value, indent=1), encoding="utf-8")

    def sync(self, path: Path) -> None:
        """Makes a file's content, or a folder's names, outlive a power cut."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, path: Path, target: Path) -> None:
        path.replace(target)

    def remove_folder(self, path: Path) -> None:
        shutil.rmtree(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
