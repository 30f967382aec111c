"""Self-instruct over HTTP: against our own server, nano, and servers that refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import nano, running, scripted

from codellama.errors import ConfigError, RequestError, SandboxUnavailable
from codellama.sandbox import Sandbox
from codellama.train.remote import RemoteModel
from codellama.train.self_instruct import SelfInstruct, self_instruct
from fakes import ByteTokenizer, ScriptedModel

BYTES = ByteTokenizer()
PROBLEMS = "1. Return twice a whole number.\n2. Return a number plus one more.\n"
TESTS = "[TESTS]\nassert double(4) == 8\nassert double(0) == 0\n[/TESTS]"
SOLUTION = "[PYTHON]\ndef double(x):\n    return 2 * x\n[/PYTHON]"


def _says(tokens: tuple[int, ...]) -> int:
    """The next byte of what a model that can do all this would reply."""
    question, _, said = BYTES.decode_bare(tokens).rpartition("[/INST]")
    if "programming problems" in question:
        reply = PROBLEMS
    elif "Write 5 tests" in question:
        reply = TESTS if "twice" in question.rsplit("Problem:", 1)[1] else "I cannot."
    else:
        reply = SOLUTION
    rest = reply[len(said) :]
    return int(BYTES.encode_bare(rest[0])[0]) if rest else BYTES.eos_id


def test_self_instruct_over_our_own_server(tmp_path: Path) -> None:
    try:
        box = Sandbox.open(n_workers=1)
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    model = scripted(ScriptedModel(n_blocks=1024, script=_says), max_seq_len=2048, step_tokens=512)
    with box, running(("big", model)) as server:
        asks = RemoteModel(f"{server.url}/v1", "big")
        found = self_instruct(tmp_path, SelfInstruct(n_problems=2, n_solutions=3), asks, asks, box)
    assert (found["proposed"], found["with tests"], found["solved"]) == (2, 1, 1)
    assert found["without tests"] == {"no tags": 1}
    talk = json.loads((tmp_path / "conversations.jsonl").read_text())
    assert talk[1]["content"] == SOLUTION


def test_nano_answers_as_often_as_asked() -> None:
    """Tests and solutions have room in nano's context; a list of problems takes what is left."""
    with running(("codellama-nano", nano(max_num_seqs=4))) as server:
        model = RemoteModel(f"{server.url}/v1/", "codellama-nano")
        ask = "Write a function that adds two numbers."
        one = model.replies(ask, n=3, temperature=0.8, max_tokens=24, seed=7)
        two = model.replies(ask, n=3, temperature=0.8, max_tokens=24, seed=7)
        (whole,) = model.replies(ask, n=1, temperature=0.0, max_tokens=None, seed=7)
    assert one == two
    assert len(set(one)) == 3
    assert whole


def test_our_server_refuses_clearly() -> None:
    ask: dict[str, Any] = {"n": 1, "temperature": 0.0, "seed": 1}
    waits: list[float] = []
    with running(("big", scripted(max_seq_len=256)), keys=("secret",)) as server:
        url = f"{server.url}/v1"
        with pytest.raises(RequestError, match="HTTP 401") as refused:
            RemoteModel(url, "big", sleep=waits.append).replies("Hi", max_tokens=4, **ask)
        assert refused.value.hint == "put the server's key in the environment as OPENAI_API_KEY"
        let_in = RemoteModel(url, "big", "secret", sleep=waits.append)
        assert len(let_in.replies("Hi", max_tokens=4, **ask)) == 1
        with pytest.raises(RequestError, match=r"HTTP 400: .*256"):
            let_in.replies("Hi", max_tokens=4096, **ask)
    with pytest.raises(RequestError, match="cannot be reached"):
        let_in.replies("Hi", max_tokens=4, **ask)
    assert waits == [2.0, 4.0, 8.0]  # only what may pass is tried again


Step = tuple[int, dict[str, str], bytes]


@contextmanager
def _server(*steps: Step | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Answers one request after another as told; None hangs up in the middle of an answer."""
    coming, asked = iter(steps), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, headers, body = next(coming) or (200, {"Content-Length": "900"}, b'{"cho')
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", asked
        finally:
            server.shutdown()
            thread.join()


def _said(*texts: str) -> Step:
    choices = [{"message": {"content": text}} for text in texts]
    return 200, {}, json.dumps({"choices": choices}).encode()


def test_what_passes_is_tried_again_and_fewer_replies_are_asked_for_again() -> None:
    busy = (503, {"Retry-After": "9"}, b'{"error": {"message": "too many"}}')
    waits: list[float] = []
    with _server(busy, None, _said("a"), (429, {}, b""), _said("b", "c", "d")) as (url, asked):
        model = RemoteModel(url, "m", sleep=waits.append)
        found = model.replies("?", n=3, temperature=0.5, max_tokens=None, seed=10)
    assert found == ["a", "b", "c"]
    assert waits == [9.0, 4.0, 2.0]  # as long as the server asks for, and longer each time
    assert [(body["n"], body["seed"]) for body in asked] == [(3, 10)] * 3 + [(2, 11)] * 2
    assert all("max_tokens" not in body for body in asked)


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([(503, {}, b'{"error": {"message": "loading"}}')] * 4, "refuses: HTTP 503: loading"),
        ([(404, {}, b"no such model")], "refuses: HTTP 404: no such model"),
        ([(200, {}, b"<html>")] * 4, "does not answer in JSON"),
        ([(200, {}, b'{"text": 1}')], "answers in another shape"),
        ([(200, {}, b"[]")], "answers in another shape"),
        ([_said()], "gave no replies"),
    ],
)
def test_what_does_not_pass_is_an_error(steps: list[Step | None], complaint: str) -> None:
    with _server(*steps) as (url, asked):
        model = RemoteModel(url, "m", sleep=lambda _: None)
        with pytest.raises(RequestError, match=complaint):
            model.replies("?", n=1, temperature=0.0, max_tokens=1, seed=1)
    assert len(asked) == len(steps)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a URL of http"):
        RemoteModel("localhost:8000/v1", "m")
