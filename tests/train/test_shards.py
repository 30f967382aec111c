"""Token shards: the ids of any stretch are the tokenizer's own, and a stopped build goes on."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import ConfigError
from codellama.text.tokenizer import Tokenizer
from codellama.train.corpus import Document
from codellama.train.infilling import PlainText, arranged, infilled
from codellama.train.run import TOKENS, CorpusFolder
from codellama.train.shards import PartEncoder, StoredText, StoredTexts, write_shards
from fakes import ByteTokenizer

LINES = st.lists(
    st.text(alphabet="ab :=()\u00e9\u4e2d\U0001f600\t<PRE>▁", max_size=12), min_size=1, max_size=12
)


def _stored(text: str, tokenizer: Tokenizer) -> StoredText:
    lines = text.split("\n")
    ids = [
        (tokenizer.encode_bare(line) if line else [])
        + (tokenizer.encode_bare("\n") if i + 1 < len(lines) else [])
        for i, line in enumerate(lines)
    ]
    ends = np.cumsum([0, *map(len, ids)])
    return StoredText(text, np.array([i for line in ids for i in line], np.uint16), ends)


@settings(deadline=None, max_examples=150)
@given(lines=LINES, data=st.data())
def test_a_stretch_has_the_ids_the_tokenizer_gives(
    corpus_folder: Path, lines: list[str], data: st.DataObject
) -> None:
    tokenizer = Tokenizer.open(corpus_folder / "tokenizer.model")
    text = "\n".join(lines)
    starts = [0, *(i + 1 for i, c in enumerate(text) if c == "\n")]
    start = data.draw(st.sampled_from(starts))
    part = text[start:]
    fast = PartEncoder(_stored(text, tokenizer), start, len(text), tokenizer)
    slow = PlainText(part, tokenizer)
    a, b = sorted(data.draw(st.integers(0, len(part))) for _ in range(2))
    assert fast.bare(a, b) == slow.bare(a, b)
    assert fast.spaced(b) == slow.spaced(b)
    ends = (a, b, len(part))
    for order in ("psm", "spm"):
        expected = infilled(tokenizer, part[:a], part[a:b], part[b:], order)  # type: ignore[arg-type]
        assert arranged(tokenizer, fast, ends, order) == expected  # type: ignore[arg-type]


def test_a_built_corpus_holds_the_ids_of_its_documents(corpus_folder: Path) -> None:
    corpus = CorpusFolder(corpus_folder)
    for split, kind in (("train", "python"), ("train", "function"), ("val-pkg", "python")):
        documents, stored = corpus.documents(split, kind), corpus.texts(split, kind)
        assert len(documents) == len(stored) > 0
        for document, text in zip(documents, stored, strict=True):
            assert text.text == document.text
            assert text.ids.tolist() == corpus.tokenizer.encode_bare(document.text)


class _Counting(ByteTokenizer):
    n_calls = 0

    def encode_bare(self, text: str) -> list[int]:
        self.n_calls += 1
        return super().encode_bare(text)


def test_a_stopped_build_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    random = Random(1)
    texts = ["".join(random.choices("abc \n", k=300)) for _ in range(40)]
    documents = [Document("p", f"{i}.py", "train", "python", t) for i, t in enumerate(texts)]
    all_of_it, rest, none = _Counting(), _Counting(), _Counting()
    write_shards(documents, tmp_path, all_of_it, "t", shard_chars=1000)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(before) == 14 * 5
    for number in (12, 13):  # the last two were never finished
        (tmp_path / f"train-python-{number:05}.json").unlink()
    (tmp_path / "train-python-00013.text.npy").unlink()
    report = write_shards(documents, tmp_path, rest, "t", shard_chars=1000)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert 0 < rest.n_calls < all_of_it.n_calls / 4
    write_shards(documents, tmp_path, none, "t", shard_chars=1000)
    assert none.n_calls == 0
    write_shards(documents[:30], tmp_path, none, "t", shard_chars=1000)
    stored = StoredTexts(tmp_path, "train-python")
    assert [s.text for s in stored] == texts[:30]
    assert report["train-python"]["tokens"] == 40 * 300
    write_shards(documents[:30], tmp_path, none, "another tokenizer", shard_chars=1000)
    assert none.n_calls > 0


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    documents = [Document("p", "a.py", "train", "python", "x = 1\n" * 50)]
    write_shards(documents, tmp_path, ByteTokenizer(), "t")
    np.save(tmp_path / "train-python-00000.ids.npy", np.zeros(3, np.uint16))
    with pytest.raises(ConfigError, match=r"train-python-00000\.json: the arrays beside it"):
        StoredTexts(tmp_path, "train-python")
    (tmp_path / "train-python-00000.text.npy").unlink()
    with pytest.raises(ConfigError, match="is not a shard of tokens"):
        StoredTexts(tmp_path, "train-python")


def test_a_corpus_without_tokens_says_what_to_do(tmp_path: Path, corpus_folder: Path) -> None:
    for name in ("documents.jsonl", "tokenizer.model"):
        (tmp_path / name).write_bytes((corpus_folder / name).read_bytes())
    with pytest.raises(ConfigError, match="holds texts and no tokens"):
        CorpusFolder(tmp_path)
    (tmp_path / TOKENS).mkdir()
    CorpusFolder(tmp_path)
