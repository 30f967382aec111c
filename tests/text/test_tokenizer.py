"""Ids and text are those of SentencePiece, which Meta's reference wraps."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import CheckpointError, PromptError
from codellama.text.tokenizer import Tokenizer
from odd_texts import ODD, SPACE, texts
from tokenizers_at_hand import SMALL, Pair, pair, small_model


def test_encode_is_the_reference(each: Pair) -> None:
    tokenizer = each.tokenizer
    for text in texts(600):
        expected = each.reference.encode(text)
        assert tokenizer.encode(text, allow_control=True) == expected
        assert tokenizer.encode(text, True, True, allow_control=True) == [1, *expected, 2]
        if tokenizer.control_ids.isdisjoint(expected):
            assert tokenizer.encode(text) == expected


def test_encode_bare_is_the_reference(each: Pair) -> None:
    for text in texts(600, seed=1):
        expected = each.reference_bare(text)
        assert each.tokenizer.encode_bare(text, allow_control=True) == expected


def test_without_dummy_prefix_bare_is_plain(stepping: Pair) -> None:
    for text in ODD:
        assert stepping.tokenizer.encode_bare(text) == stepping.tokenizer.encode(text)


@pytest.mark.parametrize("bare", [False, True])
def test_decode_gives_the_text_back(each: Pair, bare: bool) -> None:
    tokenizer = each.tokenizer
    for text in texts(600, seed=2):
        shown = text.replace(SPACE, " ")
        for allow in (False, True):
            if bare:
                ids = tokenizer.encode_bare(text, allow_control=allow)
                assert tokenizer.decode_bare(ids) == shown
            else:
                ids = tokenizer.encode(text, bos=True, eos=True, allow_control=allow)
                assert tokenizer.decode(ids) == shown


def test_decode_of_any_ids_is_the_reference(each: Pair) -> None:
    choice = random.Random(3)
    low = range(259)
    for _ in range(1500):
        ids = [
            choice.choice(low)
            if choice.random() < 0.6
            else choice.randrange(each.tokenizer.n_vocab)
            for _ in range(choice.randrange(1, 12))
        ]
        assert each.tokenizer.decode(ids) == each.reference.decode(ids), ids
        assert each.tokenizer.decode_bare(ids) == each.reference_decode_bare(ids), ids


def test_any_bytes_decode_as_the_reference(small: Pair) -> None:
    """Pairs of bytes, and longer runs near the borders of valid UTF-8."""
    edges = (0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4)
    pairs = itertools.product(range(256), repeat=2)
    longer = random.Random(5).choices([*itertools.product(edges, repeat=4)], k=4000)
    runs = [*itertools.islice(pairs, 0, None, 7), *itertools.product(edges, repeat=3), *longer]
    for run in runs:
        ids = [3 + byte for byte in run]
        assert small.tokenizer.decode_bare(ids) == small.reference_decode_bare(ids), run


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow), 67], ids=["every", "some"]
)
def test_code_points_come_back(each: Pair, step: int) -> None:
    """In front of a letter, behind a space, and repeated."""
    points = [chr(p) for p in range(0, 0x110000, step) if not 0xD800 <= p < 0xE000]
    for start in range(0, len(points), 512):
        text = "".join(f"{c}a {c}{c}\n" for c in points[start : start + 512])
        ids = each.tokenizer.encode(text)
        assert ids == each.reference.encode(text)
        assert each.tokenizer.decode(ids) == text.replace(SPACE, " ")


@pytest.mark.slow
def test_many_texts_are_the_reference(each: Pair) -> None:
    tokenizer = each.tokenizer
    for text in texts(20_000, seed=4):
        ids = tokenizer.encode(text, allow_control=True)
        assert ids == each.reference.encode(text)
        assert tokenizer.decode(ids) == each.reference.decode(ids) == text.replace(SPACE, " ")
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace(SPACE, " ")


@given(st.text())
@settings(deadline=None)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = pair("small").tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace(SPACE, " ")


def test_padding_is_dropped_and_control_ids_show_nothing(small: Pair) -> None:
    ids = small.tokenizer.encode("x = 1")
    assert small.tokenizer.decode([-1, 1, *ids, -1, 2, -1]) == "x = 1"
    assert small.tokenizer.decode([]) == ""


@pytest.mark.parametrize("bad", [-2, 10**6, 2**40])
def test_ids_outside_the_vocabulary(small: Pair, bad: int) -> None:
    for use in (small.tokenizer.piece, small.tokenizer.token_bytes):
        with pytest.raises(PromptError, match="outside the vocabulary"):
            use(bad)
    with pytest.raises(PromptError, match=str(bad)):
        small.tokenizer.decode([5, bad])


@pytest.mark.parametrize("half", [0xD800, 0xDFFF, 0xDC80])
def test_half_a_character_is_named_with_its_place(small: Pair, half: int) -> None:
    for encode in (small.tokenizer.encode, small.tokenizer.encode_bare):
        with pytest.raises(PromptError, match=f"U\\+{half:04X}.* character 3"):
            encode(f"é b{chr(half)}c")


def test_token_bytes_add_up_to_the_text(each: Pair) -> None:
    for text in ODD:
        ids = each.tokenizer.encode_bare(text)
        joined = b"".join(map(each.tokenizer.token_bytes, ids))
        assert joined.decode() == text.replace(SPACE, " ")
    assert each.tokenizer.token_bytes(each.tokenizer.bos_id) == b""
    assert each.tokenizer.token_bytes(3 + 0xE2) == b"\xe2"


def test_special_ids_are_found_by_piece(each: Pair) -> None:
    tokenizer = each.tokenizer
    n = tokenizer.n_vocab
    expected = (n - 9, n - 8, n - 7, n - 6)
    if each.name == "llama2-32000":
        expected = (None, None, None, None)
    elif each.name not in SMALL:
        assert expected == (32007, 32008, 32009, 32010)
    found = (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id)
    assert found == expected
    assert tokenizer.has_infill == (None not in expected)
    has_step = each.name in ("small-step", "codellama-70b-instruct")
    assert tokenizer.step_id == (n - 1 if has_step else None)
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert [tokenizer.piece(i) for i in (0, 1, 2, 13)] == ["<unk>", "<s>", "</s>", "<0x0A>"]


def test_a_vocabulary_without_the_ends_of_text_is_refused() -> None:
    vocabulary = Tokenizer(small_model()).vocabulary()
    pieces = list(vocabulary.pieces)
    pieces[2] = "<end>"
    with pytest.raises(CheckpointError, match="has no </s>"):
        Tokenizer.from_pieces(pieces, vocabulary.scores, vocabulary.types, add_dummy_prefix=True)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "a",
            " ",
            "\n",
            "=",
            "\0",
            "é",
            "😀",
            "1",
            SPACE,
            "ab",
            " a",
            "<SUF>",
            " <SUF>",
            " <EOT>",
        ),
        *("the ", "abcdefghijklmnopqrstuvwxyz", "\ufffd", "<0x0A>", "\t\n", "▁<PRE> <PRE>"),
    ],
)
def test_long_runs_take_time_in_proportion(pattern: str) -> None:
    """A quadratic algorithm would need hours for a mebibyte, so to finish is to pass."""
    tokenizer = pair("small").tokenizer
    text = pattern * ((1 << 20) // len(pattern.encode()))
    ids = tokenizer.encode(text)
    assert tokenizer.control_ids.isdisjoint(ids)
    start = ids[: 1 << 12]
    assert text.replace(SPACE, " ").startswith(tokenizer.decode(start).rstrip("\ufffd"))


def test_opening_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(small_model())
    code = (
        "import sys; from codellama.text import chat, infill, stops, tokenizer; "
        "slow = {'sentencepiece', 'tokenizers', 'numpy', 'json', 'google', 'torch'}; "
        "print(*sorted(slow & {*sys.modules})); "
        f"tokenizer.Tokenizer.open({str(tmp_path)!r}).encode('x'); "
        "print(*sorted(slow & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\nsentencepiece\n"
    assert done.stderr == ""
