"""What users give, as the ids a reply begins from, and where such a reply ends.

The ids, and the token that ends a reply, are those of Meta's reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codellama.errors import RequestError
from codellama.text.chat import chat_ids, chat_stop_id
from codellama.text.infill import infill_ids
from codellama.text.tokenizer import Tokenizer

Order = Literal["psm", "spm"]
ChatForm = Literal["inst", "step"]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Ids to continue, the ids that end the reply, and how the reply becomes text.

    A `bare` reply keeps the space that its first token may begin with, because it goes on where
    other text stopped. `begun` is text that is already there: what is drawn has to begin with it,
    in whatever tokens, and the reply is what comes after it.
    """

    ids: tuple[int, ...]
    stop_ids: frozenset[int]
    bare: bool
    begun: str = ""


def completion_prompt(
    tokenizer: Tokenizer, text: str, eos_ids: Sequence[int], *, allow_control: bool = False
) -> Prompt:
    """Text to go on with. Text and reply joined are what all ids decode to together."""
    if not isinstance(text, str):
        raise RequestError(f"a prompt is a text, and this one is of type {type(text).__name__}")
    ids = tokenizer.encode(text, bos=True, allow_control=allow_control)
    stop_ids = frozenset(eos_ids or (tokenizer.eos_id,))
    # After nothing the reply is the beginning of the text, where no token's space is shown.
    return Prompt(ids=tuple(ids), stop_ids=stop_ids, bare=bool(text))


def infill_prompt(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    order: Order = "psm",
    *,
    allow_control: bool = False,
) -> Prompt:
    """A hole between two texts. Only `<EOT>` ends the reply, as in the reference.

    Raises:
        RequestError: the model was not trained to infill, or the order is unknown.
    """
    if not tokenizer.has_infill or tokenizer.eot_id is None:
        raise RequestError(
            "this model cannot infill: its vocabulary has no <PRE>, <SUF>, <MID> and <EOT>",
            hint="of the family, the 7B, 13B and 70B base models and the 7B and 13B Instruct "
            "models can, and so can nano",
        )
    if order not in ("psm", "spm"):
        raise RequestError(f"`order` is {order!r}; expected 'psm' or 'spm'")
    for name, text in (("prefix", prefix), ("suffix", suffix)):
        if not isinstance(text, str):
            raise RequestError(f"`{name}` is of type {type(text).__name__}; expected a text")
    ids = infill_ids(tokenizer, prefix, suffix, order, allow_control=allow_control)
    return Prompt(ids=tuple(ids), stop_ids=frozenset((tokenizer.eot_id,)), bare=True)


def chat_prompt(
    tokenizer: Tokenizer, messages: Messages, form: ChatForm | None, *, allow_control: bool = False
) -> Prompt:
    """A conversation that ends with the user's turn.

    Raises:
        RequestError: the model has no chat form.
        PromptError: roles are out of order, or a text spells one of the form's own marks.
    """
    if form is None:
        raise RequestError(
            "this model does not say that it was trained to chat: it continues text",
            hint="use an Instruct model or nano, or load with chat_form='inst' to use that form",
        )
    ids = chat_ids(tokenizer, messages, form, allow_control=allow_control)
    stop_id = chat_stop_id(tokenizer, form)
    return Prompt(ids=tuple(ids), stop_ids=frozenset((stop_id,)), bare=False)
