"""SentencePiece files: written as the protobuf library reads them, and refused when damaged."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CheckpointError
from codellama.text import spm
from codellama.text.tokenizer import Tokenizer
from odd_texts import texts
from tokenizers_at_hand import FILES, Pair, pair, small_model, trained


def parsed(model: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2 as pb

    return pb.ModelProto.FromString(model)


def rebuilt(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    vocabulary = tokenizer.vocabulary()
    settings = {"add_dummy_prefix": tokenizer.add_dummy_prefix, **changes}
    return Tokenizer.from_pieces(vocabulary.pieces, vocabulary.scores, vocabulary.types, **settings)


def test_vocabulary_is_what_the_file_says(each: Pair) -> None:
    vocabulary = each.tokenizer.vocabulary()
    model = parsed(each.tokenizer.to_spm_bytes())
    assert list(vocabulary.pieces) == [p.piece for p in model.pieces]
    assert list(vocabulary.scores) == [p.score for p in model.pieces]
    assert list(vocabulary.types) == [p.type for p in model.pieces]


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
def test_a_built_model_is_valid_and_complete(each: Pair, add_dummy_prefix: bool) -> None:
    built = rebuilt(each.tokenizer, add_dummy_prefix=add_dummy_prefix)
    model, original = parsed(built.to_spm_bytes()), parsed(each.tokenizer.to_spm_bytes())
    assert list(model.pieces) == list(original.pieces)
    assert model.trainer_spec.model_type == original.trainer_spec.model_type
    assert model.trainer_spec.byte_fallback
    assert model.trainer_spec.vocab_size == len(model.pieces)
    ids = model.trainer_spec
    assert (ids.unk_id, ids.bos_id, ids.eos_id, ids.pad_id) == (0, 1, 2, -1)
    assert model.normalizer_spec.name == "identity"
    assert model.normalizer_spec.add_dummy_prefix == add_dummy_prefix
    assert not model.normalizer_spec.remove_extra_whitespaces
    assert model.normalizer_spec.escape_whitespaces


def test_a_built_model_gives_the_same_ids(each: Pair) -> None:
    built = rebuilt(each.tokenizer)
    for text in texts(3000, seed=12):
        assert built.encode(text) == each.tokenizer.encode(text)
        assert built.encode_bare(text) == each.tokenizer.encode_bare(text)


def test_a_saved_model_opens_the_same(small: Pair, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(small.tokenizer.to_spm_bytes())
    for where in (path, str(path), tmp_path):
        assert Tokenizer.open(where).encode("def f(x):") == small.tokenizer.encode("def f(x):")


def test_markers_are_plain_whatever_a_converter_made_of_them(infilling: Pair) -> None:
    vocabulary = infilling.tokenizer.vocabulary()
    control = infilling.tokenizer.control_ids - {0, 1, 2}
    for kind in (3, 4, 5):
        types = [kind if i in control else t for i, t in enumerate(vocabulary.types)]
        other = Tokenizer.from_pieces(
            vocabulary.pieces, vocabulary.scores, types, add_dummy_prefix=True
        )
        for text in texts(200, seed=13):
            assert other.encode(text) == infilling.tokenizer.encode(text)
            ids = infilling.tokenizer.encode(text, allow_control=True)
            assert other.encode(text, allow_control=True) == ids
            assert other.decode(ids) == infilling.tokenizer.decode(ids)


@pytest.mark.parametrize("name", FILES)
def test_the_familys_scores_survive_any_converter(name: str) -> None:
    """Here one that gives all pieces the same score, as some did for GGUF."""
    tokenizer = pair(name).tokenizer
    vocabulary = tokenizer.vocabulary()
    other = Tokenizer.from_pieces(
        vocabulary.pieces,
        [-1000.0] * len(vocabulary.pieces),
        vocabulary.types,
        add_dummy_prefix=tokenizer.add_dummy_prefix,
    )
    assert list(other.vocabulary().scores) == list(vocabulary.scores)


def test_an_unknown_dummy_prefix_is_the_familys() -> None:
    vocabulary = pair("codellama-70b-instruct").tokenizer.vocabulary()
    rest = (vocabulary.scores, vocabulary.types)
    last = Tokenizer.from_pieces(vocabulary.pieces, *rest, add_dummy_prefix=None)
    assert not last.add_dummy_prefix
    small = pair("small").tokenizer.vocabulary()
    pieces = [*small.pieces[:-1], "<step>"]
    other = Tokenizer.from_pieces(pieces, small.scores, small.types, add_dummy_prefix=None)
    assert other.add_dummy_prefix


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda p, s, t: (p[:-1], s, t), "pieces, but"),
        (lambda p, s, t: (p, s[:-1], t), "scores"),
        (lambda p, s, t: (p, s, t[:-1]), "types"),
        (lambda p, s, t: ([], [], []), "0 pieces"),
        (lambda p, s, t: ([*p[:-1], ""], s, t), "an empty piece"),
        (lambda p, s, t: ([*p[:-1], p[300]], s, t), "twice"),
        (lambda p, s, t: ([*p[:-1], "\ud800"], s, t), "not valid Unicode"),
        (lambda p, s, t: (p, [*s[:-1], float("nan")], t), "score"),
        (lambda p, s, t: (p, [*s[:-1], 1e300], t), "score"),
        (lambda p, s, t: (p, s, [*t[:400], 7, *t[401:]]), "type"),
        (lambda p, s, t: (p, s, [1, *t[1:]]), "0 unknown pieces"),
        (lambda p, s, t: (p, s, [*t[:400], 2, *t[401:]]), "2 unknown pieces"),
        (lambda p, s, t: (p, s, [1 if k == 6 else k for k in t]), "0 of the 256 byte pieces"),
        (lambda p, s, t: (["<0x0a>" if x == "<0x0A>" else x for x in p], s, t), "255 of the 256"),
        (lambda p, s, t: (p, [-1000.0] * len(s), t), "same score"),
    ],
)
def test_unusable_vocabularies_are_refused(change: Any, problem: str) -> None:
    found = Tokenizer(small_model()).vocabulary()
    pieces, scores, types = change(list(found.pieces), list(found.scores), list(found.types))
    with pytest.raises(CheckpointError, match=problem) as caught:
        Tokenizer.from_pieces(pieces, scores, types, add_dummy_prefix=True, where="model.gguf")
    assert str(caught.value).startswith("model.gguf: ")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model_type": "unigram"}, "not a BPE model"),
        ({"byte_fallback": False}, "no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes text"),
        ({"remove_extra_whitespaces": True}, "spaces"),
        ({"treat_whitespace_as_suffix": True}, "changes text"),
    ],
)
def test_other_kinds_of_model_are_refused(settings: dict[str, Any], problem: str) -> None:
    model = trained(**{"vocab_size": 500, **settings})
    with pytest.raises(CheckpointError, match=problem):
        Tokenizer(model)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <HTML><body>", "web page"),
        (b"hello world", "not a SentencePiece model"),
        (b"PK\x03\x04" + bytes(100), "not a SentencePiece model"),
        (b"GGUF\x03\0\0\0" + bytes(64), "not a SentencePiece model"),
        (bytes(1000), "not a SentencePiece model"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut off"),
        (b"\xff" * 100, "does not end"),
        (b"\x0a\x02\x0a\x00", "its end is missing"),
        (b'{"model": ', "not JSON"),
        (b"{}", "`model` is not a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_files_that_are_no_tokenizer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, problem: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem) as caught:
        Tokenizer.open(path)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError):
        Tokenizer.open(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, problem in (
        (tmp_path, "neither tokenizer.model nor tokenizer.json"),
        (tmp_path / "absent", "No such file"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "a\0b", "not a path"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            Tokenizer.open(path)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="at most"):
        Tokenizer.open(path)


def outcome(model: bytes) -> CheckpointError | None:
    """The error a model ends in; one that opens must be usable."""
    try:
        tokenizer = Tokenizer(model)
    except CheckpointError as error:
        return error
    ids = tokenizer.encode("def f(x): é <SUF>\0", bos=True) + tokenizer.encode_bare("\tself ")
    tokenizer.decode(ids)
    tokenizer.decode(range(tokenizer.n_vocab))
    assert tokenizer.control_ids
    return None


@pytest.mark.parametrize(
    ("piece", "problem"),
    [
        (b"\x0a\x02\xff\xfe", "UTF-8"),
        (b"\x08\x05", "damaged"),  # a number for its text
        (b"\x0a\x01q\x10\x05", "damaged"),  # a whole number for its score
        (b"\x0a\x01q\x1d\0\0\0\0", "damaged"),  # a float for its type
        (b"\x0a\x01q\x12\x7f", "longer than what holds it"),
        (b"\x0a\x01q\x13", "wire type 3"),
    ],
)
def test_a_damaged_piece_is_named(piece: bytes, problem: str) -> None:
    model = small_model() + bytes((0x0A, len(piece))) + piece
    with pytest.raises(CheckpointError, match=problem):
        spm.vocabulary(model, "x")
    error = outcome(model)
    assert error is None or str(error)


def test_a_model_that_rewrites_what_it_decodes_is_refused() -> None:
    denormalizer = b"\x12\x02zz"
    with pytest.raises(CheckpointError, match="rewrites"):
        Tokenizer(small_model() + bytes((0x2A, len(denormalizer))) + denormalizer)


def test_fields_of_later_versions_are_passed_over() -> None:
    """A field with a number of its own, of each kind there is."""
    extra = b"\xf8\x3f\x05" + b"\xf9\x3f" + bytes(8) + b"\xfd\x3f" + bytes(4) + b"\xfa\x3f\x01x"
    trainer = bytes((0x12, len(extra))) + extra
    tokenizer = Tokenizer(small_model() + trainer)
    assert tokenizer.encode("x") == Tokenizer(small_model()).encode("x")


def test_every_shortened_file_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    model = small_model()
    for size in [*range(0, len(model) - 400, 23), *range(len(model) - 400, len(model) - 2)]:
        error = outcome(model[:size])
        # The last field but says how to normalise; without all of it spaces would be dropped.
        assert error is not None, size
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "n", [pytest.param(20_000, marks=pytest.mark.slow), 400], ids=["many", "some"]
)
def test_damaged_files_end_in_an_error_or_a_usable_tokenizer(
    capfd: pytest.CaptureFixture[str], n: int
) -> None:
    choice = random.Random(14)
    refused = 0
    for _ in range(n):
        model = bytearray(small_model())
        at = choice.randrange(len(model))
        kind = choice.randrange(4)
        if kind == 0:
            model[at] ^= 1 << choice.randrange(8)
        elif kind == 1:
            del model[at : at + choice.randrange(1, 40)]
        elif kind == 2:
            model[at:at] = choice.randbytes(choice.randrange(1, 40))
        else:
            model[at : at + 4] = struct.pack("<f", float("nan"))
        refused += outcome(bytes(model)) is not None
    assert refused > n // 4
    assert capfd.readouterr() == ("", "")
