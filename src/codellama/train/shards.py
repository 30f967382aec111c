"""A corpus as token files that are mapped, not read: ids of every line, and their text.

Documents of one split and kind lie in shards, in their order. A shard is four arrays and a note:

    train-python-00000.ids.npy         uint16 or uint32: ids of all lines, newlines included
    train-python-00000.lines.npy       uint32: ids of each line
    train-python-00000.documents.npy   uint32 [n, 2]: lines and bytes of each document
    train-python-00000.text.npy        uint8: the documents in UTF-8, end to end
    train-python-00000.json            counts and the digest of tokenizer and text, written last

Newlines are pieces of their own and take part in no merge, so a document's ids are those of its
lines one after the other. Cutting a document leaves all lines but the cut ones as they are.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from codellama.errors import ConfigError
from codellama.train.corpus import Document
from codellama.train.infilling import Encoder

SHARD_CHARS = 32_000_000
_ARRAYS = ("ids", "lines", "documents", "text")


@dataclass(frozen=True)
class StoredText:
    """One document of a shard: its text, and the ids of its lines."""

    text: str
    ids: NDArray[Any]
    ends: NDArray[np.int64]  # [lines + 1] where each line begins in `ids`, and the end

    def line_tokens(self) -> list[int]:
        """How many ids each line has."""
        return np.diff(self.ends).tolist()  # type: ignore[no-any-return]  # Any in a library's stubs


def write_shards(
    documents: Iterable[Document],
    folder: Path,
    tokenizer: Encoder,
    tokenizer_digest: str,
    note: Callable[[str], None] = lambda _: None,
    shard_chars: int = SHARD_CHARS,
) -> dict[str, dict[str, int]]:
    """Writes what is missing or out of date; gives documents, tokens and shards by group.

    A group is "train-python" and the like. A shard that is there with the digest of the same text
    and tokenizer is left as it is, so a build that was stopped goes on where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(f"{document.split}-{document.kind}", []).append(document)
    report: dict[str, dict[str, int]] = {}
    wanted: set[Path] = set()
    for group, members in sorted(groups.items()):
        counts = {"documents": len(members), "bytes": 0, "tokens": 0, "shards": 0}
        for number, part in enumerate(_parts(members, shard_chars)):
            stem = folder / f"{group}-{number:05}"
            said = _write_shard(stem, part, tokenizer, tokenizer_digest)
            wanted |= {stem.with_name(f"{stem.name}.{end}") for end in _ends()}
            counts["shards"] += 1
            for key in ("tokens", "bytes"):
                counts[key] += said[key]
            note(f"{stem.name}: {said['documents']} documents, {said['tokens']:,} tokens")
        report[group] = counts
    for path in folder.iterdir():
        if path not in wanted:  # of another build
            path.unlink()
    return report


def _ends() -> list[str]:
    return [*(f"{name}.npy" for name in _ARRAYS), "json"]


def _parts(documents: Sequence[Document], limit: int) -> Iterator[list[Document]]:
    part: list[Document] = []
    used = 0
    for document in documents:
        if part and used + len(document.text) > limit:
            yield part
            part, used = [], 0
        part.append(document)
        used += len(document.text)
    if part:
        yield part


def _write_shard(
    stem: Path, documents: Sequence[Document], tokenizer: Encoder, tokenizer_digest: str
) -> dict[str, int]:
    digest = hashlib.sha256(tokenizer_digest.encode())
    for document in documents:
        digest.update(hashlib.sha256(document.text.encode()).digest())
    key, about = digest.hexdigest(), stem.with_name(f"{stem.name}.json")
    if about.is_file():
        said = json.loads(about.read_text(encoding="utf-8"))
        if said["digest"] == key:
            return said["counts"]  # type: ignore[no-any-return]  # Any in a library's stubs
        about.unlink()
    ids: list[int] = []
    lines: list[int] = []
    sizes: list[tuple[int, int]] = []
    newline = tokenizer.encode_bare("\n")
    for document in documents:
        parts = document.text.split("\n")
        for i, line in enumerate(parts):
            found = tokenizer.encode_bare(line) if line else []
            found = found + newline if i + 1 < len(parts) else found
            ids += found
            lines.append(len(found))
        sizes.append((len(parts), len(document.text.encode())))
    width = np.uint16 if max(ids, default=0) < 1 << 16 else np.uint32
    arrays = {
        "ids": np.array(ids, width),
        "lines": np.array(lines, np.uint32),
        "documents": np.array(sizes, np.uint32).reshape(-1, 2),
        "text": np.frombuffer("".join(d.text for d in documents).encode(), np.uint8),
    }
    for name, array in arrays.items():
        partial = stem.with_name(f"{stem.name}.{name}.partial.npy")
        np.save(partial, array, allow_pickle=False)
        partial.rename(stem.with_name(f"{stem.name}.{name}.npy"))
    counts = {"documents": len(documents), "tokens": len(ids), "bytes": len(arrays["text"])}
    partial = about.with_suffix(".partial")
    partial.write_text(json.dumps({"digest": key, "counts": counts}), encoding="utf-8")
    partial.rename(about)
    return counts


