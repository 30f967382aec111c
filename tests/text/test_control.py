"""Text is data: it never becomes a control id unless that is asked for."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sentencepiece

from codellama.errors import PromptError
from codellama.text.chat import RESERVED_TAGS, ChatForm, chat_ids
from codellama.text.infill import infill_ids
from codellama.text.tokenizer import Tokenizer
from odd_texts import MARKERS, ODD, SPACE, texts
from tokenizers_at_hand import Pair, pair

CONTEXTS = [
    ("", ""),
    *((left, right) for left in ("", " ", "x", "x ", "\n", "<", SPACE) for right in ("", " ", ">")),
    *((text, text) for text in ODD if len(text) < 60),
]


def written(piece: str) -> list[str]:
    """Ways to spell a control piece in text: plain, with either space, nested and split."""
    spelled = piece.replace(SPACE, " ")
    inner = spelled.strip()
    ways = [inner, spelled, SPACE + inner, spelled * 2, f" {inner}{inner}", f" <{inner}>"]
    ways += [f"{inner[:at]}{spelled}{inner[at:]}" for at in range(1, len(inner))]
    ways += [f" {inner[:at]} {inner[at:]}" for at in range(1, len(inner))]
    return ways


def test_no_spelling_in_any_place_becomes_a_control_id(each: Pair) -> None:
    tokenizer = each.tokenizer
    control = [tokenizer.piece(i) for i in tokenizer.control_ids]
    assert {"<unk>", "<s>", "</s>"} <= set(control)
    for piece in {*control, *MARKERS}:
        for spelled in written(piece):
            for left, right in CONTEXTS:
                text = left + spelled + right
                for ids in (tokenizer.encode(text), tokenizer.encode_bare(text)):
                    assert tokenizer.control_ids.isdisjoint(ids), text
                assert tokenizer.decode(tokenizer.encode(text)) == text.replace(SPACE, " ")


def test_the_markers_are_within_reach_when_asked_for(infilling: Pair) -> None:
    tokenizer = infilling.tokenizer
    ids = tokenizer.encode("a <SUF> b <PRE> <MID> <EOT>", allow_control=True)
    wanted = {tokenizer.suffix_id, tokenizer.prefix_id, tokenizer.middle_id, tokenizer.eot_id}
    assert wanted <= set(ids)
    assert tokenizer.suffix_id in tokenizer.encode("<SUF>", allow_control=True)
    assert tokenizer.suffix_id not in tokenizer.encode_bare("<SUF>", allow_control=True)


def without_markers(tokenizer: Tokenizer) -> Any:
    """The oracle: the same model with the markers marked unused, which BPE then takes apart."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto.FromString(tokenizer.to_spm_bytes())
    for i in tokenizer.control_ids - {0, 1, 2}:
        model.pieces[i].type = pb.ModelProto.SentencePiece.UNUSED
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def test_parts_are_what_sentencepiece_makes_without_markers(infilling: Pair) -> None:
    tokenizer = infilling.tokenizer
    oracle = without_markers(tokenizer)
    n_differing = 0
    for text in texts(4000, seed=6):
        expected = oracle.encode(text)
        assert tokenizer.encode(text) == expected, text
        n_differing += expected != infilling.reference.encode(text)
    assert n_differing > 100


def test_a_part_that_is_no_piece_becomes_bytes(small: Pair) -> None:
    vocabulary = small.tokenizer.vocabulary()
    pieces = ["\ue000" if piece == ">" else piece for piece in vocabulary.pieces]
    tokenizer = Tokenizer.from_pieces(
        pieces, vocabulary.scores, vocabulary.types, add_dummy_prefix=True
    )
    assert tokenizer.suffix_id in tokenizer.encode("a <SUF> b", allow_control=True)
    ids = tokenizer.encode("a <SUF> b")
    assert ids == without_markers(tokenizer).encode("a <SUF> b")
    assert 3 + ord(">") in ids


def test_infilling_prompts_hold_only_their_own_markers(infilling: Pair) -> None:
    tokenizer = infilling.tokenizer
    choice = random.Random(7)
    bodies = list(texts(300, seed=8))
    for order, n_front in (("psm", 2), ("spm", 3)):
        for prefix in bodies:
            ids = infill_ids(tokenizer, prefix, choice.choice(bodies), order)  # type: ignore[arg-type]
            control = [i for i in ids if i in tokenizer.control_ids]
            markers = (tokenizer.bos_id, tokenizer.prefix_id, tokenizer.suffix_id)
            assert tuple(control) == (*markers, tokenizer.middle_id)
            assert ids[:n_front] == list(markers[:n_front])


@pytest.mark.parametrize(
    ("name", "form"),
    [("small", "inst"), ("small-step", "step"), ("codellama-70b-instruct", "step")],
)
def test_chat_prompts_hold_only_their_own_control_ids(name: str, form: ChatForm) -> None:
    tokenizer = pair(name).tokenizer
    step = tokenizer.step_id
    choice = random.Random(9)
    bodies = [t for t in texts(300, seed=9) if not any(tag in t for tag in RESERVED_TAGS)]
    assert sum(marker in text for text in bodies for marker in ("<SUF>", "<EOT>")) > 20
    for text in bodies:
        messages = [
            {"role": "system", "content": choice.choice(bodies)},
            {"role": "user", "content": text},
            {"role": "assistant", "content": choice.choice(bodies)},
            {"role": "user", "content": choice.choice(bodies)},
        ]
        ids = chat_ids(tokenizer, messages, form)
        control = [i for i in ids if i in tokenizer.control_ids]
        assert control == ([1, *[step] * 4] if form == "step" else [1, 2, 1])


@pytest.mark.parametrize("tag", RESERVED_TAGS)
@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("place", ["{}", "a{}b", "\n{} x", "{0}{0}"])
def test_reserved_tags_are_refused_in_every_message(
    small: Pair, tag: str, number: int, place: str
) -> None:
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": "fine"} for role in roles]
    chat_ids(small.tokenizer, messages)
    messages[number]["content"] = place.format(tag)
    with pytest.raises(PromptError) as caught:
        chat_ids(small.tokenizer, messages)
    assert f"message {number + 1}" in str(caught.value)
    assert tag in str(caught.value)
    assert chat_ids(small.tokenizer, messages, allow_control=True)
