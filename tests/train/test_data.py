"""Rows: nothing lost, nothing mixed, the same after a resume."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import ConfigError
from codellama.train.chunks import chunk_table, cut
from codellama.train.corpus import Document
from codellama.train.data import ChatSource, Row, RowStream, Sample, TextSource, pack
from codellama.train.loss import IGNORED
from codellama.train.shards import StoredTexts, write_shards
from fakes import ByteTokenizer

T = ByteTokenizer()
SAMPLES = st.lists(
    st.lists(st.integers(3, 250), min_size=2, max_size=40).map(lambda ids: Sample([1, *ids])),
    min_size=1,
    max_size=30,
)


def _documents(row: Row) -> list[list[int]]:
    """The ids of each document, put together again from inputs and labels."""
    found = []
    for number in range(int(row.document.max()) + 1):
        places = np.flatnonzero(row.document == number)
        if len(places) and row.tokens[places[0]] == 1:
            ids = row.tokens[places].tolist()
            last = int(row.labels[places[-1]])
            found.append(ids + ([last] if last != IGNORED else []))
    return found


@given(SAMPLES)
def test_packing_loses_and_invents_nothing(samples: list[Sample]) -> None:
    rows = pack(samples, 48)
    packed = sorted(ids for row in rows for ids in _documents(row))
    assert packed == sorted(s.ids for s in samples)


@given(SAMPLES)
def test_a_label_is_the_next_token_of_the_same_document(samples: list[Sample]) -> None:
    for row in pack(samples, 48):
        for i in range(47):
            if row.labels[i] != IGNORED and row.document[i] == row.document[i + 1]:
                assert row.labels[i] == row.tokens[i + 1]
        starts = np.flatnonzero(np.diff(row.document, prepend=-1))
        for start in starts[row.tokens[starts] == 1]:
            assert row.positions[start] == 0


def test_given_tokens_are_not_learned_from() -> None:
    (row,) = pack([Sample([1, 5, 6, 7, 2], n_given=3)], 8)
    assert row.labels.tolist() == [IGNORED, IGNORED, 7, 2] + [IGNORED] * 4


def test_a_long_sample_loses_its_tail_only() -> None:
    (row,) = pack([Sample([1, *range(3, 30)])], 8)
    assert row.tokens.tolist() == [1, *range(3, 10)]
    assert row.labels.tolist() == list(range(3, 11))


@given(
    lines=st.lists(
        st.sampled_from(["", "def f():", "    x = 1", "        y", "class A:"]), max_size=60
    ),
    limit=st.integers(4, 40),
)
def test_cuts_rejoin_and_fit(lines: list[str], limit: int) -> None:
    text = "\n".join(lines)
    counts = [len(line) + 1 for line in text.split("\n")]
    parts = cut(text, counts, limit)
    assert "".join(text[a:b] for a, b, _ in parts) == text
    for a, b, n in parts:
        assert n <= limit or text[a:b].count("\n") <= 1


def test_a_cut_prefers_the_start_of_a_definition() -> None:
    text = (
        "import os\n\n\ndef f():\n    a = 1\n    return a\n\n\ndef g():\n    b = 2\n    return b\n"
    )
    counts = [len(line) + 1 for line in text.split("\n")]
    parts = [text[a:b] for a, b, _ in cut(text, counts, 60)]
    assert parts[1].startswith("def g")


def _stored(texts: list[str]) -> StoredTexts:
    documents = [Document("p", f"{i}.py", "train", "python", t) for i, t in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays when its name goes
        write_shards(documents, Path(folder), T, "bytes")
        return StoredTexts(Path(folder), "train-python")


def _stream(rate: float = 0.5, seed: int = 1) -> RowStream:
    documents = _stored([f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 5) for i in range(60)])
    table = chunk_table(documents, 96)
    return RowStream({"python": TextSource(documents, table, T, rate)}, {"python": 1.0}, 96, seed)


def _take(stream: RowStream, n: int) -> list[Row]:
    rows = iter(stream)
    return [next(rows) for _ in range(n)]


def _equal(a: list[Row], b: list[Row]) -> bool:
    return all(
        np.array_equal(x.tokens, y.tokens) and np.array_equal(x.labels, y.labels)
        for x, y in zip(a, b, strict=True)
    )


@settings(deadline=None, max_examples=8)
@given(before=st.integers(0, 1500))
def test_restored_stream_goes_on_with_the_next_row(before: int) -> None:
    whole = _stream()
    _take(whole, before)
    again = _stream()
    again.restore(whole.state())
    assert _equal(_take(whole, 20), _take(again, 20))


def test_epochs_differ_in_their_cuts() -> None:
    source = _stream(rate=1.0)._sources["python"]
    assert source.sample(3, "1/python/0/3").ids != source.sample(3, "1/python/1/3").ids
    assert source.sample(3, "1/python/0/3").ids == source.sample(3, "1/python/0/3").ids


def test_every_part_is_read_once_an_epoch() -> None:
    stream = _stream(rate=0.0)
    order = stream._order("python", 0)
    assert sorted(order.tolist()) == list(range(len(stream._sources["python"])))


def test_epochs_count_what_was_drawn() -> None:
    stream = _stream(rate=0.0)
    rows = iter(stream)
    n_parts = len(stream._sources["python"])
    while stream.state()["window"] < 2:
        next(rows)
    drawn = stream.state()["cursors"]["python"]
    assert drawn > 0
    assert stream.epochs() == {"python": drawn / n_parts}


def test_an_answer_is_learned_from_and_its_question_is_not() -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " yo "}]
    source = ChatSource([talk], lambda m: [1, *T.encode(m[-1]["content"])], T)
    sample = source.sample(0, "")
    assert T.decode_bare(sample.ids[sample.n_given :]) == " yo"
    assert sample.ids[-1] == T.eos_id


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="'text', which has no documents"):
        RowStream({}, {"text": 1.0}, 8, 0)


def test_line_rate_decides_how_parts_are_cut() -> None:
    text = "\n".join(f"value_{i} = {i}" for i in range(20))
    documents = _stored([text])
    table = chunk_table(documents, 1024)

    def share(line_rate: float) -> float:
        source = TextSource(documents, table, T, 1.0, line_rate)
        found = [source.sample(0, str(i)).ids for i in range(400)]
        after = [ids[ids.index(T.suffix_id) + 1] for ids in found]
        return sum(i in (T.middle_id, T.encode_bare("\n")[0]) for i in after) / len(found)

    assert share(1.0) == 1.0
    assert share(0.0) < 0.3
    assert 0.4 < share(0.5) < 0.8


def test_parts_are_kept_under_the_digest_of_the_text(tmp_path: Path) -> None:
    one, two = _stored(["x = 1\n" * 100]), _stored(["x = 1\n" * 300])
    first = chunk_table(one, 64, tmp_path)
    assert np.array_equal(chunk_table(one, 64, tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(chunk_table(two, 64, tmp_path)) > len(first)
