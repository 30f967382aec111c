"""Files for Hugging Face's libraries: tokenizer.json, and chat templates.

From them `tokenizers` and `transformers` (as PreTrainedTokenizerFast) make the ids that this
package makes. Two things the format cannot express. Of two ways to make the same piece
SentencePiece takes the leftmost, and `tokenizers` the one listed first. And there `<s>`, `</s>` and
`<step>` are special wherever they are spelled, in text too, and ` <SUF>` becomes a marker.
"""

from __future__ import annotations

from typing import Any

from codellama.text.chat import ChatForm
from codellama.text.hf_files import pairs
from codellama.text.spm import PieceType
from codellama.text.tokenizer import EOT, MIDDLE, PREFIX, STEP, SUFFIX, Tokenizer

_SPACE = "▁"
_SPECIAL = (PREFIX, SUFFIX, MIDDLE, EOT, STEP)

_INST = """\
{%- if messages and messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- if not turns -%}
{{- raise_exception('The conversation has no message from the user.') -}}
{%- endif -%}
{%- for turn in turns -%}
{%- if turn.role != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('Roles must alternate, user first, after at most one system message.') -}}
{%- endif -%}
{%- if turn.role == 'user' -%}
{{- bos_token ~ '[INST] ' ~ ((system if loop.first else '') ~ turn.content) | trim ~ ' [/INST]' -}}
{%- else -%}
{{- ' ' ~ turn.content | trim ~ ' ' ~ eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

_STEP = """\
{%- if not messages or messages[0].role != 'system' -%}
{%- set turns = [{'role': 'system', 'content': ''}] + messages -%}
{%- else -%}
{%- set turns = messages -%}
{%- endif -%}
{%- if turns | length < 2 -%}
{{- raise_exception('The conversation has no message from the user.') -}}
{%- endif -%}
{{- bos_token -}}
{%- for turn in turns -%}
{%- if loop.index0 and turn.role != ('user' if loop.index0 % 2 else 'assistant') -%}
{{- raise_exception('Roles must alternate, user first, after at most one system message.') -}}
{%- endif -%}
{{- '@Source: ' ~ turn.role -}}
{%- if turn.destination is defined and turn.destination is not none -%}
{{- '\\nDestination: ' ~ turn.destination | trim -}}
{%- endif -%}
{%- if turn.content -%}
{{- '\\n\\n ' ~ turn.content | trim -}}
{%- endif -%}
{{- '<step>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '@Source: assistant\\nDestination: user\\n\\n ' -}}
{%- endif -%}
"""


def chat_template(form: ChatForm, *, add_dummy_prefix: bool) -> str:
    """The Jinja template by which `transformers` and vLLM make the ids of `chat_ids`.

    `add_dummy_prefix` is the tokenizer's. The template is only written into files: this package
    executes none.
    """
    if form == "inst":
        return _INST
    # Each turn begins with a space, which comes from the template or from the tokenizer.
    return _STEP.replace("@", "" if add_dummy_prefix else " ")


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of a tokenizer.json that gives the ids of `tokenizer.encode(..., bos=True)`."""
    vocabulary = tokenizer.vocabulary()
    rows = list(zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True))
    normalizers = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if tokenizer.add_dummy_prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    place = {piece: i for i, (piece, _, _) in enumerate(rows)}
    order = {piece: (-score, place[piece]) for piece, score, _ in rows}
    normal = {piece for piece, _, kind in rows if kind == PieceType.NORMAL and " " not in piece}
    merges = sorted(pairs(normal), key=lambda pair: (*order[pair[0] + pair[1]], len(pair[0])))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != PieceType.USER_DEFINED,
            }
            for i, (piece, _, kind) in enumerate(rows)
            if piece in _SPECIAL
            or kind in (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": _begin_with(tokenizer.bos_id, tokenizer.piece(tokenizer.bos_id)),
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


def _begin_with(token_id: int, piece: str) -> dict[str, Any]:
    """One special token in front of each text."""
    begin = [{"SpecialToken": {"id": piece, "type_id": i}} for i in (0, 1)]
    text = [{"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB")]
    return {
        "type": "TemplateProcessing",
        "single": [begin[0], text[0]],
        "pair": [begin[0], text[0], begin[1], text[1]],
        "special_tokens": {piece: {"id": piece, "ids": [token_id], "tokens": [piece]}},
    }
