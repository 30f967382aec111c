"""LIM and SLOW: caps before allocation, on what is sent and how fast."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import tracemalloc
from typing import Any

import pytest
from harness import Running, running, scales, scripted, until

from codellama import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.server.app import ENDPOINTS
from codellama.server.openapi import document
from codellama.server.refusals import Refusal
from codellama.server.settings import Limits, Settings
from fakes import ScriptedModel

SMALL = {"prompt": "x", "max_tokens": 1, "n_predict": 1}
BODIES: dict[str, dict[str, Any]] = {
    "CompletionRequest": {"prompt": "x", "max_tokens": 1},
    "TabbyRequest": {"segments": {"prefix": "x"}},
    "ChatRequest": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "FimRequest": {"prompt": "x", "max_tokens": 1},
    "InfillRequest": {"input_prefix": "x", "n_predict": 1},
    "LlamaCompletionRequest": {"prompt": "x", "n_predict": 1},
    "TokenizeRequest": {"content": "x"},
    "DetokenizeRequest": {"tokens": [5]},
    "TemplateRequest": {"messages": [{"role": "user", "content": "x"}]},
    "GenerateRequest": {"prompt": "x", "options": {"num_predict": 1}, "stream": False},
    "OllamaChatRequest": {"messages": [{"role": "user", "content": "x"}], "stream": False,
                          "options": {"num_predict": 1}},
    "ShowRequest": {"model": "x"},
    "TgiRequest": {"inputs": "x", "parameters": {"max_new_tokens": 1}},
    "EmbeddingRequest": {"input": "x"},
    "EventRequest": {"type": "view"},
    "PromptRequest": {"prompt": "x"},
    # Refused for its two tasks, but after every field was checked: else each opens a sandbox.
    "SolveRequest": {"task": "x", "prefix": "x"},
    "Bundle": {"format": 1, "version": "", "model": "", "weights_sha256": "", "arithmetic": "",
               "prompt_ids": [1, 70], "stop_ids": [2], "bare": True, "seed": 1, "text": "C",
               "sampling": {"max_tokens": 1}, "token_ids": [70]},
}  # fmt: skip
ODD = [-1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30, -(2**63) - 1, 0.5, "1", [], {}, True,
       None]  # fmt: skip
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, '"a", "{field}": 1']


def cases() -> list[tuple[str, str, str, dict[str, Any]]]:
    """(path, body's name, field, schema) of every field of every route."""
    found = []
    schemas = document("test")["components"]["schemas"]
    for endpoint in ENDPOINTS:
        if endpoint.body is None or endpoint.path in ("/api/pull",):
            continue
        name = endpoint.body.__name__
        name = "CompletionRequest" if name == "_Anything" else name
        for field, schema in schemas[name]["properties"].items():
            found.append((endpoint.path, name, field, schema))
    return found


def bounds(schema: dict[str, Any]) -> list[tuple[float | None, float | None]]:
    """The ranges that a field's numbers may be in; none where it takes no numbers."""
    kinds = schema.get("anyOf", [schema])
    return [
        (kind.get("minimum"), kind.get("maximum"))
        for kind in kinds
        if kind.get("type") in ("integer", "number")
    ]


@pytest.fixture(scope="module")
def server() -> Any:
    model = ScriptedModel(n_blocks=512, script=lambda t: 70)
    with running(scripted(model, max_seq_len=64)) as found:
        yield found


def test_LIM_1_every_field_at_every_odd_value(server: Running) -> None:
    every = cases()
    assert {name for _, name, _, _ in every} <= BODIES.keys(), "a body without an example"
    paths: dict[str, str] = {}
    for path, name, field, schema in every:
        if paths.setdefault(name, path) != path:
            continue  # the same body again
        ranges = bounds(schema)
        values = list(ODD)
        for low, high in ranges:
            values += [x for bound in (low, high) if bound is not None
                       for x in (bound - 1, bound, bound + 1, bound * 10)]  # fmt: skip
        for value in values:
            answer = server.post(path, BODIES[name] | {field: value})
            assert answer.status in (200, 400), (path, field, value, answer.content)
            if ranges and isinstance(value, (int, float)) and not isinstance(value, bool):
                inside = any(
                    (low is None or value >= low) and (high is None or value <= high)
                    for low, high in ranges
                )
                assert inside or answer.status == 400, (path, field, value)
        for text in RAW:
            rest = json.dumps(BODIES[name] | {field: "@"})
            data = rest.replace('"@"', text.replace("{field}", field), 1)
            assert server.post(path, data.encode()).status == 400, (path, field, text)
    assert server.post("/v1/completions", SMALL).status == 200


@pytest.mark.parametrize(
    ("field", "least_refused"),
    [("stop", 33), ("prompt", 17), ("messages", 1025), ("logit_bias", 301)],
)
def test_LIM_1_counts(server: Running, field: str, least_refused: int) -> None:
    def status(n: int) -> int:
        body: dict[str, Any] = {"prompt": "x", "max_tokens": 1}
        path = "/v1/completions"
        if field == "stop":
            body["stop"] = [f"s{i}" for i in range(n)]
        elif field == "prompt":
            body["prompt"] = ["x"] * n
        elif field == "messages":
            path = "/v1/chat/completions"
            body["messages"] = [{"role": "user", "content": "x"}] * n
        else:
            body["logit_bias"] = {str(i % 260): 1 for i in range(n)}
            if n > 260:
                body["logit_bias"] = {str(i): 1 for i in range(n)}
        answer = server.post(path, body)
        return 200 if answer.status == 400 and "role" in answer.content.decode() else answer.status

    assert status(min(least_refused - 1, 250)) == 200
    for n in (least_refused, 10 * least_refused):
        assert status(n) == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 33 + b"]" * 33, 400),
        (b'{"prompt":"x","user":' + b"[" * 31 + b"]" * 31 + b"}", 400),  # a list is no user
        (b'{"prompt":"x","zz":' + b"[" * 31 + b"]" * 31 + b',"max_tokens":1}', 200),
        (b'{"prompt":"x","zz":' + b"[" * 32 + b"]" * 32 + b"}", 400),
        (json.dumps({"prompt": "x", "max_tokens": 1, "zz": {str(i): 1 for i in range(4093)}}), 200),
        (json.dumps({"prompt": "x", "max_tokens": 1, "zz": {str(i): 1 for i in range(4094)}}), 400),
        (b'{"prompt":"x","prompt":"y"}', 400),
        (b'{"prompt":"\xff"}', 400),
        (b'{"prompt":"\\ud800","max_tokens":1}', 400),
        (b"", 400),
        (b"null", 400),
        (b"[1]", 400),
        (b'{"prompt":"x","max_tokens":1e2}', 400),
    ],
)  # fmt: skip
def test_LIM_1_json(server: Running, body: bytes | str, status: int) -> None:
    data = body.encode() if isinstance(body, str) else body
    assert server.post("/v1/completions", data).status == status


