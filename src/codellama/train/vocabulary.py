"""Trains the tokenizer: SentencePiece BPE in the family's layout.

The file has the shape of the 32016-piece file of Code Llama: ordinary pieces, then 16 rows in its
order, so that an id here is the id there minus 32000 plus the number of ordinary pieces. The last
row is `<step>`, as in the 70B Instruct model.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError, MissingExtra

N_EXTRA = 16
SMILEY = "\u263a"  # the bare encoding prefixes it and drops its id, so it must be one piece

_SPACE = "\u2581"
_EXTRA = (
    *((f"{_SPACE}<{part}", -1e9) for part in ("SU", "SUF", "PRE", "M", "MID", "E", "EOT")),
    *((f"{_SPACE}<{name}>", -1e18) for name in ("PRE", "SUF", "MID", "EOT")),
    *((_SPACE + "<EOT>" * n, -1e18) for n in range(2, 6)),
    ("<step>", -1e18),
)


def train_tokenizer(
    texts: Iterable[str], n_pieces: int, path: Path, max_chars: int | None = None
) -> None:
    """Trains `n_pieces` pieces on `texts` (read up to `max_chars`) and writes `path`.

    Newline stays a byte piece: lines are learned from without their ends. No dummy prefix is
    added while learning, since in running text only the first line of a document has one.

    Raises:
        MissingExtra: the protobuf package, which writes the file, is absent.
        ConfigError: the texts are too few for so many pieces.
    """
    try:
        import sentencepiece

        spm_format: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as error:
        raise MissingExtra("training a tokenizer", "train") from error
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts, max_chars),
            model_writer=out,
            model_type="bpe",
            vocab_size=n_pieces - N_EXTRA - 1,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            character_coverage=0.9999,
            max_sentencepiece_length=16,
            max_sentence_length=1 << 16,
            pad_id=-1,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(f"the tokenizer could not be trained: {error}") from error
    model = spm_format.ModelProto.FromString(out.getvalue())
    model.normalizer_spec.add_dummy_prefix = True
    rows = ((SMILEY, model.pieces[-1].score - 1), *_EXTRA)
    normal = spm_format.ModelProto.SentencePiece.NORMAL
    for piece, score in rows:
        model.pieces.add(piece=piece, score=score, type=normal)
    model.trainer_spec.vocab_size = len(model.pieces)
    for field in ("input", "model_prefix"):
        model.trainer_spec.ClearField(field)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def _lines(texts: Iterable[str], max_chars: int | None) -> Iterator[str]:
    used = 0
    for text in texts:
        if max_chars is not None and used >= max_chars:
            return
        used += len(text)
        yield from (line for line in text.split("\n") if line)