class _Shard:
    def __init__(self, stem: Path) -> None:
        about = stem.with_name(f"{stem.name}.json")
        try:
            said = json.loads(about.read_text(encoding="utf-8"))
            self.digest, counts = str(said["digest"]), said["counts"]
            self.ids, self.lines, self.documents, self.text = (
                np.load(
                    stem.with_name(f"{stem.name}.{name}.npy"), mmap_mode="r", allow_pickle=False
                )
                for name in _ARRAYS
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{about} is not a shard of tokens: {error}",
                hint="run `codellama data build` again; it writes what is missing",
            ) from error
        n_lines, n_bytes = self.documents.sum(0, dtype=np.int64)
        sizes = (len(self.documents), len(self.ids), len(self.text), len(self.lines))
        if sizes != (counts["documents"], counts["tokens"], n_bytes, n_lines):
            raise ConfigError(
                f"{about}: the arrays beside it are not those it counts",
                hint="delete it and run `codellama data build` again",
            )
        self._line_starts = np.concatenate(([0], np.cumsum(self.documents[:, 0], dtype=np.int64)))
        self._byte_starts = np.concatenate(([0], np.cumsum(self.documents[:, 1], dtype=np.int64)))
        self._id_starts = np.concatenate(([0], np.cumsum(self.lines, dtype=np.int64)))

    def __getitem__(self, number: int) -> StoredText:
        a, b = self._line_starts[number : number + 2]
        text = self.text[slice(*self._byte_starts[number : number + 2])].tobytes().decode()
        ends = self._id_starts[a : b + 1]
        return StoredText(text, self.ids[ends[0] : ends[-1]], ends - ends[0])


class StoredTexts(Sequence[StoredText]):
    """The documents of one split and kind, over all its shards; empty when there is none.

    Raises:
        ConfigError: a shard is damaged or missing.
    """

    def __init__(self, folder: Path, group: str) -> None:
        paths = sorted(folder.glob(f"{group}-[0-9][0-9][0-9][0-9][0-9].json"))
        self._shards = [_Shard(path.with_suffix("")) for path in paths]
        self._starts = [0, *accumulate(len(shard.documents) for shard in self._shards)]
        joined = " ".join(shard.digest for shard in self._shards)
        self.digest = hashlib.sha256(joined.encode()).hexdigest()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, number: int) -> StoredText: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[StoredText]: ...
    def __getitem__(self, number: int | slice) -> StoredText | Sequence[StoredText]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect_right(self._starts, number) - 1
        return self._shards[which][number - self._starts[which]]


class PartEncoder:
    """Encodes stretches of one part of a stored text, as the tokenizer would.

    Lines that lie in a stretch as a whole are copied; those at its ends are encoded.
    """

    def __init__(self, stored: StoredText, start: int, end: int, tokenizer: Encoder) -> None:
        self._text, self._tokenizer = stored.text[start:end], tokenizer
        self._stored, self._first = stored, stored.text.count("\n", 0, start)
        lines = self._text.split("\n")
        self._begins = [0, *accumulate(len(line) + 1 for line in lines)]

    def bare(self, a: int, b: int) -> list[int]:
        """The ids of characters `a` to `b` without a space in front."""
        if a == b:
            return []
        one, two = (bisect_right(self._begins, at) - 1 for at in (a, b))
        if one == two:
            return self._tokenizer.encode_bare(self._text[a:b])
        ids: list[int] = []
        if self._begins[one] < a:
            ids += self._tokenizer.encode_bare(self._text[a : self._begins[one + 1]])
            one += 1
        ends = self._stored.ends
        ids += self._stored.ids[ends[self._first + one] : ends[self._first + two]].tolist()
        if self._begins[two] < b:
            ids += self._tokenizer.encode_bare(self._text[self._begins[two] : b])
        return ids

    def spaced(self, b: int) -> list[int]:
        """The ids of the first `b` characters, with the space that a text begins with."""
        if b == 0:
            return []
        head = min(b, self._begins[1])
        return [*self._tokenizer.encode(self._text[:head]), *self.bare(head, b)]
