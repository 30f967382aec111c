"""An index of what the files of a repository define, made in the background."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codellama.lsp.languages import extensions_like, find_language
from codellama.lsp.symbols import symbols

_SKIPPED = frozenset((
    "node_modules", "__pycache__", "build", "dist", "target", "venv", "vendor", "site-packages",
))  # fmt: skip
_MOST_FILES = 2000
_MOST_BYTES = 200_000
_GIT_S = 5


@dataclass(frozen=True, kw_only=True)
class Definition:
    """Where a name is defined, by a path below the root, and its first lines."""

    path: str
    text: str


class Repository:
    """Definitions in the files below some folders, by name.

    Files that git ignores, hidden ones, large ones and those beyond the first 2000 are left out.
    Files are only read. What was found is served at once, also while more is being read.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = list(roots)
        self._lock = threading.Lock()
        self._by_file: dict[Path, tuple[float, dict[str, str]]] = {}
        self._by_name: dict[str, dict[Path, str]] = {}
        self._thread: threading.Thread | None = None
        self._is_over = False

    def start(self) -> None:
        """Reads all files in a thread of its own."""
        self._thread = threading.Thread(target=self._read_all, name="repository", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether all files have been read, after waiting for it."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is not None and not self._thread.is_alive()

    def stop(self) -> None:
        self._is_over = True

    def refresh(self, path: Path) -> None:
        """Reads one file again if it changed."""
        if any(path.is_relative_to(root) for root in self._roots):
            self._read(path)

    def find(self, name: str, *, near: Path, imported: frozenset[str]) -> list[Definition]:
        """Where files that `near` may use define `name`, the most plausible first.

        A file whose name `near` imports goes before others, and then one in the same folder.
        """
        language = find_language("", near.name)
        if language is None:
            return []
        ends = tuple(extensions_like(language))
        with self._lock:
            places = list(self._by_name.get(name, {}).items())
        found = [(path, text) for path, text in places if path != near and path.name.endswith(ends)]
        found.sort(key=lambda item: (item[0].stem not in imported and
                                     item[0].parent.name not in imported,
                                     item[0].parent != near.parent, str(item[0])))  # fmt: skip
        return [Definition(path=self._shown(path), text=text) for path, text in found]

    def _shown(self, path: Path) -> str:
        root = next((root for root in self._roots if path.is_relative_to(root)), None)
        return str(path if root is None else path.relative_to(root))

    def _read_all(self) -> None:
        n = 0
        for root in self._roots:
            for path in _files(root):
                if self._is_over or n == _MOST_FILES:
                    return
                n += self._read(path)

    def _read(self, path: Path) -> bool:
        """Whether the file counts: its language is known and it was read."""
        language = find_language("", path.name)
        if language is None:
            return False
        try:
            found = path.stat()
            if found.st_size > _MOST_BYTES or not path.is_file():
                return False
            known = self._by_file.get(path)
            if known is not None and known[0] == found.st_mtime:
                return True
            text = path.read_text("utf-8", "replace")
        except OSError:
            self._replace(path, 0.0, {})
            return False
        self._replace(path, found.st_mtime, symbols(language, text).definitions)
        return True

    def _replace(self, path: Path, time: float, definitions: dict[str, str]) -> None:
        with self._lock:
            for name in self._by_file.get(path, (0.0, {}))[1]:
                self._by_name[name].pop(path, None)
            self._by_file[path] = (time, definitions)
            for name, text in definitions.items():
                self._by_name.setdefault(name, {})[path] = text


def _files(root: Path) -> Iterator[Path]:
    listed = _listed_by_git(root)
    if listed is not None:
        yield from listed
        return
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name for name in names if name not in _SKIPPED and not name.startswith(".")
        )
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder) / name


def _listed_by_git(root: Path) -> list[Path] | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "-c", "-o", "--exclude-standard"],
            capture_output=True, timeout=_GIT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    names = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    return [root / name for name in names if name]
