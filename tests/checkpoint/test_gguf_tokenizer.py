"""The vocabulary in a GGUF file, where its sequences end and how it chats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import tiny_config, tiny_sentencepiece
from codellama import checkpoint
from codellama.errors import CheckpointError
from codellama.text.tokenizer import Tokenizer
from hostile import contents, outcome, put, watch
from hostile_gguf import BOOL, F32, I32, STRING, U32, File, Pair, array, model, read

T = "tokenizer.ggml."
REAL_VOCABULARY = (
    Path(__file__).parents[3] / "shared/data/tokenizer/codellama-32016.tokenizer.model"
)


def pieces() -> Any:
    from sentencepiece import sentencepiece_model_pb2 as pb

    return pb.ModelProto.FromString(tiny_sentencepiece()).pieces


def vocabulary() -> list[Pair]:
    """The tiny vocabulary as metadata."""
    return [
        Pair(T + "model", STRING, "llama"),
        Pair(T + "tokens", raw=array(STRING, [p.piece for p in pieces()])),
        Pair(T + "scores", raw=array(F32, [p.score for p in pieces()])),
        Pair(T + "token_type", raw=array(I32, [p.type for p in pieces()])),
        Pair(T + "bos_token_id", U32, 1),
        Pair(T + "eos_token_id", U32, 2),
    ]


def with_vocabulary(*changes: Pair, vocab_size: int = 320) -> File:
    file = model(tiny_config(n_layers=1, vocab_size=vocab_size))
    file = replace(file, pairs=[*file.pairs, *vocabulary()])
    for pair in changes:
        file = file.with_pair(pair)
    return file


TEXTS = ["def f(x):\n    return x", "  two  spaces", "", " ", "naïve ☃ 𝄞", "a<PRE> <PRE>", "\t\n"]


def test_the_vocabulary_encodes_as_the_original(gguf_file: Path, tokenizer_model: Path) -> None:
    ours, original = checkpoint.open(gguf_file).tokenizer(), Tokenizer.open(tokenizer_model)
    assert ours.n_vocab == original.n_vocab == 320
    for text in TEXTS:
        assert ours.encode(text, bos=True) == original.encode(text, bos=True)
        assert ours.encode_bare(text) == original.encode_bare(text)
        assert ours.decode(ours.encode(text)) == text
    assert (ours.prefix_id, ours.eot_id) == (original.prefix_id, original.eot_id)
    assert ours.has_infill


def test_the_space_in_front_is_the_file_s_to_say(gguf_path: Path) -> None:
    for flag in (True, False):
        reader = read(gguf_path, with_vocabulary(Pair(T + "add_space_prefix", BOOL, flag)))
        assert reader.tokenizer().add_dummy_prefix is flag
    reader = read(gguf_path, with_vocabulary())
    assert reader.tokenizer().add_dummy_prefix is True


@pytest.mark.skipif(not REAL_VOCABULARY.exists(), reason=f"{REAL_VOCABULARY} is not there")
def test_the_family_s_vocabulary(gguf_path: Path) -> None:
    """32,016 pieces, and the same ids as the original."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    found = pb.ModelProto.FromString(REAL_VOCABULARY.read_bytes()).pieces
    file = with_vocabulary(
        Pair(T + "tokens", raw=array(STRING, [p.piece for p in found])),
        Pair(T + "scores", raw=array(F32, [p.score for p in found])),
        Pair(T + "token_type", raw=array(I32, [p.type for p in found])),
        Pair(T + "add_space_prefix", BOOL, 1),
        Pair(T + "eot_token_id", U32, 32010),
        vocab_size=32016,
    )
    put(gguf_path, file.to_bytes())
    reader = checkpoint.open(gguf_path)
    ours, original = reader.tokenizer(), Tokenizer.open(REAL_VOCABULARY)
    assert reader.generation.eos_ids == (2, 32010)
    for text in (*TEXTS, "a <Elem", "keep <SUF> as text?", "<EOT><EOT>", "x " * 500):
        for allow in (False, True):
            ids = original.encode(text, allow_control=allow)
            assert ours.encode(text, allow_control=allow) == ids


