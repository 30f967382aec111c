"""Tokenizers to test: small ones trained here, and the family's where their files are at hand."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

import codellama
from codellama.text.tokenizer import Tokenizer

SHARED = Path(__file__).parents[2] / "shared/data/tokenizer"
SMALL = ("small", "small-step")  # the latter differs as the 70B-Instruct file does
FILES = {
    "codellama-32016": "codellama-32016.tokenizer.model",
    "llama2-32000": "llama2-32000.tokenizer.model",
    "codellama-70b-instruct": "codellama-32016.tokenizer.model",
}

_LOW = -1e9
# As Meta's file ends: fragments, so that merges reach the markers, then the markers.
EXTRA = (
    *((f"▁<{part}", _LOW) for part in ("SU", "SUF", "PRE", "M", "MID", "E", "EOT")),
    *((f"▁<{name}>", _LOW * 1e9) for name in ("PRE", "SUF", "MID", "EOT")),
    *(("▁" + "<EOT>" * n, _LOW * 1e9) for n in range(2, 7)),
)


@dataclass(frozen=True)
class Pair:
    """A tokenizer, and SentencePiece itself over the same model."""

    name: str
    tokenizer: Tokenizer
    reference: Any

    def reference_bare(self, text: str) -> list[int]:
        """Meta's encoding without the implicit space: a character in front, its ids dropped."""
        if not self.tokenizer.add_dummy_prefix:
            return list(self.reference.encode(text))
        return list(self.reference.encode("☺" + text)[len(self.reference.encode("☺")) :])

    def reference_decode_bare(self, ids: list[int]) -> str:
        return str(self.reference.decode([*self.reference.encode("☺"), *ids])).removeprefix("☺")


def trained(**settings: Any) -> bytes:
    """A SentencePiece model of this package's source."""
    sources = sorted(Path(codellama.__file__).parent.rglob("*.py"))[:30]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(path.read_text() for path in sources).split("\n")),
        model_writer=out,
        **{
            "model_type": "bpe",
            "vocab_size": 600,
            "byte_fallback": True,
            "split_digits": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            "pad_id": -1,
            "minloglevel": 2,
            "num_threads": 1,
            **settings,
        },
    )
    return out.getvalue()


@functools.cache
def small_model() -> bytes:
    """A small model with the family's sixteen extra pieces, edited by the protobuf library."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto.FromString(trained())
    have = {piece.piece for piece in model.pieces}
    for text in ("▁<", "SU", "PR", "PRE", "ID", "OT", "F", "M", "E", ">"):
        if text not in have:
            model.pieces.add(piece=text, score=model.pieces[-1].score - 1)
    for text, score in EXTRA:
        model.pieces.add(piece=text, score=score)
    return model.SerializeToString()


@functools.cache
def pair(name: str) -> Pair:
    """The tokenizer of that name. Skips the test where its file is not at hand."""
    if name in SMALL:
        data = small_model()
    else:
        path = SHARED / FILES[name]
        if not path.is_file():
            pytest.skip(f"{path} is not here")
        data = path.read_bytes()
    tokenizer = Tokenizer(data, name)
    if name in ("small-step", "codellama-70b-instruct"):
        vocabulary = tokenizer.vocabulary()
        pieces = [*vocabulary.pieces[:-1], "<step>"]
        tokenizer = Tokenizer.from_pieces(
            pieces, vocabulary.scores, vocabulary.types, add_dummy_prefix=False
        )
    model = tokenizer.to_spm_bytes()
    return Pair(name, tokenizer, sentencepiece.SentencePieceProcessor(model_proto=model))
