"""tokenizer.json, the file of Hugging Face's `tokenizers`, read and written.

Reading: such a file lists merges of pairs where SentencePiece scores pieces. The two mean the same
when every way to join two pieces into a third is listed, and those of one piece stand together;
files converted from SentencePiece are so, and others are refused. What the file says about text
around special tokens is not used: ids follow Meta's reference, not the pipeline in the file.

Writing: a file from which `tokenizers` and `transformers` (as PreTrainedTokenizerFast) give our ids
for text and for our chat templates. One thing the format cannot say: of two ways to make the same
piece SentencePiece takes the leftmost, and `tokenizers` the one listed first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from codellama.errors import CheckpointError
from codellama.text.spm import MAX_PIECES, PieceType, Vocabulary, is_byte_piece
from codellama.text.tokenizer import CONTROL_PIECES, EOT, MIDDLE, PREFIX, STEP, SUFFIX, Tokenizer

_SPACE = "▁"
_UNREACHABLE = -1e9  # below every merge; the score of the infilling fragments in Meta's file
_PLAIN_SETTINGS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def read_tokenizer_json(data: bytes, where: str) -> tuple[Vocabulary, bool]:
    """The vocabulary in a tokenizer.json, and whether text gets a space in front.

    Raises:
        CheckpointError: the file is damaged, or is not a SentencePiece BPE in other clothes.
    """
    file = _parse(data, where)
    model = _object(file.get("model"), f"{where}: `model`")
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") is not True:
        raise CheckpointError(
            f"{where}: is a tokenizer of type {model.get('type')!a}"
            f"{' without byte fallback' if model.get('type') == 'BPE' else ''}; "
            "Code Llama's is BPE with byte fallback",
            hint="use the tokenizer.model of the same checkpoint if there is one",
        )
    for name in _PLAIN_SETTINGS:
        if model.get(name):
            raise CheckpointError(f"{where}: `model.{name}` is {model[name]!a}; expected none")
    added = _added_tokens(file.get("added_tokens"), where)
    vocab = _object(model.get("vocab"), f"{where}: `model.vocab`")
    pieces = _pieces(vocab, added, where)
    types = [_type(piece, model.get("unk_token"), added) for piece in pieces]
    ranks = _ranks(model.get("merges"), pieces, types, where)
    scores = [_score(piece, ranks) for piece in pieces]
    add_dummy_prefix = _adds_dummy_prefix(file, where)
    if STEP in added and STEP not in vocab:
        # The published 70B-Instruct files. Their pipeline puts a space after every special token;
        # the model's own tokenizer puts none anywhere.
        add_dummy_prefix = False
    return Vocabulary(pieces, scores, types), add_dummy_prefix


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of a tokenizer.json that gives the ids of `tokenizer.encode(..., bos=True)`."""
    vocabulary = tokenizer.vocabulary()
    place = {piece: i for i, piece in enumerate(vocabulary.pieces)}
    normal = {p for p, t in zip(place, vocabulary.types, strict=True) if t == PieceType.NORMAL}
    score = dict(zip(vocabulary.pieces, vocabulary.scores, strict=True))
    merges = [pair for piece in place if piece in normal for pair in _pairs(piece, normal)]
    merges.sort(key=lambda pair: (-score[pair[0] + pair[1]], place[pair[0] + pair[1]]))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    normalizers = [replace]
    if tokenizer.add_dummy_prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(i, piece, kind)
            for i, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True))
            if kind in (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)
            or piece in (PREFIX, SUFFIX, MIDDLE, EOT, STEP)
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": _begin_with(tokenizer.piece(tokenizer.bos_id), tokenizer.bos_id),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokenizer.piece(tokenizer.unk_id),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": place,
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def _added_token(token_id: int, piece: str, kind: int) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": kind != PieceType.USER_DEFINED,
    }


def _begin_with(piece: str, token_id: int) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": piece, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    bos_of_second = {"SpecialToken": {"id": piece, "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, bos_of_second, second],
        "special_tokens": {piece: {"id": piece, "ids": [token_id], "tokens": [piece]}},
    }


def _parse(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        return _object(json.loads(data), where)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: is not a tokenizer.json: {error}", hint="download the file again"
        ) from error


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a JSON object")
    return value


def _added_tokens(value: object, where: str) -> dict[str, tuple[int, bool]]:
    """Content -> id, and whether it is special."""
    found: dict[str, tuple[int, bool]] = {}
    for entry in value if isinstance(value, list) else []:
        token = _object(entry, f"{where}: an entry of `added_tokens`")
        content, token_id = token.get("content"), token.get("id")
        if not isinstance(content, str) or type(token_id) is not int:
            raise CheckpointError(f"{where}: an added token lacks its content or its id")
        found[content] = (token_id, token.get("special") is True)
    return found


