"""The family's prompts, id for id, as Meta's reference made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import PromptError
from codellama.text.chat import chat_ids, chat_stop_id, has_reserved_tags
from codellama.text.infill import infill_ids, split_fill_me
from codellama.text.tokenizer import Tokenizer
from tokenizers_at_hand import pair

FILE = Path(__file__).parents[3] / "shared/data/golden/prompts.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text())["cases"] if FILE.is_file() else []
N_CASES = 109

# Ids of one dialog on the model card of CodeLlama-70b-Instruct.
CARD = [
    *(1, 7562, 29901, 1788, 13, 13, 2184, 9508, 32015, 7562, 29901, 1404, 13, 13, 3824, 1404, 2346),
    *(32015, 7562, 29901, 20255, 13, 13, 8125, 2933, 304, 937, 2346, 32015, 7562, 29901, 1404, 13),
    *(13, 6440, 1404, 2346, 32015, 7562, 29901, 20255, 13, 14994, 3381, 29901, 1404, 13, 13, 29871),
]


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    cases = [case for case in CASES if case["kind"] in kinds]
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


def tokenizer_of(case: dict[str, Any]) -> Tokenizer:
    return pair(case["tokenizer"]).tokenizer


def test_all_cases_are_here() -> None:
    if not CASES:
        pytest.skip(f"{FILE} is not here")
    assert len(CASES) == N_CASES
    kinds = {"encode", "decode", "decode_infilling", "infill", "chat_inst", "chat_step"}
    assert {case["kind"] for case in CASES} == kinds | {"hf_fill", "hf_chat_template"}


@of_kind("encode")
def test_encode(case: dict[str, Any]) -> None:
    tokenizer, given = tokenizer_of(case), case["input"]
    expected = case["expected"]["ids"]
    assert tokenizer.encode(**given, allow_control=True) == expected
    safe = tokenizer.encode(**given)
    own = {tokenizer.bos_id} if given["bos"] else set()
    own |= {tokenizer.eos_id} if given["eos"] else set()
    if tokenizer.control_ids.isdisjoint(set(expected) - own):
        assert safe == expected
    else:
        assert tokenizer.control_ids.isdisjoint(set(safe) - own)
    if "hf_fast_ids" in case["expected"]:
        assert safe != case["expected"]["hf_fast_ids"]


@of_kind("decode", "decode_infilling")
def test_decode(case: dict[str, Any]) -> None:
    tokenizer, ids = tokenizer_of(case), case["input"]["ids"]
    bare = case["kind"] == "decode_infilling"
    decode = tokenizer.decode_bare if bare else tokenizer.decode
    assert decode(ids) == case["expected"]["text"]
    stream = tokenizer.stream_decoder(bare=bare)
    assert "".join(map(stream.push, ids)) + stream.finish() == case["expected"]["text"]


@of_kind("infill")
def test_infill(case: dict[str, Any]) -> None:
    tokenizer, given = tokenizer_of(case), case["input"]
    order = "spm" if given["suffix_first"] else "psm"
    expected = case["expected"]["ids"]
    hole = (given["prefix"], given["suffix"], order)
    assert infill_ids(tokenizer, *hole, allow_control=True) == expected
    n_control = sum(i in tokenizer.control_ids for i in expected)
    safe = infill_ids(tokenizer, *hole)
    assert (safe == expected) == (n_control == 4)  # <s> and three markers of its own
    if "hf_fast_ids" in case["expected"]:
        assert safe != case["expected"]["hf_fast_ids"]


@of_kind("chat_inst", "chat_step")
def test_chat(case: dict[str, Any]) -> None:
    tokenizer, dialog = tokenizer_of(case), case["input"]["dialog"]
    form, expected = case["kind"].removeprefix("chat_"), case["expected"]
    if "error" in expected:
        for allow in (False, True):
            with pytest.raises(PromptError):
                chat_ids(tokenizer, dialog, form, allow_control=allow)
        return
    assert chat_stop_id(tokenizer, form) == expected["stop_id"]
    assert has_reserved_tags(dialog) == expected["unsafe"]
    trusted = chat_ids(tokenizer, dialog, form, allow_control=True)
    if expected["ids"] is not None:  # one case leaves open what the published file does
        assert trusted == expected["ids"]
    if expected["unsafe"]:
        with pytest.raises(PromptError, match="contains"):
            chat_ids(tokenizer, dialog, form)
        return
    own = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.step_id}
    if tokenizer.control_ids.isdisjoint(set(trusted) - own):
        assert chat_ids(tokenizer, dialog, form) == trusted
    else:
        assert tokenizer.control_ids.isdisjoint(set(chat_ids(tokenizer, dialog, form)) - own)


def test_the_ids_on_the_model_card() -> None:
    messages = [
        {"role": "system", "content": "System prompt    "},
        {"role": "user", "content": "First user query"},
        {"role": "assistant", "content": "Model response to first query"},
        {"role": "user", "content": "Second user query"},
    ]
    assert len(CARD) == 49
    assert chat_ids(pair("codellama-70b-instruct").tokenizer, messages, "step") == CARD


@of_kind("hf_fill")
def test_where_transformers_fills_otherwise(case: dict[str, Any]) -> None:
    """One mark is needed here, and an empty side changes nothing about the order of markers."""
    tokenizer, given, expected = tokenizer_of(case), case["input"], case["expected"]
    if given["text"].count("<FILL_ME>") != 1:
        with pytest.raises(PromptError, match="<FILL_ME>"):
            split_fill_me(given["text"])
        return
    prefix, suffix = split_fill_me(given["text"])
    ids = infill_ids(tokenizer, prefix, suffix, "spm" if given["suffix_first"] else "psm")
    if prefix and suffix:
        assert ids == expected["ids"]
    elif prefix:  # transformers leaves the markers out
        assert [i for i in ids if i not in tokenizer.control_ids - {1}] == expected["ids"]
    else:  # transformers encodes the space in front of an empty prefix
        assert ids == [i for i in expected["ids"] if i != 29871]


@of_kind("hf_chat_template")
def test_where_the_published_template_differs(case: dict[str, Any]) -> None:
    """It adds no empty system turn to a dialog without one."""
    tokenizer, dialog = tokenizer_of(case), case["input"]["dialog"]
    if "error" in case["expected"]:
        with pytest.raises(PromptError):
            chat_ids(tokenizer, dialog, "step")
        return
    ids = chat_ids(tokenizer, dialog, "step")
    if dialog[0]["role"] != "system":
        empty = [*tokenizer.encode(" Source: system"), tokenizer.step_id]
        assert ids[1 : 1 + len(empty)] == empty
        del ids[1 : 1 + len(empty)]
    assert ids == case["expected"]["ids"]
