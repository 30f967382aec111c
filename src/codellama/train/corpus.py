"""Files of collected projects -> clean documents, and a manifest that accounts for every file.

The order is fixed: licence gate, file filter, scrub, exact duplicates, decontamination, near
duplicates, one project's share. Nothing is random, so the same archives give the same corpus, byte
for byte.
"""

from __future__ import annotations

import ast
import hashlib
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from codellama.train.cleaning import cleaned, parsed
from codellama.train.decontaminate import Fingerprints
from codellama.train.near import NearDuplicates, Signature
from codellama.train.sources import Collection


@dataclass(frozen=True)
class Document:
    """One cleaned text and where it comes from.

    `kind` is "python" for a file, "text" for a project's long description and "function" for a
    documented function taken out of a file and dedented; "code", other languages, and "prose" come
    from sources of one's own.
    """

    project: str
    path: str
    split: str
    kind: str
    text: str


@dataclass(frozen=True)
class FileRecord:
    """One line of the manifest: a file, what became of it and why."""

    project: str
    path: str
    sha256: str
    n_bytes: int
    split: str | None
    dropped: str | None


@dataclass(frozen=True)
class ProjectRecord:
    """One line of the manifest's summary."""

    project: str
    version: str
    split: str
    licence: str | None
    licence_source: str
    archive_sha256: str
    n_files: int
    bytes_in: int
    bytes_kept: int


@dataclass(frozen=True)
class ContaminationRecord:
    """A file that was dropped since it shares text with an evaluation problem."""

    project: str
    path: str
    problem: str
    shared: str


