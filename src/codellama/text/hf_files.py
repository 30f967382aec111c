"""What Hugging Face's tokenizer files say, in SentencePiece's terms.

A tokenizer.json lists merges of pairs where SentencePiece scores pieces. The two mean the same when
every way to join two pieces into a third is listed, and those of one piece stand together. Files
converted from SentencePiece are so, and others are refused. For the family's own vocabulary Meta's
scores are used whatever the file lists. What the file says about text around special tokens is not
used either: ids follow Meta's reference, not the pipeline in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codellama.errors import CheckpointError
from codellama.text import llama2
from codellama.text.spm import MAX_PIECES, PieceType, Vocabulary, is_byte_piece
from codellama.text.tokenizer import CONTROL_PIECES, EOT_RUNS, STEP

_SPACE = "▁"
_LAST = 1_000_000_000  # the rank of what no merge makes
_PLAIN_SETTINGS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


class AddedToken(NamedTuple):
    """A token put beside the vocabulary, or a remark about one in it."""

    id: int
    content: str
    is_special: bool


def read_tokenizer_json(data: bytes, where: str) -> tuple[Vocabulary, bool, list[AddedToken]]:
    """The vocabulary in a tokenizer.json, whether text gets a space in front, and added tokens.

    Raises:
        CheckpointError: the file is damaged, or is not a SentencePiece BPE in other clothes.
    """
    file = _parse(data, where)
    model = _object(file.get("model"), f"{where}: `model`")
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") is not True:
        without = " without byte fallback" if model.get("type", "BPE") == "BPE" else ""
        raise _not_sentencepiece(where, f"the model is {model.get('type')!a}{without}")
    for name in _PLAIN_SETTINGS:
        if model.get(name):
            raise _not_sentencepiece(where, f"`model.{name}` is {model[name]!a:.40}")
    added = [_added_token(entry, where) for entry in _list(file.get("added_tokens") or [], where)]
    pieces = _pieces(_object(model.get("vocab"), f"{where}: `model.vocab`"), where)
    special = {token.content: token.is_special for token in added}
    types = [_type(piece, model.get("unk_token"), special) for piece in pieces]
    scores = [-float(_LAST)] * len(pieces)
    if not llama2.is_metas(pieces):
        normal = {p for p, t in zip(pieces, types, strict=True) if t is PieceType.NORMAL}
        ranks = _ranks(_list(model.get("merges"), where), normal, where)
        scores = [-float(ranks.get(piece, _LAST)) for piece in pieces]
    return Vocabulary(pieces, scores, types), _adds_dummy_prefix(file, where), added


def read_added_tokens(files: Mapping[str, bytes], places: Mapping[str, Path]) -> list[AddedToken]:
    """The tokens that `tokenizer_config.json` and `added_tokens.json` put beside a vocabulary.

    `places` says what messages call each file.

    Raises:
        CheckpointError: a file is damaged.
    """
    found: dict[int, AddedToken] = {}
    if "added_tokens.json" in files:
        where = str(places["added_tokens.json"])
        for content, token_id in _parse(files["added_tokens.json"], where).items():
            token = _added_token({"content": content, "id": token_id, "special": True}, where)
            found[token.id] = token
    if "tokenizer_config.json" in files:
        where = str(places["tokenizer_config.json"])
        config = _parse(files["tokenizer_config.json"], where)
        entries = _object(config.get("added_tokens_decoder") or {}, f"{where}: added tokens")
        for number, entry in entries.items():
            if not number.isdecimal() or len(number) > 9 or not isinstance(entry, dict):
                raise CheckpointError(f"{where}: an added token has the id {number!a:.40}")
            found[int(number)] = _added_token({**entry, "id": int(number)}, where)
    return [found[token_id] for token_id in sorted(found)]


def with_added_tokens(
    vocabulary: Vocabulary, added: Sequence[AddedToken], where: str
) -> Vocabulary:
    """The vocabulary with tokens that are not in it yet; special ones become control pieces.

    Raises:
        CheckpointError: an id is taken by another piece, or leaves a gap.
    """
    pieces, scores = list(vocabulary.pieces), list(vocabulary.scores)
    types = list(vocabulary.types)
    for token in sorted(added):
        kind = PieceType.CONTROL if token.is_special else PieceType.USER_DEFINED
        if token.content in CONTROL_PIECES:
            kind = PieceType.NORMAL  # plain pieces in Meta's files, out of reach by their score
        if token.id == len(pieces):
            pieces.append(token.content)
            scores.append(-float(_LAST))
            types.append(kind)
        elif not 0 <= token.id < len(pieces):
            raise CheckpointError(
                f"{where}: the added token {token.content!a:.60} has id {token.id}, and the "
                f"vocabulary ends at {len(pieces) - 1}"
            )
        elif token.content == STEP and pieces[token.id] in EOT_RUNS:
            pieces[token.id] = STEP  # how 70B-Instruct differs from the others
        elif pieces[token.id] != token.content:
            raise CheckpointError(
                f"{where}: id {token.id} is {pieces[token.id]!a:.60} in the vocabulary and "
                f"{token.content!a:.60} among the added tokens"
            )
    return Vocabulary(pieces, scores, types)


def pairs(normal: set[str]) -> set[tuple[str, str]]:
    """All ways to join two pieces of `normal` into a third."""
    return {
        (piece[:at], piece[at:])
        for piece in normal
        for at in range(1, len(piece))
        if piece[:at] in normal and piece[at:] in normal
    }


def _parse(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: is not JSON: {error}", hint="download the file again"
        ) from error
    return _object(found, f"{where}: the file")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a JSON object")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{where}: `merges` or `added_tokens` is not a list")
    return value


def _added_token(entry: object, where: str) -> AddedToken:
    token = _object(entry, f"{where}: an added token")
    content, token_id = token.get("content"), token.get("id")
    if not isinstance(content, str) or not content or type(token_id) is not int:
        raise CheckpointError(f"{where}: an added token lacks its content or its id")
    return AddedToken(token_id, content, token.get("special") is True)


def _pieces(vocab: Mapping[str, Any], where: str) -> list[str]:
    if len(vocab) > MAX_PIECES:
        raise CheckpointError(f"{where}: {len(vocab)} pieces; expected at most {MAX_PIECES}")
    by_id = {i: piece for piece, i in vocab.items() if type(i) is int}
    missing = next((i for i in range(len(vocab)) if i not in by_id), None)
    if missing is not None:
        raise CheckpointError(f"{where}: of {len(vocab)} pieces none has the id {missing}")
    return [by_id[i] for i in range(len(vocab))]


def _type(piece: str, unknown: object, special: Mapping[str, bool]) -> PieceType:
    if piece == unknown:
        return PieceType.UNKNOWN
    if is_byte_piece(piece):
        return PieceType.BYTE
    if piece in CONTROL_PIECES or piece not in special:
        return PieceType.NORMAL
    return PieceType.CONTROL if special[piece] else PieceType.USER_DEFINED


def _ranks(merges: list[Any], normal: set[str], where: str) -> dict[str, int]:
    """The order in which pieces are made: piece -> rank, 0 first."""
    # Old files write a pair as "a b". Pieces never hold a space.
    listed = [tuple(m.split(" ")) if isinstance(m, str) else tuple(_list(m, where)) for m in merges]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in listed):
        raise CheckpointError(f"{where}: a merge is not a pair of pieces")
    expected = pairs(normal)
    ranks: dict[str, int] = {}
    last = ""
    for pair in listed:
        if pair not in expected:
            continue  # has to do with a special token; `tokenizers` cuts those out before merging
        made = pair[0] + pair[1]
        if made in CONTROL_PIECES:
            continue  # converters differ on these; in Meta's file they merge last
        if made != last and made in ranks:
            raise _not_sentencepiece(where, f"the merges that make {made!a} are not together")
        last = made
        ranks.setdefault(made, len(ranks))
    for left, right in expected.difference(listed):
        if left + right not in CONTROL_PIECES:
            raise _not_sentencepiece(where, f"it does not merge {left!a} and {right!a}")
    # Rank them after the fragments they are made of.
    return ranks | dict.fromkeys(CONTROL_PIECES & normal, len(ranks))


def _not_sentencepiece(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: is not a SentencePiece BPE with byte fallback, as Code Llama's are: {why}",
        hint="use the tokenizer.model of the same checkpoint if there is one",
    )


def _adds_dummy_prefix(file: Mapping[str, Any], where: str) -> bool:
    """How the file treats spaces: there are two spellings of the same rule."""
    adds = escapes = False
    for step in (
        *_flat(file.get("normalizer"), "normalizers"),
        *_flat(file.get("pre_tokenizer"), "pretokenizers"),
    ):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == _SPACE:
            adds = True
        elif kind == "Replace" and step.get("pattern") == {"String": " "}:
            escapes = step.get("content") == _SPACE
        elif kind == "Metaspace" and step.get("split") is False:
            escapes = step.get("replacement") == _SPACE
            adds = step.get("prepend_scheme", "always") != "never"
        else:
            raise _not_sentencepiece(where, f"it prepares text with {kind!a:.40}")
    if not escapes:
        raise _not_sentencepiece(where, "it does not write a space as U+2581")
    return adds


def _flat(value: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(value, dict):
        return
    if value.get("type") == "Sequence" and isinstance(value.get(inner), list):
        yield from (step for step in value[inner] if isinstance(step, dict))
    else:
        yield value
