"""Conversations: who may speak when, and what reaches the model. Ids are in golden/."""

from __future__ import annotations

from typing import Any

import pytest

from codellama.errors import PromptError
from codellama.text.chat import chat_ids, chat_stop_id, detect_chat_form, has_reserved_tags
from tokenizers_at_hand import Pair


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_inst_form_as_text(small: Pair) -> None:
    messages = said(("system", " be brief "), ("user", " a "), ("assistant", " b "), ("user", "c"))
    ids = chat_ids(small.tokenizer, messages)
    first, second = ids[1:].index(1) + 1, len(ids)
    pair_text = "[INST] <<SYS>>\n be brief \n<</SYS>>\n\n a [/INST] b "
    assert ids[:first] == small.tokenizer.encode(pair_text, bos=True, eos=True)
    assert ids[first:second] == small.tokenizer.encode("[INST] c [/INST]", bos=True)
    assert chat_stop_id(small.tokenizer, "inst") == small.tokenizer.eos_id


def test_step_form_as_text(stepping: Pair) -> None:
    tokenizer = stepping.tokenizer
    ids = chat_ids(tokenizer, said(("user", " hi ")), "step")
    spelled = [tokenizer.decode([i]) for i in ids]
    assert "".join(spelled) == (
        " Source: system<step> Source: user\n\n hi<step> Source: assistant\nDestination: user\n\n "
    )
    assert chat_stop_id(tokenizer, "step") == tokenizer.step_id
    with_destination = [*said(("user", "hi"), ("assistant", "ho")), *said(("user", "he"))]
    with_destination[1]["destination"] = " user "
    text = tokenizer.decode(chat_ids(tokenizer, with_destination, "step"))
    assert " Source: assistant\nDestination: user\n\n ho<step>" in text


def test_step_form_does_not_depend_on_the_dummy_prefix(stepping: Pair) -> None:
    original = stepping.tokenizer
    vocabulary = original.vocabulary()
    other = type(original).from_pieces(
        vocabulary.pieces, vocabulary.scores, vocabulary.types, add_dummy_prefix=True
    )
    messages = said(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert other.encode("a") != original.encode("a")
    assert chat_ids(other, messages, "step") == chat_ids(original, messages, "step")


def test_form_follows_the_step_piece(small: Pair, stepping: Pair) -> None:
    assert detect_chat_form(small.tokenizer) == "inst"
    assert detect_chat_form(stepping.tokenizer) == "step"


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        ("", "empty"),
        ("s", "last message is from 'system'"),
        ("a", "message 1: the role is 'assistant', expected 'user'"),
        ("ua", "last message is from 'assistant'"),
        ("sua", "last message is from 'assistant'"),
        ("uu", "message 2: the role is 'user', expected 'assistant'"),
        ("au", "message 1: the role is 'assistant', expected 'user'"),
        ("sau", "message 2: the role is 'assistant', expected 'user'"),
        ("ssu", "message 2: the role is 'system', expected 'user'"),
        ("usu", "message 2: the role is 'system', expected 'assistant'"),
        ("uaus", "message 4: the role is 'system', expected 'assistant'"),
    ],
)
def test_order_of_roles(small: Pair, roles: str, problem: str) -> None:
    names = {"s": "system", "u": "user", "a": "assistant"}
    with pytest.raises(PromptError, match=problem):
        chat_ids(small.tokenizer, said(*((names[role], "text") for role in roles)))


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"content": "a"}, "message 1: `role` is missing"),
        ({"role": "user"}, "message 1: `content` is missing"),
        ({"role": "user", "content": None}, "`content` is NoneType"),
        ({"role": "user", "content": [{"type": "text"}]}, "`content` is list"),
        ({"role": 1, "content": "a"}, "`role` is int"),
        ({"role": "User", "content": "a"}, "the role is 'User'"),
        ({"role": "tool", "content": "a"}, "the role is 'tool'"),
        ({"role": "user", "content": "a", "destination": 5}, "`destination` is not a text"),
        ({"role": "user", "content": "a", "destination": "x\ny"}, "more than one line"),
        ({"role": "user", "content": "a", "destination": "<step>"}, "destination contains <step>"),
        ({"role": "user", "content": "a\ud800"}, "character 8"),
    ],
)
def test_malformed_messages(small: Pair, message: dict[str, Any], problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        chat_ids(small.tokenizer, [message])


def test_forms_that_do_not_fit(small: Pair) -> None:
    for use in (
        lambda form: chat_stop_id(small.tokenizer, form),
        lambda form: chat_ids(small.tokenizer, said(("user", "a")), form),
    ):
        with pytest.raises(PromptError, match="<step>, which this vocabulary lacks"):
            use("step")
        with pytest.raises(PromptError, match="'chatml'; expected 'inst' or 'step'"):
            use("chatml")


@pytest.mark.parametrize("content", ["[INST]", "a [/INST]", "<<SYS>>x", "<</SYS>>", "<step>"])
def test_tags_are_noticed_in_any_message(content: str) -> None:
    clean = said(("system", "[inst] < step >"), ("user", "<<sys>>"))
    assert not has_reserved_tags(clean)
    assert has_reserved_tags([*clean, {"role": "assistant", "content": content}])
