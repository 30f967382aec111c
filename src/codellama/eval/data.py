"""A suite's rows, from the user's file or from the hub, and the digest that says which."""

from __future__ import annotations

import csv
import fnmatch
import gzip
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError, MissingExtra
from codellama.eval.suite import Row, Suite

_SOURCE_SUFFIXES = (".py", ".java", ".js", ".ts", ".c", ".cc", ".cpp", ".h", ".go", ".rs", ".md")
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Data:
    """Files of rows. `sha256` is that of all files' digests, one after the other."""

    paths: tuple[Path, ...]
    sha256: str
    origin: str

    def rows(self) -> Iterator[Row]:
        """Every row of every file. Raises ConfigError for a file that is not what its name says."""
        for path in self.paths:
            yield from _rows(path)

    def facts(self) -> dict[str, Any]:
        return {"origin": self.origin, "sha256": self.sha256, "files": len(self.paths)}


def find(suite: Suite, given: Path | None) -> Data:
    """The suite's data: the file given, or the one of its name in the folder given, or the hub's.

    A folder without such a file counts as source files, one row each, where the suite takes any
    text. A suite that only needs some Python takes the standard library's.

    Raises:
        ConfigError: there is no such file, and the hub does not have it or cannot be reached.
    """
    if given is not None:
        paths = _local(suite, given)
        # The name, since a report goes to others, and where the file lay is nobody's business.
        return _data(paths, paths[0].name if len(paths) == 1 else given.resolve().name)
    if not suite.files:
        library = Path(sysconfig.get_path("stdlib"))
        return _data(tuple(sorted(library.glob("*.py"))), "the standard library's files")
    if suite.hub is None:
        raise ConfigError(
            f"{suite.title}: the hub has no file for this suite that could be fetched",
            hint=f"give its file with --data: {' or '.join(suite.files)}",
        )
    return _data(_from_hub(suite.title, suite.hub), suite.hub)


def _local(suite: Suite, given: Path) -> tuple[Path, ...]:
    if given.is_file():
        return (given,)
    if not given.is_dir():
        raise ConfigError(f"--data {given}: there is no such file or folder")
    for name in suite.files:
        if (given / name).is_file():
            return (given / name,)
    if not suite.files or suite.name in ("perplexity",):
        found = tuple(
            sorted(p for p in given.rglob("*") if p.suffix in _SOURCE_SUFFIXES and p.is_file())
        )
        if found:
            return found
    raise ConfigError(
        f"--data {given}: the folder has none of {', '.join(suite.files) or 'any source file'}",
        hint="give the file itself",
    )


def _from_hub(title: str, place: str) -> tuple[Path, ...]:
    from huggingface_hub import HfApi, hf_hub_download

    name, _, pattern = place.partition(":")
    try:
        listed = HfApi().list_repo_files(name, repo_type="dataset")
        wanted = sorted(fnmatch.filter(listed, pattern))
        found = tuple(Path(hf_hub_download(name, file, repo_type="dataset")) for file in wanted)
    except Exception as error:  # the library has many, for one meaning: it is not to be had
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"{title}: the data set {name} cannot be fetched from the hub: {said[0]}",
            hint="give a file you have with --data",
        ) from error
    if not found:
        raise ConfigError(
            f"{title}: the hub's data set {name} has no file like {pattern}",
            hint="give a file you have with --data",
        )
    return found


def _data(paths: tuple[Path, ...], origin: str) -> Data:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        total.update(digest.digest())
    only = digest.hexdigest() if len(paths) == 1 else total.hexdigest()
    return Data(paths=paths, sha256=only, origin=origin)


def _rows(path: Path) -> Iterator[Row]:
    plain = path.name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        yield from _parquet(path)
        return
    text = _text(path)
    if plain.endswith(".csv"):
        yield from csv.DictReader(StringIO(text, newline=""))
    elif plain.endswith((".jsonl", ".json")):
        yield from _json(path, text, lines=plain.endswith(".jsonl"))
    elif Path(plain).suffix in _SOURCE_SUFFIXES:
        yield {"id": path.name, "text": text}
    else:
        raise ConfigError(
            f"{path} is of no kind that can be read",
            hint="give .jsonl, .json, .csv (each also as .gz) or .parquet",
        )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            with gzip.open(path) as file:
                data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES >> 20} MiB of text")
        return data.decode("utf-8", errors="replace" if path.suffix == ".py" else "strict")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}") from error


def _json(path: Path, text: str, *, lines: bool) -> Iterator[Row]:
    if not lines:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ConfigError(f"{path} is not a list of objects")
        yield from found
        return
    for number, line in enumerate(text.split("\n"), 1):  # not at other ends of lines in texts
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is not a JSON object")
        yield row


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise MissingExtra(f"reading {path.name}", "parquet") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not a Parquet file that can be read: {error}") from error
