"""Opening the files of a model folder without trusting them.

A file is opened by descriptor, must be a regular file, and is read into memory of our own rather
than mapped. A mapping of a file that somebody shortens in place kills the process with SIGBUS at
the next touch, and one that is rewritten in place changes a running model; no check before or
after closes that gap. Here a read ends in a copy of what was opened or in a `CheckpointError`. The
copy also starts on a 64-byte boundary, which no file format promises. It costs about a sixth of a
second per gigabyte that is in the page cache (two virtual cores, 2026).

Symlinks. The Hugging Face cache keeps `models--org--name/snapshots/<revision>/` full of links into
`models--org--name/blobs/`, so a link is followed when its end lies inside the model folder itself
or inside the `blobs` of the cache entry that the folder belongs to. A link to anywhere else is
refused, as are FIFOs, devices and sockets. The path a user types is followed wherever it leads.
"""

from __future__ import annotations

import os
import stat
import weakref
from enum import StrEnum
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError, OutOfMemory

SMALL_FILE = 16 << 20  # most a JSON file of a checkpoint may have
_HEAD = 1024
_ALIGNMENT = 64
_READ = 1 << 30  # one read call; Linux stops short of 2 GiB
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class SourceFile:
    """An open regular file that is read by offset and may not change meanwhile.

    The descriptor closes at the end of a `with` block, or when the object is forgotten.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)
        found = os.fstat(fd)
        self.size = found.st_size
        self._identity = (found.st_size, found.st_mtime_ns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._close()

    def head(self) -> bytes:
        """The first bytes, at most 1,024."""
        return self.read(0, min(self.size, _HEAD)).tobytes()

    def read(self, offset: int, count: int) -> NDArray[np.uint8]:
        """Bytes `offset` to `offset + count` in fresh memory, read-only and 64-byte aligned.

        Raises:
            CheckpointError: the span is not inside the file, the file changed since it was opened,
                or the disk could not be read.
            OutOfMemory: there is no memory for the copy.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CheckpointError(
                f"{self.path}: bytes {offset} to {offset + count} are wanted, "
                f"and the file has {self.size}"
            )
        try:
            room = np.empty(count + _ALIGNMENT, dtype=np.uint8)
        except MemoryError as error:
            raise OutOfMemory(f"{self.path}: no memory for {count} bytes of it") from error
        start = -room.ctypes.data % _ALIGNMENT
        data = room[start : start + count]
        self._fill(data.data, offset)
        self.check_unchanged()
        data.flags.writeable = False
        return data

    def read_small(self, limit: int = SMALL_FILE) -> bytes:
        """The whole file. Raises CheckpointError when it has more than `limit` bytes."""
        if self.size > limit:
            raise CheckpointError(
                f"{self.path}: has {self.size} bytes, and at most {limit} are expected here"
            )
        return self.read(0, self.size).tobytes()

    def check_unchanged(self) -> None:
        """Raises CheckpointError when size or modification time differ from those at opening."""
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != self._identity:
            raise CheckpointError(
                f"{self.path}: changed while it was being read "
                f"({self.size} bytes when it was opened, {now.st_size} now)",
                hint="wait until the copy or download into it has ended, then try again",
            )

    def _fill(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            try:
                n = os.preadv(self._fd, [view[done : done + _READ]], offset + done)
            except OSError as error:
                raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
            if n == 0:
                self.check_unchanged()
                raise CheckpointError(f"{self.path}: ends before byte {offset + len(view)}")
            done += n


class Folder:
    """A model folder, and the only door to the files in it.

    Raises:
        CheckpointError: the path is not a folder that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._real = path.resolve(strict=True)
            self.names = frozenset(entry.name for entry in self._real.iterdir())
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: is not a folder that can be read") from error
        self._allowed = [self._real, *_hub_blobs(self._real)]

    def open(self, name: str) -> SourceFile:
        """Opens the file `name`, which must be a plain file name.

        Raises:
            CheckpointError: the name is not plain; there is no such file; it is not a regular
                file, or a link that leads out of the folder; it is empty, a Git LFS pointer or a
                web page.
        """
        check_base_name(name, str(self.path))
        shown = self.path / name
        try:
            real = (self._real / name).resolve(strict=True)
        except FileNotFoundError as error:
            raise CheckpointError(f"{shown}: there is no such file") from error
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{shown}: cannot be followed to a file") from error
        if not any(real.is_relative_to(root) for root in self._allowed):
            raise CheckpointError(
                f"{shown}: is a link to {real}, which is outside the model folder",
                hint="copy the file into the folder",
            )
        return _open_regular(shown, real)


def open_file(path: Path) -> SourceFile:
    """Opens the one file a user named, following links wherever they lead.

    Raises:
        CheckpointError: as `Folder.open`.
    """
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be followed to a file") from error
    return _open_regular(path, real)


def check_base_name(name: object, where: str) -> str:
    """`name` when it is a plain file name: printable, and with no way out of its folder.

    Raises:
        CheckpointError: it is anything else.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or name in ("", ".", "..")
        or "/" in name
        or "\\" in name
        or len(name) > 255
    ):
        raise CheckpointError(f"{where}: {quoted(name)} is not a plain file name")
    return name


def quoted(value: object) -> str:
    """A value found in a file, safe and short enough to show in a message."""
    text = ascii(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


class Mistake(StrEnum):
    """What a file often turns out to be; reads as the end of a sentence about it."""

    EMPTY = "is empty"
    POINTER = "is a Git LFS pointer, not the file it stands for"
    PAGE = "is a web page, not a model file"
    GGUF = "is a GGUF file"
    ZIP = "is a zip archive (such as torch.save writes)"
    TAR = "is a tar archive"
    PICKLE = "is a Python pickle"
    GZIP = "is compressed with gzip"


def what_is(head: bytes) -> Mistake | None:
    """What a file that begins with `head` is, when it is a thing often met by mistake."""
    start = head.lstrip()[:64].lower()
    signs = {
        Mistake.EMPTY: not head,
        Mistake.POINTER: head.startswith(b"version https://git-lfs"),
        Mistake.PAGE: start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")),
        Mistake.GGUF: head.startswith(b"GGUF"),
        Mistake.ZIP: head.startswith((b"PK\x03\x04", b"PK\x05\x06")),
        Mistake.TAR: head[257:262] == b"ustar",
        Mistake.PICKLE: head[:1] == b"\x80" and head[1:2] in b"\0\1\2\3\4\5",
        Mistake.GZIP: head.startswith(b"\x1f\x8b"),
    }
    return next((mistake for mistake, found in signs.items() if found), None)


def _hub_blobs(real: Path) -> list[Path]:
    """The blob folder behind a snapshot of the Hugging Face cache, if `real` is in one."""
    for folder in (real, *real.parents):
        snapshots = folder.parent
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
            return [snapshots.parent / "blobs"]
    return []


def _open_regular(shown: Path, real: Path) -> SourceFile:
    try:
        # Looked at before opening too: opening a device can do things.
        regular = stat.S_ISREG(real.lstat().st_mode)
        fd = os.open(real, _FLAGS) if regular else -1
    except OSError as error:
        raise CheckpointError(f"{shown}: cannot be opened: {error.strerror}") from error
    if fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
        if fd >= 0:
            os.close(fd)
        raise CheckpointError(f"{shown}: is not a regular file")
    file = SourceFile(shown, fd)
    mistake = what_is(file.head())
    if mistake in (Mistake.EMPTY, Mistake.POINTER, Mistake.PAGE):
        file.close()
        raise CheckpointError(f"{shown}: {mistake}", hint="download the file again")
    return file
