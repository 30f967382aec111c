"""Where replies come from: our engine, a server, a file."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CodeLlamaError, ConfigError, EngineFailed
from codellama.eval.sources import Request
from codellama.eval.sources.engine import EngineSource, model_sha256
from codellama.eval.sources.http import HttpSource
from codellama.eval.sources.stored import StoredSource
from codellama.eval.suite import Ask, Reply, Sampling
from fakes import fake_llm


def request(ask: Ask, sample: int = 0, problem: str = "P", **sampling: Any) -> Request:
    return Request(problem=problem, sample=sample, ask=ask, sampling=Sampling(**sampling), seed=5)


def complete(text: str, **options: Any) -> Ask:
    return Ask(kind="complete", text=text, max_tokens=8, **options)


def test_the_engine_says_what_the_model_says() -> None:
    llm = fake_llm()
    source = EngineSource(llm, "nowhere")
    asks = [complete("a"), Ask(kind="infill", text="a", suffix="b", order="spm", max_tokens=8),
            Ask(kind="chat", text="hello", max_tokens=8)]  # fmt: skip
    found = {one.ask.kind: reply for one, reply in source.replies([request(ask) for ask in asks])}
    from codellama import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=8)
    other = fake_llm()
    assert found["complete"].text == other.complete("a", params).text
    assert found["infill"].text == other.infill(
        prefix="a", suffix="b", order="spm", params=params
    ).text  # fmt: skip
    assert found["chat"].text == other.chat([{"role": "user", "content": "hello"}], params).text


def test_a_prompt_that_does_not_fit_is_a_reply_with_an_error() -> None:
    source = EngineSource(fake_llm(max_seq_len=40), "nowhere")
    asks = [complete("x" * 60), complete("short")]
    found = [reply.error for _, reply in source.replies([request(ask) for ask in asks])]
    assert len([one for one in found if one is None]) == 1
    assert "the context is 40" in next(one for one in found if one)


def test_a_long_file_loses_its_start() -> None:
    llm = fake_llm(max_seq_len=40)
    ask = complete("far away " * 10 + "the end is near", cut="start")
    [(_, reply)] = EngineSource(llm, "nowhere").replies([request(ask)])
    assert reply.error is None


def test_scores_lose_the_end() -> None:
    llm = fake_llm(max_seq_len=40)
    ask = Ask(kind="score", text="line one is here\n" * 9, cut="end")
    [(_, reply)] = EngineSource(llm, "nowhere").replies([request(ask)])
    assert reply.logprobs is not None
    assert reply.logprobs == llm.logprobs("line one is here\n" * 2)[1:]


def test_the_digest_of_a_model(tmp_path: Path) -> None:
    import hashlib

    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    assert model_sha256(file) == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "b.safetensors").write_bytes(b"2")
    file.unlink()
    both = model_sha256(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"3")
    assert both != model_sha256(tmp_path)


@contextmanager
def server(answers: list[tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Gives the answers one after another, the last one again and again; keeps what was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "m"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body | {"path": self.path, "auth": self.headers.get("Authorization")})
            self._send(*answers[min(len(asked) - 1, len(answers) - 1)])

        def _send(self, status: int, found: Any) -> None:
            data = json.dumps(found() if callable(found) else found).encode()
            with contextlib.suppress(ConnectionError):
                self._write(status, data)

        def _write(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}", asked
        finally:
            http.shutdown()
            thread.join()


def source(url: str, **options: Any) -> HttpSource:
    return HttpSource(url, n_at_once=1, sleep=lambda _: None, **options)


def test_a_connection_that_breaks_is_made_anew() -> None:
    with server([(200, TEXT)]) as (url, asked):
        one = source(url)
        one._local.connection.sock.close()  # the one that listed the models
        [(_, reply)] = one.replies([request(complete("p"))])
        one.close()
    assert reply.error is None
    assert len(asked) == 1


TEXT = {"choices": [{"text": " one\n# two", "finish_reason": "stop"}],
        "usage": {"completion_tokens": 4}}  # fmt: skip


def test_a_server_is_asked_in_openais_form() -> None:
    stops = ("\nA", "\nB", "\nC", "\nD", "\n#")
    with server([(200, TEXT)]) as (url, asked):
        one = source(url + "/v1", key="sesame")
        asks = [complete("p", stop=stops), Ask(kind="infill", text="a", suffix="z")]
        found = [reply for _, reply in one.replies(request(ask) for ask in asks)]
        one.close()
    assert asked[0]["model"] == "m"
    assert asked[0]["path"] == "/v1/completions"
    assert asked[0]["stop"] == list(stops[:4])
    assert asked[0]["auth"] == "Bearer sesame"
    assert asked[1]["suffix"] == "z"
    assert found[0] == Reply(text=" one", finish="stop", n_tokens=4)  # the fifth stop is cut here
    assert found[1].text == " one\n# two"


def test_chat_and_scores_of_a_server() -> None:
    said = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    scored = {"choices": [{"text": "", "logprobs": {"token_logprobs": [None, -1.5, -2]}}]}
    with server([(200, said), (200, scored)]) as (url, asked):
        one = source(url, model="other")
        asks = [Ask(kind="chat", text="hello"), Ask(kind="score", text="x y")]
        found = [reply for _, reply in one.replies(request(ask) for ask in asks)]
    assert asked[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert asked[0]["model"] == "other"
    assert found[0].text == "hi"
    assert asked[1]["echo"] is True
    assert found[1].logprobs == (-1.5, -2)


def test_a_busy_server_is_asked_again() -> None:
    with server([(429, {"error": {"message": "busy"}}), (503, {}), (200, TEXT)]) as (url, asked):
        [(_, reply)] = source(url).replies([request(complete("p"))])
    assert reply.error is None
    assert len(asked) == 3


def test_a_server_that_never_answers_ends_the_run() -> None:
    with server([(500, {"error": "broken"})]) as (url, _):
        one = source(url)
        with pytest.raises(EngineFailed, match="no answer in 5 tries"):
            list(one.replies([request(complete("p"))]))


def test_a_refused_request_is_a_reply_with_an_error() -> None:
    with server([(400, {"error": {"message": "too long"}})]) as (url, _):
        [(_, reply)] = source(url).replies([request(complete("p"))])
    assert reply.error == "HTTP 400: too long"


def test_an_answer_of_another_kind_is_named() -> None:
    with server([(200, {"hello": 1})]) as (url, _):
        one = source(url)
        with pytest.raises(CodeLlamaError, match="not one of OpenAI's API"):
            list(one.replies([request(complete("p"))]))


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://a", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        HttpSource(url)


def test_nobody_at_the_address() -> None:
    with pytest.raises(EngineFailed, match="no answer"):
        source("http://127.0.0.1:9")


def test_who_leaves_does_not_wait_for_the_server() -> None:
    arrived, leave = threading.Event(), threading.Event()

    def never() -> dict[str, Any]:
        arrived.set()
        leave.wait(60)
        return TEXT

    with server([(200, TEXT), (200, never)]) as (url, _):
        one = HttpSource(url, n_at_once=2)
        coming = one.replies([request(complete("p")), request(complete("q"))])
        next(coming)
        assert arrived.wait(30)
        began = time.monotonic()
        coming.close()
        took = time.monotonic() - began
        leave.set()
    assert took < 20


def test_a_server_chooses_the_order_itself() -> None:
    with server([(200, TEXT)]) as (url, _):
        one = source(url)
        ask = Ask(kind="infill", text="a", suffix="b", order="spm")
        with pytest.raises(ConfigError, match="order"):
            list(one.replies([request(ask)]))


def test_stored_samples(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    lines = [("A", "1"), ("B", "2"), ("A", "3"), ("B", "4"), ("A", "5")]
    file.write_text("".join(json.dumps({"task_id": t, "completion": c}) + "\n" for t, c in lines))
    stored = StoredSource(file)
    assert stored.n == 2
    asked = [request(complete("x"), i, p) for p in "AB" for i in range(2)]
    assert [r.text for _, r in stored.replies(asked)] == ["1", "3", "2", "4"]
    [(_, missing)] = stored.replies([request(complete("x"), 0, "C")])
    assert missing.error


@pytest.mark.parametrize(
    "line", ["[]", "{", '{"task_id": "a"}', '{"task_id": [], "completion": ""}']
)
def test_what_is_no_sample(tmp_path: Path, line: str) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError, match="line 1 is no sample"):
        StoredSource(file)
