"""Hugging Face's files: read to the reference's ids, and written so that others get them too."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CheckpointError, PromptError
from codellama.text.chat import RESERVED_TAGS, ChatForm, chat_ids
from codellama.text.hf_json import chat_template, tokenizer_json
from codellama.text.tokenizer import CONTROL_PIECES, Tokenizer
from odd_texts import MARKERS, SPACE, texts
from tokenizers_at_hand import Pair, pair

# What `tokenizers` takes out of text as special tokens, and SentencePiece does not.
SPECIAL = ("<s>", "</s>", "<unk>", "<step>", SPACE)


def dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def read(file: dict[str, Any] | bytes) -> Tokenizer:
    data = file if isinstance(file, bytes) else dumped(file)
    return Tokenizer.from_files({"tokenizer.json": data}, "tokenizer.json")


def assert_same_ids(one: Tokenizer, other: Tokenizer, n: int = 1500) -> None:
    assert one.control_ids == other.control_ids
    for text in texts(n, seed=20):
        assert one.encode(text) == other.encode(text), text
        assert one.encode_bare(text) == other.encode_bare(text), text
        ids = one.encode(text, bos=True, eos=True, allow_control=True)
        assert other.encode(text, bos=True, eos=True, allow_control=True) == ids, text
        assert one.decode(ids) == other.decode(ids)


def test_written_and_read_again_gives_the_same_ids(each: Pair) -> None:
    assert_same_ids(read(tokenizer_json(each.tokenizer)), each.tokenizer)


def test_tokenizers_gives_our_ids_from_a_written_file(each: Pair, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Theirs

    theirs = Theirs.from_str(dumped(tokenizer_json(each.tokenizer)).decode())
    n = 0
    for text in texts(1500, seed=21):
        if any(special in text for special in SPECIAL):
            continue
        ids = each.tokenizer.encode(text, bos=True, allow_control=True)
        assert theirs.encode(text).ids == ids, text
        plain = theirs.encode(text, add_special_tokens=False).ids
        assert plain == ids[1:]
        if each.tokenizer.control_ids.isdisjoint(plain):
            assert theirs.decode(plain) == text
        n += 1
    assert n > 500


def converted(name: str, tmp_path: Path, *, metaspace: bool) -> bytes:
    """A tokenizer.json as the libraries' own converter makes it, in its old or new dress."""
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Theirs
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    path = tmp_path / "tokenizer.model"
    path.write_bytes(pair(name).tokenizer.to_spm_bytes())
    found = SentencePieceExtractor(str(path)).extract(models.BPE)
    model = models.BPE(
        found["vocab"], found["merges"], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    theirs = Theirs(model)
    theirs.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    if metaspace:
        theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        theirs.normalizer = normalizers.Sequence(steps)
        theirs.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback()])
    return theirs.to_str().encode()


@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("name", ["small", "codellama-32016", "llama2-32000"])
def test_files_converted_by_others_give_the_reference(
    tmp_path: Path, name: str, metaspace: bool
) -> None:
    assert_same_ids(read(converted(name, tmp_path, metaspace=metaspace)), pair(name).tokenizer)


def test_a_file_saved_by_transformers_gives_the_reference(tmp_path: Path) -> None:
    """Its own class for this family, which itself gives other ids."""
    from transformers import CodeLlamaTokenizer

    original = pair("codellama-32016").tokenizer
    file = tokenizer_json(original)
    merges = [tuple(merge.split(" ")) for merge in file["model"]["merges"]]
    theirs = CodeLlamaTokenizer(vocab=file["model"]["vocab"], merges=merges)
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    extra = [t for t in saved["added_tokens"] if t["id"] >= original.n_vocab]
    assert [token["content"] for token in extra] == ["<FILL_ME>"]
    opened = Tokenizer.open(tmp_path)
    assert opened.n_vocab == original.n_vocab + 1
    for text in texts(800, seed=22):
        assert opened.encode(text) == original.encode(text)
    assert theirs.encode("  two", add_special_tokens=False) != original.encode("  two")