TOKENIZERS: dict[str, tuple[Pair, str]] = {
    "no tokenizer": (Pair(T + "model", U32, 0), "tokenizer.ggml.model"),
    **{f"a tokenizer of the kind {kind}": (Pair(T + "model", STRING, kind), repr(kind))
       for kind in ("gpt2", "bert", "t5", "rwkv", "no_vocab", "LLAMA", "")},
    "tokens as a string": (Pair(T + "tokens", STRING, "a"), "tokens"),
    "tokens as numbers": (Pair(T + "tokens", raw=array(U32, [1, 2])), "tokens"),
    "no token": (Pair(T + "tokens", raw=array(STRING, [])), ""),
    "a token too few": (
        Pair(T + "tokens", raw=array(STRING, [f"t{i}" for i in range(319)])), ""),
    "a token too many": (
        Pair(T + "tokens", raw=array(STRING, [f"t{i}" for i in range(321)])),
        "321 pieces and the model embeds 320"),
    "a token twice": (Pair(T + "tokens", raw=array(STRING, ["a"] * 320)), ""),
    "a token that is not UTF-8": (Pair(T + "tokens", raw=array(STRING, [b"\xff"] * 320)), "UTF-8"),
    "scores as strings": (Pair(T + "scores", raw=array(STRING, ["1"] * 320)), "scores"),
    "a score too few": (Pair(T + "scores", raw=array(F32, [0.0] * 319)), ""),
    "scores that are not numbers": (Pair(T + "scores", raw=array(F32, [float("nan")] * 320)), ""),
    "types as a number": (Pair(T + "token_type", U32, 1), "token_type"),
    "a type too few": (Pair(T + "token_type", raw=array(I32, [1] * 319)), ""),
    "unknown types": (Pair(T + "token_type", raw=array(I32, [99] * 320)), ""),
    "no special tokens": (Pair(T + "token_type", raw=array(I32, [1] * 320)), ""),
    "the space in front as a number": (Pair(T + "add_space_prefix", U32, 1), "add_space_prefix"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOKENIZERS)
def test_other_tokenizers_are_refused_by_name(gguf_path: Path, what: str) -> None:
    pair, words = TOKENIZERS[what]
    reader = read(gguf_path, with_vocabulary(pair))
    assert len(contents(gguf_path)) == 12  # the weights are read all the same
    with pytest.raises(CheckpointError) as caught:
        reader.tokenizer()
    assert words in str(caught.value)
    assert str(gguf_path) in str(caught.value)


@pytest.mark.parametrize("key", ["model", "tokens", "scores", "token_type"])
def test_a_vocabulary_has_four_parts(gguf_path: Path, key: str) -> None:
    reader = read(gguf_path, with_vocabulary().without(T + key))
    with pytest.raises(CheckpointError, match=f"{T}{key}.* missing"):
        reader.tokenizer()


# --- where sequences end, and chat


def test_the_ids_that_end_a_sequence(gguf_path: Path) -> None:
    found = read(gguf_path, with_vocabulary(Pair(T + "eot_token_id", U32, 319))).generation
    assert (found.bos_id, found.eos_ids) == (1, (2, 319))
    found = read(gguf_path, with_vocabulary(Pair(T + "eot_token_id", U32, 2))).generation
    assert found.eos_ids == (2,)
    found = read(gguf_path, model()).generation
    assert (found.bos_id, found.eos_ids) == (None, ())


@pytest.mark.parametrize("key", ["bos", "eos", "eot"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(U32, 320), (U32, 2**32 - 1), (I32, -1), (F32, 1.0), (STRING, "1"), (BOOL, 1)],
)
def test_ids_outside_the_vocabulary_are_refused(
    gguf_path: Path, key: str, kind: int, value: Any
) -> None:
    put(gguf_path, with_vocabulary(Pair(f"{T}{key}_token_id", kind, value)).to_bytes())
    error = outcome(gguf_path)
    assert isinstance(error, CheckpointError)
    assert f"{key}_token_id" in str(error)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '[INST] ' + messages[0] }}", "inst"),
        ("{{ '<step>' }}", "step"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", None),
        (None, None),
    ],
)
def test_a_template_is_reported_and_not_run(
    gguf_path: Path, template: str | None, form: str | None
) -> None:
    pair = Pair("tokenizer.chat_template", STRING, template or "")
    file = with_vocabulary(pair) if template is not None else with_vocabulary()
    reader = read(gguf_path, file)
    reader.tokenizer()
    with watch() as watched:
        assert (reader.chat_template, reader.chat_form) == (template, form)
    assert watched.others == []


def test_a_step_piece_says_how_to_chat(gguf_path: Path) -> None:
    tokens = [p.piece for p in pieces()[:-1]] + ["<step>"]
    file = with_vocabulary(Pair(T + "tokens", raw=array(STRING, tokens)))
    assert read(gguf_path, file).chat_form == "step"
    assert read(gguf_path, with_vocabulary()).chat_form is None
