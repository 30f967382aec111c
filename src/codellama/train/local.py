"""Texts of one's own as a source: a folder, an archive, a JSONL or a Parquet file.

Nothing is fetched or executed. Files of a folder or an archive are taken by their suffix: Python,
other code, prose. Rows of the tables are texts of one kind.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from codellama.errors import ConfigError, MissingExtra
from codellama.train.licences import ALLOWED

OWN = "own"  # the licence of text that belongs to who trains on it

_CODE = frozenset(
    (".bash", ".c", ".cc", ".cpp", ".cs", ".css", ".cu", ".dart", ".go", ".h", ".hpp", ".hs",
     ".html", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".php", ".pl", ".r", ".rb", ".rs",
     ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx", ".vue", ".zig")
)  # fmt: skip
_TEXT = frozenset((".md", ".rst", ".txt"))
_ARCHIVES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_TABLES = (".jsonl", ".jsonl.gz", ".parquet")
_MAX_FILE = 4_000_000  # bytes; the filters drop anything a tenth of it


@dataclass(frozen=True, kw_only=True)
class Local:
    """`[[local]]`: where the texts are and under which terms.

    `kind` is what a recipe's mix calls them and is needed for tables, whose rows have no suffix;
    `column` names the field of a row that holds the text.
    """

    name: str
    path: Path
    licence: str
    split: str = "train"
    kind: str | None = None
    column: str = "text"


class LocalSource:
    """A `[[local]]` entry, found and checked.

    Raises:
        ConfigError: there is no such file, it is of no known kind, or its licence does not allow
            training.
    """

    version = "local"
    licence_source = "the list"

    def __init__(self, entry: Local, where: str) -> None:
        self._entry = entry
        self.name, self.split, self.licence = entry.name, entry.split, entry.licence
        path = entry.path
        if entry.licence not in ALLOWED | {OWN}:
            raise ConfigError(
                f"{where}: {entry.name}: the licence {entry.licence!r} is not one to train on",
                hint=f"name an SPDX licence such as MIT, or {OWN!r} for text of your own",
            )
        if entry.split not in ("train", "val-pkg"):
            raise ConfigError(
                f"{where}: {entry.name}: split {entry.split!r} is not train or val-pkg"
            )
        if not path.exists():
            raise ConfigError(f"{where}: {entry.name}: there is nothing at {path}")
        self._is_table = path.is_file() and path.name.endswith(_TABLES)
        if not (path.is_dir() or self._is_table or path.name.endswith(_ARCHIVES)):
            raise ConfigError(
                f"{where}: {entry.name}: {path.name} is no folder, archive or table",
                hint="known are " + ", ".join((*_ARCHIVES, *_TABLES)),
            )
        if self._is_table and entry.kind not in ("python", "code", "text", "prose"):
            raise ConfigError(
                f"{where}: {entry.name}: rows need a `kind`: python, code, text or prose"
            )

    @cached_property
    def sha256(self) -> str:
        """Of the archive or table; of all names and contents for a folder."""
        digest = hashlib.sha256()
        if self._entry.path.is_file():
            with self._entry.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        for name, data in self.files():
            digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        return digest.hexdigest()

    def files(self) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of everything that has a kind, in path or row order.

        Raises:
            ConfigError: an archive or a table is damaged, or a row lacks the column.
        """
        path = self._entry.path
        try:
            if self._is_table:
                yield from self._rows(path)
            elif path.is_dir():
                yield from self._wanted(_folder(path))
            elif zipfile.is_zipfile(path):
                yield from self._wanted(_zip(path))
            else:
                yield from self._wanted(_tar(path))
        except (OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error

    def licence_texts(self) -> list[str]:
        """None: the list states the licence."""
        return []

    def kind_of(self, path: str) -> str:
        """What a mix calls the document at `path`."""
        suffix = PurePosixPath(path).suffix.lower()
        if self._entry.kind is not None:
            return self._entry.kind
        return "python" if suffix == ".py" else "code" if suffix in _CODE else "text"

    def _wanted(self, found: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        known = _CODE | _TEXT | {".py"}
        for name, data in found:
            if PurePosixPath(name).suffix.lower() in known:
                yield f"{self.name}/{name}", data

    def _rows(self, path: Path) -> Iterator[tuple[str, bytes]]:
        column = self._entry.column
        suffix = ".py" if self._entry.kind == "python" else ""
        rows = _parquet(path, column) if path.suffix == ".parquet" else _jsonl(path, column)
        for i, text in enumerate(rows):
            if not isinstance(text, str):
                raise ConfigError(f"{path}: row {i} has no text in `{column}`")
            yield f"{self.name}/{i:09}{suffix}", text.encode("utf-8", "surrogatepass")


def _folder(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") or part == "node_modules" for part in relative.parts)
        if not hidden and path.is_file() and path.stat().st_size <= _MAX_FILE:
            yield relative.as_posix(), path.read_bytes()


def _zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            if not info.is_dir() and info.file_size <= _MAX_FILE:
                yield info.filename, archive.read(info)


def _tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        members = [m for m in archive.getmembers() if m.isfile() and m.size <= _MAX_FILE]
        for member in sorted(members, key=lambda m: m.name):
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def _jsonl(path: Path, column: str) -> Iterator[object]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            yield row.get(column) if isinstance(row, dict) else None


def _parquet(path: Path, column: str) -> Iterator[object]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("reading Parquet", "parquet") from error
    file = parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise ConfigError(f"{path}: there is no column `{column}`")
    for batch in file.iter_batches(columns=[column], batch_size=256):
        yield from batch.column(0).to_pylist()