def published_70b(name: str = "codellama-32016") -> dict[str, Any]:
    """As Hugging Face publishes 70B-Instruct: <step> beside a vocabulary that ends before it."""
    file = tokenizer_json(pair(name).tokenizer)
    last = list(file["model"]["vocab"])[-1]
    step = {"id": file["model"]["vocab"].pop(last), "content": "<step>", "special": False}
    flags = {"single_word": True, "lstrip": True, "rstrip": True, "normalized": False}
    file["added_tokens"].append(step | flags)
    return file


def test_the_published_70b_file_gives_metas_ids(family: Callable[[str], Pair]) -> None:
    assert_same_ids(read(published_70b()), family("codellama-70b-instruct").tokenizer)


@pytest.mark.parametrize("n_pieces", [32015, 32016])
def test_the_published_70b_folder_gives_metas_ids(
    tmp_path: Path, family: Callable[[str], Pair], n_pieces: int
) -> None:
    """Which tokenizer.model lies there is not known; tokenizer_config.json names <step>."""
    vocabulary = family("codellama-32016").tokenizer.vocabulary()
    model = Tokenizer.from_pieces(
        vocabulary.pieces[:n_pieces],
        vocabulary.scores[:n_pieces],
        vocabulary.types[:n_pieces],
        add_dummy_prefix=True,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.to_spm_bytes())
    added = {"1": {"content": "<s>", "special": True}, "32015": {"content": "<step>"}}
    (tmp_path / "tokenizer_config.json").write_bytes(dumped({"added_tokens_decoder": added}))
    (tmp_path / "tokenizer.json").write_bytes(b"not looked at")
    assert_same_ids(Tokenizer.open(tmp_path), family("codellama-70b-instruct").tokenizer)


def test_tokens_added_to_a_model(small: Pair) -> None:
    n = small.tokenizer.n_vocab
    files = {
        "tokenizer.model": small.tokenizer.to_spm_bytes(),
        "added_tokens.json": dumped({"<|end|>": n}),
        "tokenizer_config.json": dumped(
            {
                "added_tokens_decoder": {
                    "0": {"content": "<unk>", "special": True},
                    str(n + 1): {"content": "hello", "special": False},
                }
            }
        ),
    }
    tokenizer = Tokenizer.from_files(files, "folder")
    assert tokenizer.n_vocab == n + 2
    assert (tokenizer.piece(n), tokenizer.piece(n + 1)) == ("<|end|>", "hello")
    assert n in tokenizer.control_ids
    assert n not in tokenizer.encode("a <|end|> b")
    assert tokenizer.decode([n]) == ""
    assert n + 1 in tokenizer.encode("say hello now")
    assert tokenizer.decode(tokenizer.encode("say hello now")) == "say hello now"


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        ({"700": {"content": "<|end|>"}}, "vocabulary ends at"),
        ({"5": {"content": "<|end|>"}}, "id 5 is '<0x02>'.*'<|end|>'"),
        ({"x": {"content": "<|end|>"}}, "has the id 'x'"),
        ({"5": {}}, "lacks its content"),
        ({"5": 5}, "has the id '5'"),
        ([5], "added tokens is not a JSON object"),
    ],
)
def test_added_tokens_that_do_not_fit(small: Pair, added: object, problem: str) -> None:
    files = {
        "tokenizer.model": small.tokenizer.to_spm_bytes(),
        "tokenizer_config.json": dumped({"added_tokens_decoder": added}),
    }
    with pytest.raises(CheckpointError, match=problem) as caught:
        Tokenizer.from_files(files, "folder")
    assert str(caught.value).startswith("folder/tokenizer")


