"""Settings, line limits, scores: what needs no server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import running, scripted
from hypothesis import given
from hypothesis import strategies as st

from checkpoints_tiny import write_safetensors
from codellama.cli.serve import _named
from codellama.engine.completion import Piece
from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.engine.scoring import Scoring
from codellama.errors import ConfigError
from codellama.server.generation import Generation
from codellama.server.lines import LineLimit
from codellama.server.routes.replay import weights_sha256
from codellama.server.run import load, prompt_tokens, step_tokens
from codellama.server.settings import Limits, Settings
from codellama.server.streaming import written
from fakes import ByteTokenizer, ReferenceKernel, ScriptedModel, log_softmax


def test_prompts_have_their_share_of_a_step_however_many_reply() -> None:
    assert [step_tokens(Settings(max_num_seqs=n)) - n for n in (1, 32, 500)] == [1024] * 3
    assert prompt_tokens(Settings()) == 128
    assert step_tokens(Settings(max_num_seqs=64, step_tokens=300)) == 300
    assert step_tokens(Settings(max_num_seqs=64, step_tokens=1)) == 64
    assert step_tokens(Settings(device="cuda")) is None


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'port = 9000\nhost = "127.0.0.1"\norigins = ["editors"]\n'
        '[models]\ncodellama-a = "nano"\n[limits]\nwaiting = 7\nrun_s = 5\n'
    )
    found = Settings.read(file, {"port": 1, "host": None})
    assert (found.port, found.origins, found.models) == (1, ("editors",), {"codellama-a": "nano"})
    assert found.limits == Limits(waiting=7, run_s=5)
    assert Settings.read(file, {}, max_waiting=3).limits.waiting == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "did you mean `port`"),
        ("port = 'x'", "expected a value of type int"),
        ("port = 70000", "0 to 65535"),
        ("[limits]\nbody_byte = 1", "limits.body_byte"),
        ("[limits]\nwaiting = 0", "positive"),
        ("limits = 3", "expected a table"),
        ("= ", "not TOML"),
        ("log_level = 'loud'", "log_level"),
        ("models = {}", "no model"),
        ("origins = [1]", "origins"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        Settings.read(file, {})


def test_names_that_editors_recognise() -> None:
    assert _named("nano") == ("codellama-nano", "nano")
    assert _named("codellama/CodeLlama-7b-hf")[0] == "codellama-7b-hf"
    assert _named("/models/tiny.Q8_0.gguf")[0] == "codellama-tiny.q8_0"
    assert _named("mine=/models/x") == ("mine", "/models/x")
    with pytest.raises(ConfigError):
        _named("=x")


def test_an_adapter_is_served_beside_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 40}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    chance, name = np.random.default_rng(1), "base_model.model.model.layers.2.mlp.down_proj.lora_"
    parts = {
        f"{name}A.weight": chance.normal(0, 1, (2, 512)).astype(np.float32),
        f"{name}B.weight": chance.normal(0, 1, (192, 2)).astype(np.float32),
    }
    write_safetensors(folder / "adapter_model.safetensors", parts, "F32")
    settings = Settings(adapters={"tuned": str(folder)}, max_num_seqs=2, threads=1)
    base, tuned = load(settings)
    with running((base.name, base.model), (tuned.name, tuned.model)) as server:
        names = [entry["id"] for entry in server.get("/v1/models").json["data"]]
        assert names == ["codellama-nano", "tuned"]
        asked = {"prompt": "def f(", "max_tokens": 12, "temperature": 0}
        texts = [
            server.post("/v1/completions", asked | {"model": name}).json["choices"][0]["text"]
            for name in (*names, "")
        ]
        assert texts[0] == texts[2] != texts[1]
    assert weights_sha256(base) != weights_sha256(tuned)
    with pytest.raises(ConfigError, match="codellama-nano"):
        Settings(adapters={"codellama-nano": str(folder)})


def test_models_are_served_with_the_cache_and_the_guesses_asked_for() -> None:
    (plain,) = load(Settings(max_num_seqs=2, threads=1, speculation="off"))
    (served,) = load(Settings(max_num_seqs=2, threads=1, kv_cache="q8_0", draft_model="nano"))
    assert plain.model.plan.speculation == "off"
    assert not plain.model.drafters
    assert served.model.plan.speculation == "lookup"
    assert len(served.model.drafters) == 1
    assert served.model.plan.kv_bytes_per_token < plain.model.plan.kv_bytes_per_token
    asked = {"prompt": "def f(", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    with running((served.name, served.model)) as server:
        answer = server.post("/v1/completions", asked).json
        assert answer["usage"]["completion_tokens"] == 12
    with pytest.raises(ConfigError, match="speculation is 'on'"):
        Settings(speculation="on")


def test_completing_loads_nothing_of_the_server() -> None:
    heavy = ("pydantic", "starlette", "uvicorn", "httptools", "asyncio", "codellama.server")
    code = (
        "import sys; from codellama.cli.main import main\n"
        "main(['complete', 'def', '--max-tokens', '1', '--quiet'])\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def whole(text: str, n_indent: int) -> str:
    """What a line limit lets through, from the whole text at once."""
    first, *rest = text.splitlines(keepends=True) or [""]
    shown = [first]
    for line in rest:
        blank = len(line) - len(line.lstrip(" \t"))
        if line.strip() and blank < n_indent:
            break
        shown.append(line)
    return "".join(shown)


@given(
    st.lists(st.sampled_from(["a", "  b", "    c", "", "\t\td"]), max_size=6),
    st.integers(0, 4),
    st.data(),
)
def test_a_line_indented_less_ends_the_text(
    lines: list[str], n_indent: int, data: st.DataObject
) -> None:
    text = "\n".join(lines)
    limit = LineLimit(n_indent, None)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    shown = "".join(limit.push(part) for part in parts) + limit.finish()
    assert shown == (whole(text, n_indent) if n_indent else text)


def test_after_its_time_a_text_ends_with_the_line() -> None:
    now = 0.0
    limit = LineLimit(0, 1.0, clock=lambda: now)
    assert limit.push("a\nb") == "a\nb"
    now = 2.0
    assert limit.push("c\nd\n") == "c\n"
    assert limit.is_over
    assert limit.push("e") == ""


def test_a_text_is_scored_token_by_token_and_leaves_no_block() -> None:
    runner = ScriptedModel(n_blocks=64)
    model = scripted(runner, max_seq_len=512)
    tokenizer: Any = ByteTokenizer()
    engine = Engine(runner, tokenizer, model.plan, ReferenceKernel())
    ids = (1, *ByteTokenizer().encode("def f(x): return x  # " * 9))
    scoring = Scoring(engine, ids, 3, b"")
    n_steps = 1
    while not scoring.step():
        n_steps += 1
    assert n_steps == -(-len(ids) // 64)
    entries = scoring.result().logprobs
    assert entries[0] is None
    assert len(entries) == len(ids)
    for i in (1, 63, 64, 65, len(ids) - 1):
        entry = entries[i]
        assert entry is not None
        row = log_softmax(runner.logits_after(ids[:i]))
        assert entry.logprob == pytest.approx(row[ids[i]], abs=1e-4)
        assert [t for t, _ in entry.top] == np.argsort(-row, kind="stable")[:3].tolist()
    pool = engine.pool
    assert pool.n_free == pool.n_blocks
    assert pool.n_published == len(ids) // 16


def test_a_client_that_does_not_read_is_given_up() -> None:
    """More than it may leave unread ends its stream, and what makes the text."""
    cancelled: list[Generation] = []

    class Canceller:
        def cancel(self, generation: Generation) -> None:
            cancelled.append(generation)

    async def read(n_unread: int) -> list[bytes]:
        prompt = Prompt(ids=(1,), stop_ids=frozenset(), bare=True)
        generation = Generation([prompt], SamplingParams(), 1, b"", Canceller())
        generation.push(0, Piece(text="a", token_ids=(5,)))
        found = []
        parts = written(generation, lambda _, piece: piece.text.encode(), lambda _: b"FAIL", 100)
        async for part in parts:
            found.append(part)
            if len(found) == 1:  # all of this comes while the first part is being sent
                generation.push(0, Piece(text="b" * n_unread, token_ids=(6,)))
            else:
                generation.fail("the end")
        return found

    assert asyncio.run(read(100)) == [b"a", b"b" * 100, b"FAIL"]  # by the end, not before
    assert not cancelled
    assert asyncio.run(read(101)) == [b"a", b"b" * 101, b"FAIL"]
    assert len(cancelled) == 1