@dataclass(frozen=True)
class Corpus:
    """Documents, the two levels of the manifest, and what decontamination found."""

    documents: tuple[Document, ...]
    files: tuple[FileRecord, ...]
    projects: tuple[ProjectRecord, ...]
    contaminated: tuple[ContaminationRecord, ...] = ()

    def dropped(self) -> Counter[str]:
        """How many files were dropped for each reason."""
        return Counter(f.dropped for f in self.files if f.dropped)

    def report(self) -> dict[str, dict[str, dict[str, int]]]:
        """Counts and bytes: of what was kept, by split and kind, and of what was not, by reason."""
        kept: dict[str, dict[str, int]] = {}
        for d in self.documents:
            entry = kept.setdefault(f"{d.split} {d.kind}", {"documents": 0, "bytes": 0})
            entry["documents"] += 1
            entry["bytes"] += len(d.text.encode())
        dropped: dict[str, dict[str, int]] = {}
        for f in self.files:
            if f.dropped:
                entry = dropped.setdefault(f.dropped, {"files": 0, "bytes": 0})
                entry["files"] += 1
                entry["bytes"] += f.n_bytes
        return {"kept": dict(sorted(kept.items())), "dropped": dict(sorted(dropped.items()))}

    def save(self, folder: Path) -> None:
        """Writes `documents`, `manifest`, `projects` and `decontamination`, all `.jsonl`, and the
        report.
        """
        folder.mkdir(parents=True, exist_ok=True)
        report = json.dumps(self.report(), indent=1)
        (folder / "report.json").write_text(report + "\n", encoding="utf-8")
        for name, records in (("documents", self.documents), ("manifest", self.files),
                              ("projects", self.projects),
                              ("decontamination", self.contaminated)):  # fmt: skip
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as out:
                for record in records:
                    out.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def read_documents(folder: Path) -> Iterator[Document]:
    """The documents that `Corpus.save` wrote."""
    with (folder / "documents.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield Document(**json.loads(line))


def build_corpus(
    distributions: Sequence[Collection],
    fingerprints: Fingerprints,
    max_share: float,
    *,
    kept_cleaned: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Corpus:
    """Runs the whole pipeline. Functions are taken from the files that remain at its end.

    What cleaning a project gave is kept in the folder `kept_cleaned`, for a build to go on from.
    """
    seen: set[str] = set()
    kept: dict[str, list[_Entry]] = {}
    files: list[FileRecord] = []
    contaminated: list[ContaminationRecord] = []
    for i, distribution in enumerate(distributions, 1):
        kept[distribution.name] = []
        for file in cleaned(distribution, fingerprints, kept_cleaned):
            reason = file.reason
            text_digest = hashlib.sha256(file.text.encode()).hexdigest()
            if reason is None and text_digest in seen:
                reason = "duplicate"
            if reason is None and file.match is not None:
                reason = "evaluation data"
                contaminated.append(ContaminationRecord(distribution.name, file.path,
                                                        file.match.problem,
                                                        file.match.shared))  # fmt: skip
            split = distribution.split
            if split == "train" and _hash(file.path) % 100 == 0:
                split = "val-file"
            record = FileRecord(distribution.name, file.path, file.sha256, file.n_bytes,
                                split if reason is None else None, reason)  # fmt: skip
            if reason is not None:
                files.append(record)
                continue
            seen.add(text_digest)
            document = Document(distribution.name, file.path, split, file.kind, file.text)
            signature = np.frombuffer(bytes.fromhex(file.signature), np.uint32)
            kept[distribution.name].append(_Entry(document, record, signature))
        n = len(kept[distribution.name])
        note(f"cleaned {i} of {len(distributions)}: {distribution.name}, {n} files are left")
    files += _drop_near(kept)
    total = sum(len(e.document.text) for entries in kept.values() for e in entries)
    documents: list[Document] = []
    for name, entries in kept.items():
        within, over = _cap(entries, int(max_share * total))
        kept[name] = within
        files += [e.record for e in within]
        files += [replace(e.record, split=None, dropped="over its share") for e in over]
        documents += [e.document for e in within]
    documents += _distinct(f for d in documents if d.kind == "python" for f in functions(d))
    projects = tuple(_project_record(d, files, kept[d.name]) for d in distributions)
    return Corpus(tuple(documents), tuple(files), projects, tuple(contaminated))


def functions(document: Document, min_lines: int = 3, max_lines: int = 60) -> Iterator[Document]:
    """Documented functions of a file, dedented, each as a document of its own.

    A function counts when its docstring is followed by at least one statement.
    """
    tree = parsed(document.text)
    if tree is None:
        return
    lines = document.text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node) is None or len(node.body) < 2 or node.end_lineno is None:
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        if min_lines <= node.end_lineno - first + 1 <= max_lines:
            text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
            if parsed(text) is None:  # a docstring with text further left than its function
                continue
            yield Document(document.project, f"{document.path}:{node.lineno}", document.split,
                           "function", text)  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """A file that is still there."""

    document: Document
    record: FileRecord
    signature: Signature

    @property
    def name(self) -> str:
        return f"{self.document.project}/{self.document.path}"


def _drop_near(kept: dict[str, list[_Entry]]) -> list[FileRecord]:
    """Takes training files out of `kept` that are near a held-out file or an earlier one."""
    known, held_out = NearDuplicates(), NearDuplicates()
    for entries in kept.values():
        for entry in entries:
            if entry.document.split != "train":
                held_out.add(entry.name, entry.signature)
    dropped = []
    for project, entries in kept.items():
        left = []
        for entry in entries:
            reason = None
            if entry.document.split == "train":
                if held_out.find(entry.signature) is not None:
                    reason = "near a held-out file"
                elif known.find(entry.signature) is not None:
                    reason = "near duplicate"
                else:
                    known.add(entry.name, entry.signature)
            if reason is None:
                left.append(entry)
            else:
                dropped.append(replace(entry.record, split=None, dropped=reason))
        kept[project] = left
    return dropped


def _distinct(found: Iterable[Document]) -> list[Document]:
    """Functions to train on, each text once and none that is held out; held-out ones all."""
    found = list(found)
    seen = {f.text for f in found if f.split != "train"}
    kept = []
    for f in found:
        if f.split != "train" or f.text not in seen:
            kept.append(f)
            seen.add(f.text)
    return kept


def _cap(entries: list[_Entry], limit: int) -> tuple[list[_Entry], list[_Entry]]:
    """Splits a project's files into those within `limit` characters and the rest, by path hash."""
    within: list[_Entry] = []
    over: list[_Entry] = []
    used = 0
    for entry in sorted(entries, key=lambda e: _hash(e.document.path)):
        used += len(entry.document.text)
        (within if used <= limit else over).append(entry)
    return sorted(within, key=lambda e: e.document.path), over


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _project_record(
    distribution: Collection,
    files: Iterable[FileRecord],
    kept: Sequence[_Entry],
) -> ProjectRecord:
    return ProjectRecord(
        project=distribution.name,
        version=distribution.version,
        split=distribution.split,
        licence=distribution.licence,
        licence_source=distribution.licence_source,
        archive_sha256=distribution.sha256,
        n_files=len(kept),
        bytes_in=sum(f.n_bytes for f in files if f.project == distribution.name),
        bytes_kept=sum(len(e.document.text.encode()) for e in kept),
    )