def test_a_folder_without_tokenizer_is_named() -> None:
    with pytest.raises(CheckpointError, match="models/x: holds neither"):
        Tokenizer.from_files({"tokenizer_config.json": b"{}"}, "models/x")


def test_a_config_that_adds_nothing_changes_nothing(small: Pair) -> None:
    model = small.tokenizer.to_spm_bytes()
    known = {"0": {"content": "<unk>"}, "1": {"content": "<s>"}}
    for config in ({}, {"added_tokens_decoder": None}, {"added_tokens_decoder": known}):
        files = {"tokenizer.model": model, "tokenizer_config.json": dumped(config)}
        assert Tokenizer.from_files(files, "folder").to_spm_bytes() == model


def set_at(*path: str | int) -> Callable[[dict[str, Any], object], None]:
    def change(file: dict[str, Any], value: object) -> None:
        place: Any = file
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("model",), None, "`model` is not a JSON object"),
        (("model", "type"), "WordPiece", "'WordPiece'"),
        (("model", "type"), "Unigram", "'Unigram'"),
        (("model", "byte_fallback"), False, "'BPE' without byte fallback"),
        (("model", "dropout"), 0.1, "dropout"),
        (("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix"),
        (("model", "ignore_merges"), True, "ignore_merges"),
        (("model", "vocab"), [], "`model.vocab` is not a JSON object"),
        (("model", "vocab", "<s>"), 7, "none has the id 1"),
        (("model", "vocab", "<s>"), "1", "none has the id 1"),
        (("model", "vocab", "<s>"), True, "none has the id 1"),
        (("model", "vocab", "<s>"), 10**30, "none has the id 1"),
        (("model", "unk_token"), None, "0 unknown pieces"),
        (("model", "merges"), None, "not a list"),
        (("model", "merges"), [], "does not merge"),
        (("model", "merges", 3), "a", "not a pair"),
        (("model", "merges", 3), ["a", 1], "not a pair"),
        (("model", "merges", 3), ["a", []], "not a pair"),
        (("model", "merges", 3), 5, "not a list"),
        (("added_tokens",), {}, "does not write a space"),
        (("added_tokens",), 5, "not a list"),
        (("added_tokens", 0), 5, "added token is not a JSON object"),
        (("added_tokens", 0), {"content": "<s>"}, "lacks its content or its id"),
        (("normalizer",), None, "does not write a space"),
        (("normalizer",), {"type": "NFC"}, "'NFC'"),
        (("normalizer", "normalizers", 0), {"type": "Lowercase"}, "'Lowercase'"),
        (("normalizer", "normalizers", 1, "content"), "_", "does not write a space"),
        (("pre_tokenizer",), {"type": "ByteLevel"}, "'ByteLevel'"),
        (("pre_tokenizer",), {"type": "Metaspace", "replacement": SPACE}, "'Metaspace'"),
    ],
)
def test_other_kinds_of_tokenizer_json_are_refused(
    small: Pair, path: tuple[str | int, ...], value: object, problem: str
) -> None:
    file = tokenizer_json(small.tokenizer)
    if path == ("added_tokens",) and value == {}:
        file["normalizer"] = None
    set_at(*path)(file, value)
    with pytest.raises(CheckpointError, match=problem) as caught:
        read(file)
    assert str(caught.value).startswith("tokenizer.json: ")


def test_merges_that_scores_cannot_express_are_refused(small: Pair) -> None:
    file = tokenizer_json(small.tokenizer)
    merges = file["model"]["merges"]
    made = [merge.replace(" ", "") for merge in merges]
    at = next(i for i in range(1, len(made)) if made[i] == made[i - 1])
    apart = copy.deepcopy(file)
    apart["model"]["merges"].append(apart["model"]["merges"].pop(at))
    with pytest.raises(CheckpointError, match="not together"):
        read(apart)
    fewer = copy.deepcopy(file)
    del fewer["model"]["merges"][at]
    with pytest.raises(CheckpointError, match="does not merge"):
        read(fewer)


