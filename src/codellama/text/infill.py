"""Prompts for filling the hole between a prefix and a suffix.

Orders and ids: `infilling_prompt_tokens` in `llama/generation.py` of
github.com/meta-llama/codellama, commit e81b597. A fill ends at `<EOT>`, and is decoded with
`decode_bare`; full text = prefix + fill + suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from codellama.errors import PromptError
from codellama.text.tokenizer import Tokenizer

Order = Literal["psm", "spm"]

FILL_ME = "<FILL_ME>"


def infill_ids(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    order: Order = "psm",
    *,
    allow_control: bool = False,
) -> list[int]:
    """The ids after which a model trained to infill writes what belongs between the two texts.

    "psm" is prefix, suffix, middle and the default; "spm" puts the suffix first, so that the
    middle goes on directly from the prefix.

    Raises:
        PromptError: the vocabulary has no infilling markers, the order is unknown, or a text
            cannot be encoded.
    """
    before = tokenizer.encode(prefix, allow_control=allow_control)
    after = tokenizer.encode_bare(suffix, allow_control=allow_control)
    return arranged(tokenizer, before, after, order)


def arranged(
    tokenizer: Tokenizer, before: Sequence[int], after: Sequence[int], order: Order
) -> list[int]:
    """The ids of both texts among the markers, in the order asked for.

    Raises:
        PromptError: the vocabulary has no infilling markers, or the order is unknown.
    """
    pre, suf, mid = tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id
    if not tokenizer.has_infill or pre is None or suf is None or mid is None:
        raise PromptError("this vocabulary has no infilling markers <PRE>, <SUF>, <MID> and <EOT>")
    if order == "psm":
        return [tokenizer.bos_id, pre, *before, suf, *after, mid]
    if order == "spm":
        return [tokenizer.bos_id, pre, suf, *after, mid, *before]
    raise PromptError(f"the order of an infilling prompt is {order!r}; expected 'psm' or 'spm'")


def split_fill_me(text: str) -> tuple[str, str]:
    """What comes before and after the one `<FILL_ME>` in `text`.

    Raises:
        PromptError: the marker is missing or there is more than one.
    """
    prefix, *rest = text.split(FILL_ME)
    if len(rest) != 1:
        raise PromptError(
            f"the text has {len(rest)} places marked {FILL_ME}; expected one",
            hint=f"write {FILL_ME} once, where text is to be filled in",
        )
    return prefix, rest[0]
