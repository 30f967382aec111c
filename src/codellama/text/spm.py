"""SentencePiece model files, read and written field by field.

The library loads a model but neither shows all of it nor writes one, and its protobuf classes need
the protobuf package. A model is a protobuf message: pieces (field 1: text 1, score 2, type 3),
how it was trained (field 2) and how text is prepared (field 3). Field numbers are those of
sentencepiece_model.proto of github.com/google/sentencepiece.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from codellama.errors import CheckpointError

MAX_PIECES = 1 << 20

_PIECE, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5  # fields of the model
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_MODEL_TYPE, _VOCAB_SIZE, _SUFFIX_SPACE, _BYTE_FALLBACK = 3, 4, 24, 35  # of the trainer
_UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID = 40, 41, 42, 43
_UNK_PIECE, _BOS_PIECE, _EOS_PIECE = 45, 46, 47
_NAME, _CHARS_MAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 1, 2, 3, 4, 5  # normaliser
_BPE = 2

_LARGEST = 3.4e38  # float32 ends a little above
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class PieceType(IntEnum):
    """What a piece is; the numbers are those of SentencePiece and of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a tokenizer by id. A higher score is merged earlier."""

    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]

    def check(self, where: str) -> None:
        """Raises CheckpointError unless SentencePiece can use this as BPE with byte fallback."""
        n = len(self.pieces)
        if not 0 < n <= MAX_PIECES:
            raise CheckpointError(f"{where}: {n} pieces; expected 1 to {MAX_PIECES}")
        for name, values in (("scores", self.scores), ("types", self.types)):
            if len(values) != n:
                raise CheckpointError(f"{where}: {n} pieces, but {len(values)} {name}")
        if len(set(self.pieces)) != n or "" in self.pieces:
            twice, _ = Counter(self.pieces).most_common(1)[0]
            found = "an empty piece" if "" in self.pieces else f"the piece {twice!a} twice"
            raise CheckpointError(f"{where}: the vocabulary has {found}")
        try:
            "".join(self.pieces).encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(f"{where}: a piece is not valid Unicode") from error
        # Comparing so also finds NaN.
        if not all(abs(score) <= _LARGEST for score in self.scores):
            raise CheckpointError(f"{where}: a piece's score is not a number that float32 holds")
        if not set(self.types) <= set(PieceType):
            raise CheckpointError(f"{where}: a piece has a type that is not one of 1 to 6")
        if (unknown := list(self.types).count(PieceType.UNKNOWN)) != 1:
            raise CheckpointError(f"{where}: {unknown} unknown pieces; expected one")
        names = {p for p, t in zip(self.pieces, self.types, strict=True) if t == PieceType.BYTE}
        if names != {byte_piece(value) for value in range(256)}:
            raise CheckpointError(
                f"{where}: {len(names & set(map(byte_piece, range(256))))} of the 256 byte pieces "
                "<0x00> to <0xFF>; without them some text has no ids"
            )


def byte_piece(value: int) -> str:
    return f"<0x{value:02X}>"


def is_byte_piece(piece: str) -> bool:
    return _BYTE_PIECE.fullmatch(piece) is not None


def check(model: bytes, where: str) -> bool:
    """Checks how a model prepares text and returns whether it puts a space in front.

    Raises:
        CheckpointError: not a SentencePiece model, or one that is not BPE with byte fallback over
            unchanged text, as the tokenizers of this family are.
    """
    trainer, normalizer = b"", b""
    for number, start, end in _sections(model, where):
        if number == _TRAINER:
            trainer += model[start:end]  # parts of one message given apart are one, says protobuf
        elif number == _NORMALIZER:
            normalizer += model[start:end]
        elif number == _DENORMALIZER and dict(_fields(model[start:end], where)).get(_CHARS_MAP):
            raise CheckpointError(f"{where}: rewrites the characters it decodes")
    if not trainer:
        raise CheckpointError(
            f"{where}: is not a SentencePiece model, or its end is missing",
            hint="download the file again",
        )
    trained, prepared = dict(_fields(trainer, where)), dict(_fields(normalizer, where))
    if trained.get(_MODEL_TYPE, 1) != _BPE:
        raise CheckpointError(f"{where}: is not a BPE model; Code Llama's tokenizers are")
    if not trained.get(_BYTE_FALLBACK, 0):
        raise CheckpointError(f"{where}: has no byte fallback, so some text has no ids")
    if prepared.get(_CHARS_MAP) or trained.get(_SUFFIX_SPACE, 0):
        raise CheckpointError(
            f"{where}: changes text before it is encoded; code must stay as it is"
        )
    if prepared.get(_REMOVE_SPACES, 1) or not prepared.get(_ESCAPE_SPACES, 1):
        raise CheckpointError(f"{where}: drops or splits at spaces; code must stay as it is")
    return bool(prepared.get(_DUMMY_PREFIX, 1))


def vocabulary(model: bytes, where: str) -> Vocabulary:
    """All pieces of a model.

    Raises:
        CheckpointError: the model is damaged.
    """
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    for number, start, end in _sections(model, where):
        if number != _PIECE:
            continue
        fields = dict(_fields(model[start:end], where))
        text, score, kind = fields.get(_TEXT, b""), fields.get(_SCORE, 0.0), fields.get(_TYPE, 1)
        if not (isinstance(text, bytes) and isinstance(score, float) and isinstance(kind, int)):
            raise CheckpointError(f"{where}: piece {len(pieces)} is damaged")
        try:
            pieces.append(text.decode())
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{where}: piece {len(pieces)} is not UTF-8") from error
        scores.append(score)
        types.append(kind)
    found = Vocabulary(pieces, scores, types)
    found.check(where)
    return found


def build(vocabulary: Vocabulary, *, add_dummy_prefix: bool) -> bytes:
    """The SentencePiece model of a checked vocabulary: BPE, byte fallback, text left as it is."""
    out = bytearray()
    rows = zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True)
    pack, head = struct.Struct("<f").pack, _head(_SCORE, _FIXED32)
    for piece, score, kind in rows:
        body = _bytes(_TEXT, piece.encode()) + head + pack(score)
        out += _bytes(_PIECE, body if kind == PieceType.NORMAL else body + _int(_TYPE, kind))
    unknown = list(vocabulary.types).index(PieceType.UNKNOWN)
    place = {piece: i for i, piece in enumerate(vocabulary.pieces)}
    trainer = (
        _int(_MODEL_TYPE, _BPE)
        + _int(_VOCAB_SIZE, len(vocabulary.pieces))
        + _int(_BYTE_FALLBACK, 1)
        + _int(_UNK_ID, unknown)
        + _int(_BOS_ID, place.get("<s>", -1))
        + _int(_EOS_ID, place.get("</s>", -1))
        + _int(_PAD_ID, -1)
        + _bytes(_UNK_PIECE, vocabulary.pieces[unknown].encode())
        + _bytes(_BOS_PIECE, b"<s>")
        + _bytes(_EOS_PIECE, b"</s>")
    )
    normalizer = (
        _bytes(_NAME, b"identity")
        + _int(_DUMMY_PREFIX, add_dummy_prefix)
        + _int(_REMOVE_SPACES, 0)
        + _int(_ESCAPE_SPACES, 1)
    )
    return bytes(out) + _bytes(_TRAINER, trainer) + _bytes(_NORMALIZER, normalizer)


def orders_merges(vocabulary: Vocabulary) -> bool:
    """Whether scores say which of two merges comes first."""
    rows = zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True)
    scores = [s for piece, s, kind in rows if kind == PieceType.NORMAL and len(piece) > 1]
    return len(scores) < 2 or len(set(scores)) > 1


def without_dummy_prefix(model: bytes) -> bytes:
    """The same model, which puts no space in front of text."""
    # Of a field given twice the last one counts, says protobuf, so nothing needs to be taken out.
    return model + _bytes(_NORMALIZER, _int(_DUMMY_PREFIX, 0))


def _sections(model: bytes, where: str) -> Iterator[tuple[int, int, int]]:
    """The parts of a model: field number, where it starts, where it ends."""
    at, end = 0, len(model)
    while at < end:
        # Nearly all are pieces shorter than 128 bytes: two bytes of head each.
        if model[at] == 0x0A and at + 1 < end and model[at + 1] < 0x80:
            number, size, start = _PIECE, model[at + 1], at + 2
        else:
            tag, start = _varint(model, at, where)
            number = tag >> 3
            if tag & 7 != _BYTES or not number:
                raise CheckpointError(
                    f"{where}: is not a SentencePiece model (byte {at})",
                    hint="download the file again",
                )
            size, start = _varint(model, start, where)
        at = start + size
        if at > end:
            raise CheckpointError(
                f"{where}: is cut off: a part ends at byte {at} and the file at {end}",
                hint="download the file again",
            )
        yield number, start, at


def _fields(message: bytes, where: str) -> Iterator[tuple[int, int | float | bytes]]:
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, where)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at, where)
            yield number, value
            continue
        size = 8 if wire == _FIXED64 else 4
        if wire == _BYTES:
            size, at = _varint(message, at, where)
        elif wire not in (_FIXED64, _FIXED32):
            raise CheckpointError(f"{where}: is not a SentencePiece model (wire type {wire})")
        raw = message[at : at + size]
        at += size
        if at > end:
            raise CheckpointError(f"{where}: is damaged: a field is longer than what holds it")
        yield number, raw if wire == _BYTES else struct.unpack("<f" if size == 4 else "<d", raw)[0]


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise CheckpointError(f"{where}: is damaged: a number does not end")


def _head(number: int, wire: int) -> bytes:
    return _raw_varint(number << 3 | wire)


def _int(number: int, value: int) -> bytes:
    return _head(number, _VARINT) + _raw_varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _bytes(number: int, value: bytes) -> bytes:
    return _head(number, _BYTES) + _raw_varint(len(value)) + value


def _raw_varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