def test_damaged_json_ends_in_an_error_or_a_usable_tokenizer(small: Pair) -> None:
    choice = random.Random(23)
    whole = dumped(tokenizer_json(small.tokenizer))
    damaged = [whole[: choice.randrange(len(whole))] for _ in range(100)]
    damaged += [b"[" * 100_000, b'{"model": ' * 20_000, b"\xff\xfe", b"null", b"9" * 10_000]
    for _ in range(300):
        data = bytearray(whole)
        data[choice.randrange(len(data))] = choice.randrange(256)
        damaged.append(bytes(data))
    n_refused = 0
    for data in damaged:
        try:
            tokenizer = read(data)
            tokenizer.decode(tokenizer.encode("def f(x):\n\treturn é"))
        except CheckpointError:
            n_refused += 1
    assert n_refused > 105


DIALOGS = ("u", "su", "uau", "suau", "suauau")
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def dialogs(n: int, seed: int) -> list[list[dict[str, str]]]:
    choice = random.Random(seed)
    bodies = [t for t in texts(400, seed=seed) if not any(x in t for x in (*MARKERS, *SPECIAL))]
    bodies = [t for t in bodies if not any(tag in t for tag in RESERVED_TAGS)]
    return [
        [{"role": ROLES[r], "content": choice.choice(bodies)} for r in choice.choice(DIALOGS)]
        for _ in range(n)
    ]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("small", "inst"),
        ("codellama-32016", "inst"),
        ("small-step", "inst"),
        ("small-step", "step"),
        ("codellama-70b-instruct", "step"),
        ("dummy prefix and <step>", "step"),
    ],
)
def test_templates_give_our_ids_in_transformers(tmp_path: Path, name: str, form: ChatForm) -> None:
    from transformers import PreTrainedTokenizerFast

    if name == "dummy prefix and <step>":
        vocabulary = pair("small").tokenizer.vocabulary()
        pieces = [*vocabulary.pieces[:-1], "<step>"]
        tokenizer = Tokenizer.from_pieces(
            pieces, vocabulary.scores, vocabulary.types, add_dummy_prefix=True
        )
    else:
        tokenizer = pair(name).tokenizer
    path = tmp_path / "tokenizer.json"
    path.write_bytes(dumped(tokenizer_json(tokenizer)))
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template(form, add_dummy_prefix=tokenizer.add_dummy_prefix),
    )
    for messages in dialogs(150, seed=24):
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True)
        assert list(ids["input_ids"]) == chat_ids(tokenizer, messages, form), messages
    for roles in ("", "s", "a", "uu", "au", "sau", "ssu", "usu"):
        messages = [{"role": ROLES[role], "content": "text"} for role in roles]
        with pytest.raises(PromptError):
            chat_ids(tokenizer, messages, form)
        with pytest.raises(Exception, match=r"Roles must|no message from|empty conv"):
            theirs.apply_chat_template(messages, add_generation_prompt=True)


def test_templates_pass_destinations_on(stepping: Pair) -> None:
    import jinja2

    tokenizer = stepping.tokenizer
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "destination": " user ", "content": "b"},
        {"role": "user", "content": "  "},
    ]
    template = jinja2.Environment().from_string(chat_template("step", add_dummy_prefix=False))
    text = template.render(messages=messages, bos_token="<s>", add_generation_prompt=True)
    shown = "".join(tokenizer.decode([i]) for i in chat_ids(tokenizer, messages, "step"))
    assert text == "<s>" + shown


def test_control_pieces_are_marked_in_written_files(infilling: Pair) -> None:
    file = tokenizer_json(infilling.tokenizer)
    marked = {token["content"]: token for token in file["added_tokens"]}
    assert {"<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"} == marked.keys()
    assert all(token["special"] for token in marked.values())
    assert marked.keys() - {"<unk>", "<s>", "</s>"} < CONTROL_PIECES
