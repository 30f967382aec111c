"""Documents -> packed rows, resumable at any row.

A window is a few dozen rows made together: parts of documents are drawn per source until the
source's share is met, some are reordered for infilling, all are encoded and packed best fit into
rows of `length + 1` ids. Everything random is keyed by (seed, epoch, part) or (seed, window), so
the cursors at the start of a window say all that a resumed run needs.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codellama.errors import ConfigError
from codellama.train.chunks import Chunks
from codellama.train.infilling import Encoder, Order, arranged, split, split_lines
from codellama.train.loss import IGNORED, avoided
from codellama.train.shards import PartEncoder, StoredText

WINDOW_IDS = 65_536

_ORDERS: tuple[Order, Order] = ("psm", "spm")

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Ids of one training document and how many at its head are not learned from.

    The others are to become likely, or with `is_bad` unlikely.
    """

    ids: list[int]
    n_given: int = 1
    is_bad: bool = False


class Source(Protocol):
    """Parts of documents that can be drawn by number."""

    def __len__(self) -> int: ...
    def sample(self, number: int, key: str) -> Sample: ...


@dataclass(frozen=True)
class TextSource:
    """Parts of plain documents; `rate` of them become infilling documents.

    Of these, `line_rate` have a middle that ends with a line, the rest are cut anywhere.
    """

    documents: Sequence[StoredText]
    chunks: Chunks
    tokenizer: Encoder
    rate: float
    line_rate: float = 0.0

    def __len__(self) -> int:
        return len(self.chunks)

    def sample(self, number: int, key: str) -> Sample:
        """The ids of a part; `key` decides whether and where it is cut in three."""
        index, start, end, _ = map(int, self.chunks[number])
        document = self.documents[index]
        part = document.text[start:end]
        encoder = PartEncoder(document, start, end, self.tokenizer)
        random = Random(key)
        if random.random() < self.rate:
            order: Order = random.choice(_ORDERS)
            cut = split_lines if self.line_rate and random.random() < self.line_rate else split
            prefix, middle, _ = cut(part, random)
            ends = (len(prefix), len(prefix) + len(middle), len(part))
            return Sample(arranged(self.tokenizer, encoder, ends, order))
        ids = [self.tokenizer.bos_id, *encoder.spaced(len(part))]
        is_last = end == len(document.text)
        return Sample([*ids, self.tokenizer.eos_id] if is_last else ids)


@dataclass(frozen=True)
class ChatSource:
    """Conversations; only the last answer is learned from."""

    conversations: Sequence[Sequence[Mapping[str, str]]]
    prompt_ids: Callable[[Sequence[Mapping[str, str]]], list[int]]
    tokenizer: Encoder

    def __len__(self) -> int:
        return len(self.conversations)

    def sample(self, number: int, key: str) -> Sample:
        """Prompt and answer, `</s>` behind; `key` is not needed, nothing here is random."""
        *prompt, answer = self.conversations[number]
        given = self.prompt_ids(prompt)
        learned = self.tokenizer.encode_bare(" " + answer["content"].strip())
        return Sample([*given, *learned, self.tokenizer.eos_id], len(given))


@dataclass(frozen=True)
class Row:
    """One row: what goes in, what is to be said next, and where documents lie. All [length]."""

    tokens: Ids
    labels: Ids
    positions: Ids
    document: Ids  # counts documents from 0; padding is a document of its own


