"""A text file as a place to fill in: where the hole is, and writing the file back.

The model is shown `\\n` line ends and no byte-order mark. The file keeps its own: what stands
before and after the hole is written back byte for byte, and new lines end as most of the file's do.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from codellama.cli.sizes import counted
from codellama.errors import PromptError, RequestError

FILL_ME = "<FILL_ME>"
_BOM = "\ufeff"
_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Hole:
    """What stands before and after the text to be made."""

    prefix: str
    suffix: str
    newline: str = "\n"

    @property
    def model_prefix(self) -> str:
        """The prefix as the model reads it."""
        return self.prefix.removeprefix(_BOM).replace("\r\n", "\n")

    @property
    def model_suffix(self) -> str:
        """The suffix as the model reads it."""
        return self.suffix.replace("\r\n", "\n")

    def filled(self, middle: str) -> str:
        """The whole text, with `middle` in the file's own line ends."""
        return self.prefix + self.in_file(middle) + self.suffix

    def in_file(self, text: str) -> str:
        """Text from the model, with the file's line ends; holds for a text piece by piece."""
        return text if self.newline == "\n" else text.replace("\r", "").replace("\n", self.newline)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file as it was when it was read."""

    path: Path
    text: str
    identity: _Identity

    @classmethod
    def read(cls, path: Path) -> SourceFile:
        """Reads a regular UTF-8 file.

        Raises:
            PromptError: it is not there, not a regular file, not readable or not UTF-8.
        """
        try:
            if not path.is_file():
                found = "is not a regular file" if path.exists() else "there is no such file"
                raise PromptError(f"{path}: {found}")
            with path.open("rb") as file:
                identity = _identity(os.fstat(file.fileno()))
                raw = file.read()
        except (OSError, ValueError) as error:
            raise PromptError(f"{path}: cannot be read: {_reason(error)}") from error
        return cls(path=path, text=decode(raw, str(path)), identity=identity)

    def hole_at(self, line: int, column: int | None) -> Hole:
        """The hole before character `column` of `line`, both from 1; no column is the line's end.

        Raises:
            RequestError: the file has no such line, or the line no such column.
        """
        lines = self.text.split("\n")
        if not 1 <= line <= len(lines):
            raise RequestError(
                f"{self.path} has {counted(len(lines), 'line')}, and --at names line {line}"
            )
        shown = lines[line - 1].removesuffix("\r")
        start = sum(len(before) + 1 for before in lines[: line - 1])
        if line == 1 and shown.startswith(_BOM):
            shown, start = shown[1:], 1
        column = len(shown) + 1 if column is None else column
        if not 1 <= column <= len(shown) + 1:
            raise RequestError(
                f"line {line} of {self.path} has {counted(len(shown), 'character')}, "
                f"and --at names column {column}",
                hint=f"columns go from 1, before the first character, to {len(shown) + 1}, its end",
            )
        at = start + column - 1
        crlf = self.text.count("\r\n")
        newline = "\r\n" if crlf > self.text.count("\n") - crlf else "\n"
        return Hole(prefix=self.text[:at], suffix=self.text[at:], newline=newline)

    def require_writable(self) -> None:
        """Raises RequestError when the file, or its folder, may not be written."""
        target = Path(os.path.realpath(self.path))
        for place in (target, target.parent):
            if not os.access(place, os.W_OK):
                raise RequestError(f"{place}: may not be written", hint="leave out --write")

    def replace(self, text: str) -> None:
        """Puts `text` in the file's place, whole or not at all; permissions stay.

        Raises:
            RequestError: the file changed since it was read, or cannot be written.
        """
        from codellama.checkpoint.durable import sync_folder  # too slow for --help

        target = Path(os.path.realpath(self.path))  # a link stays a link
        temporary: Path | None = None
        try:
            fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
            temporary = Path(name)
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode())
                file.flush()
                now = target.stat()
                with contextlib.suppress(PermissionError):  # only root gives files away
                    os.fchown(file.fileno(), now.st_uid, now.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(now.st_mode))
                os.fsync(file.fileno())
            if _identity(now) != self.identity:
                raise RequestError(
                    f"{self.path}: changed while its text was being made; it was not touched",
                    hint="run the command again",
                )
            temporary.replace(target)
            temporary = None
            sync_folder(target.parent)
        except OSError as error:
            raise RequestError(
                f"{self.path}: cannot be written: {_reason(error)}; it was not touched"
            ) from error
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink()


def hole_in_text(text: str, where: str) -> Hole:
    """The hole that the one `<FILL_ME>` in a text marks.

    Raises:
        PromptError: the text has none, or several.
    """
    found = text.count(FILL_ME)
    if found != 1:
        raise PromptError(
            f"{where} has {'no' if found == 0 else found} {FILL_ME}; one marks the hole",
        )
    prefix, suffix = text.split(FILL_ME)
    crlf = text.count("\r\n")
    newline = "\r\n" if crlf > text.count("\n") - crlf else "\n"
    return Hole(prefix=prefix, suffix=suffix, newline=newline)


def decode(raw: bytes, where: str) -> str:
    """`raw` as UTF-8.

    Raises:
        PromptError: it is not, naming the first byte that is not.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{where}: is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            hint="convert it to UTF-8 first",
        ) from None


def check_text(text: str, where: str) -> str:
    """`text` from the command line, when all of it is text.

    Raises:
        PromptError: the shell passed bytes that are not UTF-8.
    """
    return decode(text.encode("utf-8", "surrogateescape"), where)


def _identity(found: os.stat_result) -> _Identity:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
