"""Conversations to ids: the [INST] form of 7B to 34B, and the turn form of 70B.

Both are code, not templates: `chat_completion` and `dialog_prompt_tokens` in `llama/generation.py`
of github.com/meta-llama/codellama, commit e81b597. A template found in a model file is not used.

A message that spells one of the forms' own tags could pass for a turn of its own. The reference
runs it and then replaces the answer by an error sentence; here it is a PromptError, unless
`allow_control` says that the text is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from codellama.errors import PromptError
from codellama.text.tokenizer import Tokenizer

ChatForm = Literal["inst", "step"]
Messages = Sequence[Mapping[str, Any]]

RESERVED_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>")

_ROLES = ("system", "user", "assistant")


def detect_chat_form(tokenizer: Tokenizer) -> ChatForm:
    """The form a model with this tokenizer uses, if it was trained to chat at all."""
    return "inst" if tokenizer.step_id is None else "step"


def chat_stop_id(tokenizer: Tokenizer, form: ChatForm) -> int:
    """The id that ends the assistant's turn.

    Raises:
        PromptError: the form is unknown, or needs a piece that the vocabulary lacks.
    """
    _check_form(tokenizer, form)
    return tokenizer.eos_id if form == "inst" or tokenizer.step_id is None else tokenizer.step_id


def has_reserved_tags(messages: Messages) -> bool:
    """Whether a message spells a tag of the chat forms, which the reference calls unsafe."""
    return any(tag in message["content"] for message in messages for tag in RESERVED_TAGS)


def chat_ids(
    tokenizer: Tokenizer,
    messages: Messages,
    form: ChatForm = "inst",
    *,
    allow_control: bool = False,
) -> list[int]:
    """The ids after which the model writes the assistant's next message.

    A message has a `role` and a `content`; in the turn form it may have a `destination`, as the
    reference's own replies do. A system message may come first, then user and assistant take turns,
    and the user has the last word.

    Raises:
        PromptError: a message is malformed, roles are out of order, a content cannot be encoded or
            spells a reserved tag, or the vocabulary does not fit the form.
    """
    _check_form(tokenizer, form)
    turns = _checked(messages, allow_control)
    if form == "step":
        return _step_ids(tokenizer, turns, allow_control)
    return _inst_ids(tokenizer, turns, allow_control)


def _inst_ids(tokenizer: Tokenizer, turns: list[Mapping[str, str]], allow: bool) -> list[int]:
    contents = [turn["content"] for turn in turns]
    if turns[0]["role"] == "system":
        system, first, *rest = contents
        contents = [f"<<SYS>>\n{system}\n<</SYS>>\n\n{first}", *rest]
    asked = [f"[INST] {text.strip()} [/INST]" for text in contents[::2]]
    ids: list[int] = []
    for question, answer in zip(asked[:-1], contents[1::2], strict=True):
        text = f"{question} {answer.strip()} "
        ids += tokenizer.encode(text, bos=True, eos=True, allow_control=allow)
    return ids + tokenizer.encode(asked[-1], bos=True, allow_control=allow)


def _step_ids(tokenizer: Tokenizer, turns: list[Mapping[str, str]], allow: bool) -> list[int]:
    assert tokenizer.step_id is not None, "the form was checked"
    if turns[0]["role"] != "system":
        turns = [{"role": "system", "content": ""}, *turns]
    ids = [tokenizer.bos_id]
    for turn in turns:
        ids += _header(tokenizer, turn["role"], turn.get("destination"), allow)
        if turn["content"]:
            text = f"\n\n {turn['content'].strip()}"
            ids += tokenizer.encode_bare(text, allow_control=allow)
        ids.append(tokenizer.step_id)
    ids += _header(tokenizer, "assistant", "user", allow)
    return ids + tokenizer.encode_bare("\n\n ")


def _header(tokenizer: Tokenizer, source: str, destination: str | None, allow: bool) -> list[int]:
    text = f" Source: {source}"
    if destination is not None:
        text += f"\nDestination: {destination.strip()}"
    return tokenizer.encode_bare(text, allow_control=allow)


def _check_form(tokenizer: Tokenizer, form: str) -> None:
    if form not in ("inst", "step"):
        raise PromptError(f"the chat form is {form!r}; expected 'inst' or 'step'")
    if form == "step" and tokenizer.step_id is None:
        raise PromptError("the turn form needs the piece <step>, which this vocabulary lacks")


def _checked(messages: Messages, allow_control: bool) -> list[Mapping[str, str]]:
    """The messages, after every rule about them."""
    turns: list[Mapping[str, str]] = []
    for number, message in enumerate(messages, 1):
        turn = {key: message[key] for key in ("role", "content", "destination") if key in message}
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                found = type(turn[key]).__name__ if key in turn else "missing"
                raise PromptError(f"message {number}: `{key}` is {found}; expected a text")
        if turn["role"] not in _ROLES:
            raise PromptError(
                f"message {number}: the role is {turn['role']!r}; "
                "expected 'system', 'user' or 'assistant'"
            )
        if not isinstance(turn.get("destination", ""), str | None):
            raise PromptError(f"message {number}: `destination` is not a text")
        if not allow_control:
            _check_tags(turn, number)
        turns.append(turn)
    _check_order([turn["role"] for turn in turns])
    return turns


def _check_order(roles: list[str]) -> None:
    if not roles:
        raise PromptError("the conversation is empty; expected at least a user message")
    first = 1 if roles[0] == "system" else 0
    for number, role in enumerate(roles[first:]):
        expected = ("user", "assistant")[number % 2]
        if role != expected:
            raise PromptError(
                f"message {first + number + 1}: the role is {role!r}, expected {expected!r}",
                hint="a system message may come first, then user and assistant take turns",
            )
    if roles[-1] != "user":
        raise PromptError(
            f"the last message is from {roles[-1]!r}; expected 'user'",
            hint="end the conversation with what the model is to answer",
        )


def _check_tags(turn: Mapping[str, str], number: int) -> None:
    for key in ("content", "destination"):
        for tag in RESERVED_TAGS:
            if tag in (turn.get(key) or ""):
                raise PromptError(
                    f"message {number}: the {key} contains {tag}, which the model would take for "
                    "a mark of the conversation itself",
                    hint="spell it differently, or allow it if you trust where the text comes from",
                )
    if len((turn.get("destination") or "").strip().splitlines()) > 1:
        raise PromptError(f"message {number}: the destination has more than one line")
