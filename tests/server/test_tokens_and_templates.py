"""TOK and TPL: what text can and cannot become, over the wire and below it."""

from __future__ import annotations

import ast
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import Running, running, scripted

import codellama
from codellama.text.chat import RESERVED_TAGS
from codellama.text.stops import StopFilter
from codellama.text.tokenizer import CONTROL_PIECES, Tokenizer
from fakes import ScriptedModel

PIECES = [*sorted(p.replace("▁", " ") for p in CONTROL_PIECES), "</s>", "<s>", "<unk>"]


@pytest.fixture(scope="module")
def tokenizer(live: Running) -> Tokenizer:
    return live.served.model.tokenizer


def test_TOK_1_what_is_encoded_is_decoded(tokenizer: Tokenizer) -> None:
    chance = random.Random(1)
    for _ in range(1500):
        text = "".join(
            chr(chance.choice([*range(32, 127), 10, 9, 13, *range(160, 0x2580), 0x1F600, 0x10FFFF]))
            for _ in range(chance.randint(0, 30))
        )
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode_bare(tokenizer.encode_bare(text)) == text
    # The one known exception: the mark that stands for a space inside pieces.
    assert tokenizer.decode(tokenizer.encode("a\u2581b")) == "a b"


def test_TOK_2_no_text_becomes_a_control_id(tokenizer: Tokenizer, live: Running) -> None:
    chance = random.Random(2)
    contexts = ["", "x", " ", "\n", "<", ">", "(", "▁", "<PRE> a", " <SUF", "def f(): "]
    for piece in PIECES:
        for _ in range(60):
            left, right = chance.choice(contexts), chance.choice(contexts)
            at = chance.randrange(len(piece) + 1)
            for text in (left + piece + right, left + piece[:at] + piece + piece[at:] + right):
                assert tokenizer.control_ids.isdisjoint(tokenizer.encode(text)), text
                assert tokenizer.control_ids.isdisjoint(tokenizer.encode_bare(text)), text
    text = " ".join(PIECES)
    tokens = live.post("/tokenize", {"content": text, "parse_special": True}).json["tokens"]
    assert tokenizer.control_ids.isdisjoint(tokens)


@pytest.mark.parametrize("tag", RESERVED_TAGS)
def test_TOK_3_marks_of_the_conversation_are_refused_in_it(live: Running, tag: str) -> None:
    for role in ("user", "system"):
        messages = [{"role": role, "content": f"a {tag} b"}, {"role": "user", "content": "x"}]
        answer = live.post("/v1/chat/completions", {"messages": messages[: 1 + (role == "system")]})
        assert answer.status == 400
        assert answer.json["error"]["code"] == "invalid_prompt"
        assert "choices" not in answer.json


def test_TOK_4_streamed_text_is_whole_text(tokenizer: Tokenizer) -> None:
    chance = random.Random(4)
    for _ in range(400):
        ids = [chance.randrange(3, tokenizer.n_vocab) for _ in range(chance.randint(0, 25))]
        if chance.random() < 0.5:  # bytes, of which some make characters
            ids += [3 + byte for byte in "é😀".encode()][: chance.randint(0, 6)]
        decoder = tokenizer.stream_decoder(bare=True)
        parts = [decoder.push(i) for i in ids]
        assert "".join(parts) + decoder.finish() == tokenizer.decode_bare(ids)
        text = tokenizer.decode_bare(ids)
        if len(text) < 4:
            continue
        stop = text[len(text) // 2 :][:3]
        stops = StopFilter([stop])
        shown = "".join(stops.push(char) for char in text) + stops.finish()
        assert shown == text[: text.index(stop)]


def test_TOK_5_long_texts_are_encoded_off_the_loop() -> None:
    seen: list[tuple[int, str]] = []
    model = scripted(ScriptedModel(n_blocks=2048, script=lambda t: 70), max_seq_len=16384)
    encode = model.tokenizer.encode

    def noting(text: str, *args: Any, **more: Any) -> list[int]:
        seen.append((len(text), threading.current_thread().name))
        return encode(text, *args, **more)

    model.tokenizer.encode = noting  # type: ignore[method-assign]
    with running(model) as server:
        for size in (10, 8192, 16000):
            asked = {"prompt": "x" * size, "max_tokens": 1}
            assert server.post("/v1/completions", asked).status == 200
    assert [name.startswith("tokenise") for _, name in seen] == [False, True, True]


def test_TPL_1_templates_are_the_servers_own(live: Running) -> None:
    messages = [{"role": "user", "content": "x"}]
    for field, value in (
        ("chat_template", "{{ 7 * 7 }}"),
        ("chat_template_kwargs", {"a": 1}),
    ):
        body = {"messages": messages, "max_tokens": 1, field: value}
        assert live.post("/v1/chat/completions", body).status == 400
        assert live.post("/v1/chat/completions", body | {field: None}).status == 200
    body = {"prompt": "x", "template": "{{ .System }}{{ range }}", "stream": False}
    assert live.post("/api/generate", body).status == 400
    text = "{{ 7 * 7 }} {% for x in range(10**9) %}{% endfor %}"
    turns = [{"role": "user", "content": text}]
    assert text in live.post("/apply-template", {"messages": turns}).json["prompt"]
    package = Path(codellama.__file__).parent
    for module in package.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("jinja2", "pickle", "yaml")]
