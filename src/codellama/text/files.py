"""Reading tokenizer files that somebody else wrote."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from codellama.errors import CheckpointError

MAX_BYTES = 64 << 20
BESIDE_MODEL = ("tokenizer_config.json", "added_tokens.json")


def read_tokenizer_files(path: Path) -> dict[str, bytes]:
    """The tokenizer file at `path`, or the files that matter in that folder, by their usual names.

    Raises:
        CheckpointError: there is none, it cannot be read or is larger than 64 MiB, or it is
            recognisably something else.
    """
    if path.is_dir():
        if (path / "tokenizer.model").exists():
            names = ["tokenizer.model", *(n for n in BESIDE_MODEL if (path / n).exists())]
            return {name: _read(path / name) for name in names}
        if (path / "tokenizer.json").exists():
            return {"tokenizer.json": _read(path / "tokenizer.json")}
        raise CheckpointError(
            f"{path}: holds neither tokenizer.model nor tokenizer.json",
            hint="copy the tokenizer from where the model came from",
        )
    data = _read(path)
    return {"tokenizer.json" if data.lstrip()[:1] == b"{" else "tokenizer.model": data}


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise CheckpointError(f"{path}: cannot be opened: {reason}") from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path}: is not a regular file")
        if found.st_size > MAX_BYTES:
            raise CheckpointError(
                f"{path}: has {found.st_size} bytes; a tokenizer has at most {MAX_BYTES}"
            )
        data = file.read(MAX_BYTES + 1)
    mistake = _what_is(data)
    if mistake is not None:
        raise CheckpointError(f"{path}: {mistake}", hint="download the file again")
    return data


def _what_is(data: bytes) -> str | None:
    """What often lies where a tokenizer should."""
    start = data[:64].lstrip().lower()
    if not data:
        return "is empty"
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file it stands for"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not a tokenizer"
    return None