class RowStream:
    """An endless stream of rows, at any moment described by `state()`.

    Raises:
        ConfigError: a source of the mix is empty or unknown.
    """

    def __init__(
        self, sources: Mapping[str, Source], mix: Mapping[str, float], length: int, seed: int
    ) -> None:
        for name in mix:
            if name not in sources or not len(sources[name]):
                raise ConfigError(f"the mix names the source {name!r}, which has no documents")
        self._sources = {name: sources[name] for name in mix}
        self._mix, self._length, self._seed = dict(mix), length, seed
        self._window, self._row = 0, 0
        self._cursors = dict.fromkeys(mix, 0)
        self._next_cursors = dict(self._cursors)
        self._rows: list[Row] = []
        self._orders: dict[str, tuple[int, NDArray[np.int64]]] = {}

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the very next row."""
        return {"window": self._window, "row": self._row, "cursors": dict(self._cursors)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the place a `state()` describes."""
        self._window, self._row = state["window"], state["row"]
        self._cursors = dict(state["cursors"])
        self._rows = []

    def epochs(self) -> dict[str, float]:
        """How often each source has been read, up to the present window."""
        return {name: n / len(self._sources[name]) for name, n in self._cursors.items()}

    def __iter__(self) -> Iterator[Row]:
        while True:
            if not self._rows:
                self._rows = self._make_window()
            if self._row == len(self._rows):
                self._window, self._row = self._window + 1, 0
                self._cursors = dict(self._next_cursors)
                self._rows = self._make_window()
            self._row += 1
            yield self._rows[self._row - 1]

    def _make_window(self) -> list[Row]:
        self._next_cursors = dict(self._cursors)
        samples: list[Sample] = []
        for name, share in self._mix.items():
            source, drawn = self._sources[name], 0
            wanted = share * max(WINDOW_IDS, 8 * self._length)
            while drawn < wanted:
                epoch, place = divmod(self._next_cursors[name], len(source))
                number = int(self._order(name, epoch)[place])
                sample = source.sample(number, f"{self._seed}/{name}/{epoch}/{number}")
                samples.append(sample)
                drawn += len(sample.ids)
                self._next_cursors[name] += 1
        rows = pack(samples, self._length)
        Random(f"{self._seed}/{self._window}").shuffle(rows)
        return rows

    def _order(self, name: str, epoch: int) -> NDArray[np.int64]:
        """The order in which an epoch reads a source's parts; the last one asked for is kept."""
        if name not in self._orders or self._orders[name][0] != epoch:
            key = [self._seed, epoch, *name.encode()]
            order = np.random.default_rng(key).permutation(len(self._sources[name]))
            self._orders[name] = (epoch, order)
        return self._orders[name][1]


def pack(samples: Sequence[Sample], length: int) -> list[Row]:
    """Best fit, longest first, into rows of `length + 1` ids; a longer sample loses its tail."""
    bins: list[list[Sample]] = []
    free: list[tuple[int, int]] = []  # (ids left, bin), sorted
    order = sorted(range(len(samples)), key=lambda i: (-len(samples[i].ids), i))
    for i in order:
        sample = replace(samples[i], ids=samples[i].ids[: length + 1])
        size = len(sample.ids)
        at = bisect_left(free, (size, -1))
        if at == len(free):
            bins.append([sample])
            insort(free, (length + 1 - size, len(bins) - 1))
        else:
            left, which = free.pop(at)
            bins[which].append(sample)
            insort(free, (left - size, which))
    return [row(samples, length) for samples in bins]


def row(samples: Sequence[Sample], length: int) -> Row:
    """Lays samples end to end; positions restart at each, what lies behind them is padding."""
    tokens = np.zeros(length, np.int64)
    labels = np.full(length, IGNORED, np.int64)
    positions = np.zeros(length, np.int64)
    document = np.full(length, len(samples), np.int64)
    at = 0
    for i, sample in enumerate(samples):
        ids = np.array(sample.ids, np.int64)
        n = min(len(ids), length - at)
        tokens[at : at + n] = ids[:n]
        positions[at : at + n] = np.arange(n)
        document[at : at + n] = i
        next_ids = ids[1 : n + 1]
        if sample.is_bad:
            next_ids = avoided(next_ids)
        labels[at : at + len(next_ids)] = next_ids
        labels[at : at + min(sample.n_given, len(next_ids) + 1) - 1] = IGNORED
        at += n
    return Row(tokens, labels, positions, document)


def read_conversations(path: Path) -> list[list[dict[str, str]]]:
    """The conversations of a JSONL file, one list of messages a line."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