def _pieces(
    vocab: Mapping[str, Any], added: Mapping[str, tuple[int, bool]], where: str
) -> list[str]:
    ids = dict(vocab)
    for piece, (token_id, _) in added.items():
        if ids.setdefault(piece, token_id) != token_id:
            raise CheckpointError(
                f"{where}: {piece!a} has id {ids[piece]!a} in the vocabulary and {token_id} as "
                "an added token"
            )
    if len(ids) > MAX_PIECES:
        raise CheckpointError(f"{where}: {len(ids)} pieces; expected at most {MAX_PIECES}")
    pieces: list[str | None] = [None] * len(ids)
    for piece, i in ids.items():
        if type(i) is not int or not 0 <= i < len(pieces) or pieces[i] is not None:
            raise CheckpointError(
                f"{where}: the piece {piece!a} has id {i!a}; expected each of 0 to "
                f"{len(pieces) - 1} once"
            )
        pieces[i] = piece
    return [piece for piece in pieces if piece is not None]


def _type(piece: str, unknown: object, added: Mapping[str, tuple[int, bool]]) -> PieceType:
    if piece == unknown:
        return PieceType.UNKNOWN
    if is_byte_piece(piece):
        return PieceType.BYTE
    if piece in CONTROL_PIECES or piece not in added:
        return PieceType.NORMAL  # Meta's markers are plain pieces
    return PieceType.CONTROL if added[piece][1] else PieceType.USER_DEFINED


def _ranks(merges: object, pieces: list[str], types: list[PieceType], where: str) -> dict[str, int]:
    """The order in which pieces are made: piece -> rank, 0 first."""
    if not isinstance(merges, list):
        raise CheckpointError(f"{where}: `model.merges` is not a list")
    normal = {p for p, t in zip(pieces, types, strict=True) if t == PieceType.NORMAL}
    ranks: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    last = ""
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(p, str) for p in pair)
        ):
            raise CheckpointError(f"{where}: the merge {merge!a:.80} is not a pair of pieces")
        left, right = pair
        made = left + right
        if not {left, right, made} <= normal:
            continue  # `tokenizers` takes special tokens out of the text before it merges
        if made in CONTROL_PIECES:
            continue  # converters differ on these; Meta's merge last
        if made != last and made in ranks:
            raise _not_sentencepiece(where, f"the merges that make {made!a} are not together")
        last = made
        ranks.setdefault(made, len(ranks))
        seen.add((left, right))
    for piece in normal - CONTROL_PIECES:
        for pair in _pairs(piece, normal):
            if pair not in seen:
                raise _not_sentencepiece(where, f"{pair[0]!a} and {pair[1]!a} do not merge")
    return ranks


def _not_sentencepiece(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: does not come from SentencePiece: {why}",
        hint="use the tokenizer.model of the same checkpoint if there is one",
    )


def _score(piece: str, ranks: Mapping[str, int]) -> float:
    if piece in CONTROL_PIECES:
        return 2 * _UNREACHABLE
    return -float(ranks[piece]) if piece in ranks else _UNREACHABLE


def _pairs(piece: str, normal: set[str]) -> Iterator[tuple[str, str]]:
    """All ways to put `piece` together from two others, shorter left parts first."""
    for at in range(1, len(piece)):
        if piece[:at] in normal and piece[at:] in normal:
            yield piece[:at], piece[at:]


def _adds_dummy_prefix(file: Mapping[str, Any], where: str) -> bool:
    """How the file treats spaces: there are two spellings of the same rule."""
    steps = [*_flat(file.get("normalizer"), "normalizers")]
    steps += _flat(file.get("pre_tokenizer"), "pretokenizers")
    adds = escapes = False
    for step in steps:
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == _SPACE:
            adds = True
        elif kind == "Replace" and (step.get("pattern"), step.get("content")) == (
            {"String": " "},
            _SPACE,
        ):
            escapes = True
        elif (
            kind == "Metaspace" and step.get("replacement") == _SPACE and step.get("split") is False
        ):
            escapes = True
            adds = step.get("prepend_scheme", "always") != "never"
        else:
            raise CheckpointError(
                f"{where}: prepares text with {kind!a}, which Code Llama's tokenizers do not"
            )
    if not escapes:
        raise CheckpointError(f"{where}: does not write spaces as U+2581, as SentencePiece does")
    return adds


def _flat(value: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(value, dict):
        return
    if value.get("type") == "Sequence" and isinstance(value.get(inner), list):
        yield from (step for step in value[inner] if isinstance(step, dict))
    else:
        yield value