def test_LIM_1_memory_and_length_before_tokenising(server: Running) -> None:
    tracemalloc.start()
    try:
        for size in (8 * 64 + 1, 100_000, 3 << 20):
            answer = server.post("/v1/completions", {"prompt": "x" * size})
            assert answer.status == 400
            assert answer.json["error"]["code"] == "context_length_exceeded"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * (3 << 20) + (8 << 20)  # the body, on both sides of the socket
    answer = server.post("/v1/completions", {"prompt": "x" * 40, "max_tokens": 60})
    assert "60" in answer.json["error"]["message"]
    assert "64" in answer.json["error"]["message"]


def speak(server: Running, *parts: bytes, wait: float = 0) -> bytes:
    """What comes back for raw bytes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(wait)
        except OSError:
            pass  # closed already, which is what some of these are for
        data = b""
        try:
            while part := connection.recv(65536):
                data += part
        except ConnectionResetError:
            pass
        return data


def head(
    server: Running, *lines: str, method: str = "POST", path: str = "/v1/completions"
) -> bytes:
    first = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *lines, "", ""]
    return "\r\n".join(first).encode()


def test_LIM_1_bytes_of_a_request(server: Running) -> None:
    limits = Limits()

    def status(data: bytes) -> int:
        found = speak(server, data)
        return int(found.split(b" ", 2)[1])

    long = "x" * limits.url_bytes
    assert status(head(server, path=f"/{long}")) == 414
    assert status(head(server, f"a: {'x' * limits.head_bytes}")) == 431
    assert status(head(server, *(f"a{i}: 1" for i in range(64)))) == 431
    ok = head(server, *(f"a{i}: 1" for i in range(60)), "Connection: close", method="GET",
              path="/health")  # fmt: skip
    assert status(ok) == 200
    assert status(head(server, f"Content-Length: {limits.body_bytes + 1}")) == 413
    chunk = b"%x\r\n" % (1 << 20) + b"x" * (1 << 20) + b"\r\n"
    assert status(head(server, "Transfer-Encoding: chunked") + chunk * 5) == 413
    assert status(b"\x16\x03\x01 not http\r\n\r\n") == 400
    both = head(server, "Transfer-Encoding: chunked", "Content-Length: 5")
    assert status(both + b"0\r\n\r\n") == 400
    endless = b"GET / HTTP/1.1\r\nA: " + b"x" * (limits.head_bytes + limits.url_bytes + 100)
    assert status(endless) == 431
    assert server.get("/health").status == 200


def test_LIM_2_memory_of_replies_is_charged_to_admission() -> None:
    settings = Settings(limits=Limits(reply_bytes=1 << 20))
    model = scripted(ScriptedModel(n_blocks=512, script=lambda t: 70))
    with running(model, settings=settings) as server:
        body = {"prompt": "x", "max_tokens": 500, "n": 8, "logprobs": 20}
        assert server.post("/v1/completions", body).status == 400
        assert server.post("/v1/completions", body | {"n": 1, "logprobs": 0}).status == 200
        service = server.served.service
        prompt = Prompt(ids=(1,), stop_ids=frozenset(), bare=True)
        params = SamplingParams(max_tokens=400, logprobs=4)

        def fill() -> int:
            for n in range(100):
                try:
                    service.submit([prompt], params, 1)
                except Refusal as refusal:
                    return n if refusal.status == 429 else -1
            return -1

        n = server.on_loop(fill)
        worst = 400 * (160 + 120 * 5)
        assert n == (1 << 20) // worst
        until(lambda: not service.n_live)
        assert service.admission.reserved_bytes == service.admission.reserved_tokens == 0


def test_LIM_2_scores_are_charged_too(server: Running) -> None:
    settings = Settings(limits=Limits(reply_bytes=100_000))
    model = scripted(ScriptedModel(n_blocks=512, script=lambda t: 70))
    asked = {"prompt": "x" * 60, "echo": True, "logprobs": 5, "max_tokens": 0}
    with running(model, settings=settings) as small:
        assert small.post("/v1/completions", asked).status == 200
        assert small.post("/v1/completions", asked | {"n": 8}).status == 400
        assert small.served.service.admission.reserved_bytes == 0
    long = {"prompt": "x" * 100, "echo": True, "logprobs": 1}  # more than the context of 64
    assert server.post("/v1/completions", long).status == 400


def test_leaving_while_a_prompt_is_scored() -> None:
    gate = threading.Semaphore(0)
    model = ScriptedModel(n_blocks=512)
    run = model.run

    def gated(batch: Any) -> Any:
        gate.acquire()
        return run(batch)

    model.run = gated  # type: ignore[method-assign]
    with running(scripted(model)) as found:
        service = found.served.service
        asked = {"prompt": "x" * 400, "echo": True, "logprobs": 1}
        data = json.dumps(asked).encode()
        leaving = socket.create_connection(("127.0.0.1", found.port))
        leaving.sendall(head(found, f"Content-Length: {len(data)}") + data)
        until(lambda: service.engine.pool.n_free < service.engine.pool.n_blocks)
        leaving.close()
        until(lambda: not service.n_live)
        gate.release()
        until(lambda: service.engine.pool.n_free == service.engine.pool.n_blocks)
        assert len(model.batches) == 1
        assert service.admission.reserved_bytes == 0
        for _ in range(50):
            gate.release()


@scales("n", 20, 100)
def test_SLOW_1_slow_silent_and_half_closed_connections_go(n: int) -> None:
    limits = Limits(head_s=0.6, body_s=0.6, idle_s=1, unread_s=0.6, unread_bytes=2048)
    model = scripted(ScriptedModel(n_blocks=512, script=lambda t: 70))
    with running(model, settings=Settings(limits=limits)) as server:
        whole = json.dumps({"prompt": "x", "max_tokens": 400, "stream": True}).encode()
        request = head(server, f"Content-Length: {len(whole)}") + whole
        slow, silent, half = [], [], []
        for i in range(5 * n):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(request[: 20 + i % 100])
            slow.append(connection)
        for _ in range(n):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(request)
            silent.append(connection)
        for _ in range(n):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(request[:40])
            connection.shutdown(socket.SHUT_WR)
            half.append(connection)
        assert server.post("/v1/completions", SMALL).status == 200
        began = time.monotonic()
        for i, connection in enumerate(slow):  # one byte more does not win more time
            if time.monotonic() - began > 0.3:
                break
            with contextlib.suppress(OSError):
                connection.sendall(request[20 + i % 100 : 21 + i % 100])
        until(lambda: not server.crowd.receiving, 10)
        until(lambda: server.on_loop(lambda: server.crowd.n) <= len(silent), 10)
        service = server.served.service
        until(lambda: not service.n_live, 60)
        for connection in slow + silent + half:
            connection.close()
        until(lambda: not server.on_loop(lambda: server.crowd.n), 10)
        assert service.engine.pool.n_free == service.engine.pool.n_blocks


def test_the_oldest_unfinished_request_makes_way() -> None:
    settings = Settings(limits=Limits(receiving=3, connections=6))
    with running(scripted(), settings=settings) as server:
        waiting = []
        for i in range(4):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            connection.sendall(b"GET ")
            waiting.append(connection)
            until(lambda i=i: server.on_loop(lambda: server.crowd.n) >= min(i + 1, 3))
        assert b" 503 " in waiting[0].recv(4096)
        for _ in range(3):
            waiting.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        answers = []
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
                answers.append(one.recv(4096))
        assert any(b" 503 " in answer for answer in answers)
        for connection in waiting:
            connection.close()
