"""The vocabulary that Llama 2 and all of Code Llama share, known by its digest.

Converters lose or change what orders its merges. One gives every piece the same score, another
(transformers 5) orders merges by id, though pieces of spaces alone merge last. So where the pieces
are Meta's, the scores are Meta's too: those of the files that came with Llama 2 and Code Llama.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from codellama.text.spm import Vocabulary

_N_PIECES = 32_000
_DIGEST = "0f97b4337921e6e7e9b4620fc73338ee570aecd3c16038bc23870a887e995045"

_N_FIRST = 259  # <unk>, <s>, </s> and the bytes
_SPACE = "▁"
_LAST, _NEVER = -1e9, -1e18
_EXTRA = (
    {f"{_SPACE}<{part}": _LAST for part in ("SU", "SUF", "PRE", "M", "MID", "E", "EOT")}
    | {f"{_SPACE}<{name}>": _NEVER for name in ("PRE", "SUF", "MID", "EOT")}
    | {_SPACE + "<EOT>" * n: _NEVER for n in range(2, 7)}
    | {"<step>": _NEVER}
)


def is_metas(pieces: Sequence[str]) -> bool:
    """Whether `pieces` begin with the 32000 of Llama 2."""
    own = "\n".join(pieces[:_N_PIECES]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(own).hexdigest() == _DIGEST


def with_metas_scores(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary, with Meta's scores for Meta's pieces if it begins with those."""
    if not is_metas(vocabulary.pieces):
        return vocabulary
    scores = [0.0] * _N_FIRST
    scores += (
        -float(at) if piece.strip(_SPACE) else _LAST
        for at, piece in enumerate(vocabulary.pieces[_N_FIRST:_N_PIECES])
    )
    more = zip(vocabulary.pieces[_N_PIECES:], vocabulary.scores[_N_PIECES:], strict=True)
    scores += (_EXTRA.get(piece, score) for piece, score in more)
    return replace(vocabulary, scores=scores)
