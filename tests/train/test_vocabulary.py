"""The trained tokenizer has the family's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import ConfigError
from codellama.text.tokenizer import Tokenizer
from codellama.train.vocabulary import train_tokenizer

REAL = Path(__file__).parents[3] / "shared/data/tokenizer/codellama-32016.tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer(corpus_folder: Path) -> Tokenizer:
    return Tokenizer.open(corpus_folder / "tokenizer.model")


def test_layout(tokenizer: Tokenizer) -> None:
    assert tokenizer.n_vocab == 512
    assert [tokenizer.piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert [tokenizer.piece(3 + b) for b in (0, 10, 255)] == ["<0x00>", "<0x0A>", "<0xFF>"]
    ids = (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id)
    assert ids == (503, 504, 505, 506)
    assert tokenizer.step_id == 511


def test_last_rows_are_those_of_the_real_file(corpus_folder: Path) -> None:
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not here")
    ours = sentencepiece.SentencePieceProcessor(model_file=str(corpus_folder / "tokenizer.model"))
    real = sentencepiece.SentencePieceProcessor(model_file=str(REAL))
    for i in range(15):  # the last row is `<step>`, as in 70B Instruct
        assert ours.id_to_piece(496 + i) == real.id_to_piece(32000 + i)
        assert ours.get_score(496 + i) == real.get_score(32000 + i)


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\0"), max_size=40)
)
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bare(tokenizer.encode_bare(text)) == text


def test_digits_are_single_and_newline_is_a_byte(tokenizer: Tokenizer) -> None:
    assert [tokenizer.piece(i) for i in tokenizer.encode_bare("1234")] == list("1234")
    assert tokenizer.encode_bare("\n\n") == [13, 13]


def test_indents_are_pieces(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode_bare("\n        ")) <= 3


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not be trained"):
        train_tokenizer(["a b c"], 8192, tmp_path / "tokenizer.model")
