"""The list of projects a corpus is made from, and their files.

A list is a TOML file that names every project by exact name and version, with the licence
expected of it. Wheels are fetched by `pip download`, unpacked as archives and never imported.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Protocol

from codellama.errors import ConfigError
from codellama.train.licences import licence_of
from codellama.train.local import Local, LocalSource
from codellama.train.recipe import read_toml, strict

MAX_PROJECTS = 60

_LICENCE_FILE = re.compile(
    r"^[^/]+\.dist-info/(?:licenses/)?(?:LICEN[CS]E|COPYING|NOTICE)[^/]*$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Project:
    """One project of the list."""

    name: str
    version: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class SourceList:
    """`sources.toml`: projects to train on, projects held out for validation, and own texts.

    Paths of `local` are relative to the list.
    """

    standard_library: bool
    max_share: float  # of all Python bytes that one project may give
    train: tuple[Project, ...]
    held_out: tuple[Project, ...]
    local: tuple[LocalSource, ...] = ()

    @classmethod
    def read(cls, path: Path) -> SourceList:
        """Raises ConfigError when a key is unknown, a project comes twice or the list is long."""
        raw = read_toml(path)
        for key in ("train", "held_out"):
            entries = raw.get(key, [])
            if not isinstance(entries, list):
                raise ConfigError(f"{path}: `{key}` is not a list of tables")
            raw[key] = tuple(strict(Project, e, f"{path.name}.{key}[{i}]")
                             for i, e in enumerate(entries))  # fmt: skip
        local = raw.pop("local", [])
        if not isinstance(local, list):
            raise ConfigError(f"{path}: `local` is not a list of tables")
        entries = [strict(Local, e, f"{path.name}.local[{i}]") for i, e in enumerate(local)]
        found = tuple(
            LocalSource(replace(entry, path=path.parent / entry.path), path.name)
            for entry in entries
        )
        sources = replace(strict(cls, raw, path.name), local=found)
        projects = (*sources.train, *sources.held_out)
        names = [p.name.lower() for p in projects] + [p.name.lower() for p in sources.local]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{path}: listed twice: {', '.join(twice)}")
        if len(projects) > MAX_PROJECTS:
            raise ConfigError(
                f"{path}: {len(projects)} projects, at most {MAX_PROJECTS} are allowed"
            )
        return sources


class Collection(Protocol):
    """What a corpus is made from: named texts under one licence."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def licence_source(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    def files(self) -> Iterator[tuple[str, bytes]]: ...
    def licence_texts(self) -> list[str]: ...
    def kind_of(self, path: str) -> str: ...


@dataclass(frozen=True)
class Distribution:
    """A collected project: where its files are and under which terms."""

    name: str
    version: str
    split: str  # "train" or "val-pkg"
    licence: str | None
    licence_source: str
    archive: Path
    sha256: str

    def files(self) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of every `.py` file and of the long description, in path order."""
        if self.archive.is_dir():
            yield from _library_files(self.archive)
            return
        with zipfile.ZipFile(self.archive) as wheel:
            for name in sorted(wheel.namelist()):
                if name.endswith(".py"):
                    yield name, wheel.read(name)
            description = _metadata(wheel).get_payload()
            if isinstance(description, str) and description.strip():
                yield f"{self.name}/README", description.encode()

    def kind_of(self, path: str) -> str:
        """What a mix calls the document at `path`."""
        return "python" if path.endswith(".py") else "text"

    def licence_texts(self) -> list[str]:
        """What the archive's own licence files say, without those of the parts they bundle."""
        if self.archive.is_dir():
            path = self.archive / "LICENSE.txt"
            return [path.read_text(encoding="utf-8").strip()] if path.is_file() else []
        with zipfile.ZipFile(self.archive) as wheel:
            names = [name for name in sorted(wheel.namelist()) if _LICENCE_FILE.search(name)]
            return [wheel.read(name).decode("utf-8", "replace").strip() for name in names]


def collect(sources: SourceList, cache: Path) -> list[Collection]:
    """Fetches what the list names and the cache lacks; gives every collection, list order.

    Raises:
        ConfigError: pip could not fetch a project, or its licence is not the one the list expects.
    """
    found: list[Collection] = []
    if sources.standard_library:
        library = Path(sysconfig.get_path("stdlib"))
        digest = hashlib.sha256(platform.python_version().encode()).hexdigest()
        found.append(Distribution("python-stdlib", platform.python_version(), "train", "PSF-2.0",
                                  "Python licence", library, digest))  # fmt: skip
    for split, projects in (("train", sources.train), ("val-pkg", sources.held_out)):
        for project in projects:
            found.append(_distribution(project, split, _wheel(project, cache)))
    return [*found, *sources.local]


def _distribution(project: Project, split: str, wheel: Path) -> Distribution:
    with zipfile.ZipFile(wheel) as archive:
        licence, source = licence_of(_metadata(archive))
    if licence is not None and licence != project.licence:
        raise ConfigError(
            f"{project.name} {project.version}: the wheel says {licence!r} and the list expects "
            f"{project.licence!r}",
            hint="read the project's licence and correct the list",
        )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Distribution(project.name, project.version, split, licence, source, wheel, digest)


def _wheel(project: Project, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[-_.]+", "_", project.name).lower()

    def cached() -> Path | None:
        for path in sorted(cache.glob("*.whl")):
            name, version = path.name.split("-")[:2]
            if re.sub(r"[-_.]+", "_", name).lower() == stem and version == project.version:
                return path
        return None

    if (path := cached()) is not None:
        return path
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--disable-pip-version-check", "--dest", str(cache),
         f"{project.name}=={project.version}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    path = cached()
    if done.returncode or path is None:
        last = (done.stderr.strip().splitlines() or ["pip gave no wheel"])[-1]
        raise ConfigError(
            f"{project.name} {project.version} could not be fetched: {last}",
            hint=f"check the network, or put the wheel into {cache} by hand",
        )
    return path


def _metadata(wheel: zipfile.ZipFile) -> Message:
    for name in wheel.namelist():
        if name.count("/") == 1 and name.endswith(".dist-info/METADATA"):
            return Parser().parsestr(wheel.read(name).decode("utf-8", "replace"))
    return Message()


def _library_files(root: Path) -> Iterator[tuple[str, bytes]]:
    skipped = {"site-packages", "ensurepip", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if skipped.isdisjoint(relative.parts):
            yield relative.as_posix(), path.read_bytes()
