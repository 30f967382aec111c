"""FLT: what goes wrong with one hurts one, and health says what is so."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from harness import running, scripted, started, until
from streams import together

from codellama.server import run as run_module
from codellama.server.settings import Limits, Settings
from fakes import ByteTokenizer, ScriptedModel

BAD = ByteTokenizer().encode_bare("!")[0]
GOOD = ByteTokenizer().encode_bare("a")[0]


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 20, "temperature": 0, "stream": True, **more}


@pytest.mark.parametrize("stage", ["prefill", "decode"])
@pytest.mark.parametrize("fault", ["exception", "NaN"])
def test_FLT_1_one_sequence_fails_alone(stage: str, fault: str) -> None:
    def script(tokens: tuple[int, ...]) -> int | None:
        marked = ByteTokenizer().encode_bare("#")[0] in tokens
        return BAD if marked and stage == "decode" and len(tokens) > 10 else None

    def texts(*, with_fault: bool) -> list[Any]:
        kind = {"fail_on": BAD} if fault == "exception" else {"nan_on": BAD}
        model = ScriptedModel(n_blocks=512, script=script, **kind)
        with running(scripted(model, max_num_seqs=32)) as server:
            prompts = [f"p{i}" for i in range(31)]
            bad = "x! y" if stage == "prefill" else "# x"
            good = [body(p, logit_bias={str(BAD): -100}) for p in prompts]
            found = together(server.port, good + [body(bad)] * with_fault)
            if with_fault:
                last = found.pop()
                if stage == "prefill":
                    assert last.status == 500
                else:
                    assert "error" in last.events[-1]
                assert not last.is_complete
            assert all(one.is_complete for one in found)
            until(lambda: not server.served.service.n_live)
            return [one.text for one in found]

    assert texts(with_fault=True) == texts(with_fault=False)


def test_FLT_1_a_request_that_takes_too_long_ends_with_timeout() -> None:
    settings = Settings(limits=Limits(run_s=0.3))
    gate = threading.Event()
    model = ScriptedModel(n_blocks=512, script=lambda t: GOOD)
    run = model.run

    def slow(batch: Any) -> Any:
        gate.wait(0.02)
        return run(batch)

    model.run = slow  # type: ignore[method-assign]
    with running(scripted(model), settings=settings) as server:
        answer = server.post("/v1/completions", body("x", max_tokens=400)).events
        assert answer[-1]["choices"][0]["finish_reason"] == "timeout"
        whole = server.post("/v1/completions", body("x", max_tokens=400, stream=False)).json
        assert whole["choices"][0]["finish_reason"] == "timeout"
        assert whole["choices"][0]["text"].startswith("aa")
        gate.set()


def test_a_deadline_brings_what_is_complete() -> None:
    lines = ByteTokenizer().encode_bare("x = 1\n")

    def script(tokens: tuple[int, ...]) -> int:
        return lines[(len(tokens) - 3) % len(lines)]

    model = ScriptedModel(n_blocks=512, script=script)
    run, gate = model.run, threading.Event()

    def slow(batch: Any) -> Any:
        gate.wait(0.05)  # the text repeats itself, so a step may make sixteen tokens
        return run(batch)

    model.run = slow  # type: ignore[method-assign]
    with running(scripted(model)) as server:
        asked = body("x", max_tokens=400, stream=False, deadline_ms=600)
        (choice,) = server.post("/v1/completions", asked).json["choices"]
        assert choice["deadline"] is choice["complete"] is True
        assert choice["finish_reason"] == "length"
        assert choice["text"].endswith("\n")
        events = server.post("/v1/completions", asked | {"stream": True}).events
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        done = server.post("/v1/completions", asked | {"max_tokens": 1}).json["choices"][0]
        assert "deadline" not in done
        gate.set()


def test_FLT_2_a_frozen_engine_is_seen_and_left(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    model = ScriptedModel(n_blocks=64)
    model.run = lambda batch: gate.wait(30)  # type: ignore[method-assign,assignment,return-value]
    settings = Settings(stall_s=0.2, stall_exit_s=0.5)
    codes: list[int] = []
    with running(scripted(model), settings=settings) as server:
        watchdog = run_module.watch(server.state, leave=codes.append, every_s=0.05)
        assert server.get("/health").status == 200
        asking = threading.Thread(target=lambda: server.post("/v1/completions", body("x")))
        asking.start()
        until(lambda: server.get("/health").status == 503)
        assert server.get("/health").json["error"]["code"] == "stalled"
        assert server.get("/ready").status == 503
        watchdog.join(20)
        assert codes == [70]
        gate.set()
        asking.join(20)
    assert "Thread" in capfd.readouterr().err


FROZEN = """
import sys, time
from codellama.engine.engine import Engine
from codellama.server.run import serve
from codellama.server.settings import Settings

def frozen_step(self):
    time.sleep(600)

Engine.step = frozen_step
settings = Settings(port=0, threads=1, stall_s=0.5, stall_exit_s=2.0)
serve(settings, (), "test", lambda line: print(line, file=sys.stderr, flush=True))
"""


def test_FLT_2_a_frozen_process_says_so_and_leaves_with_70() -> None:
    """The whole process: 503, then where it was stuck, then its end; no client is left hanging."""
    assert (Settings().stall_s, Settings().stall_exit_s) == (12, 60)
    process, port = started([sys.executable, "-c", FROZEN])
    asking = threading.Thread(target=lambda: together(port, [body("x", stream=True)]))
    asking.start()
    began, statuses = time.monotonic(), set()
    while process.poll() is None and time.monotonic() - began < 30:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/health")
            statuses.add(connection.getresponse().status)
            connection.close()
        time.sleep(0.05)
    assert process.wait(1) == 70
    assert time.monotonic() - began > 2.0
    assert 503 in statuses
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert "frozen_step" in said, "the stack tells where"
    assert "in one step for" in said
    asking.join(5)
    assert not asking.is_alive()


def test_FLT_2_an_engine_that_dies_takes_nobody_with_it() -> None:
    """Open streams get an error, health says so, and new requests are refused."""
    with running(scripted(ScriptedModel(n_blocks=512, script=lambda t: GOOD))) as server:
        service = server.served.service
        step, n = service.engine.step, 0
        died: list[float] = []

        def dying() -> Any:
            nonlocal n
            if service.engine.n_requests < 3:  # who comes after its death is refused, rightly
                return []
            n += 1
            if n > 5:
                died.append(time.monotonic())
                raise MemoryError
            return step()

        service.engine.step = dying  # type: ignore[method-assign]
        found = together(server.port, [body("x", max_tokens=400)] * 3)
        assert time.monotonic() - died[0] < 5
        for one in found:
            assert one.status == 200
            assert "error" in one.events[-1]
            assert not one.is_complete
        assert server.get("/health").status == 503
        answer = server.post("/v1/completions", body("x"))
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert service.n_live == 0


def start(*flags: str) -> tuple[subprocess.Popen[str], int]:
    """`codellama serve` on a free port, ready."""
    return started(
        [sys.executable, "-m", "codellama", "serve", "--port", "0", "--threads", "1", *flags]
    )


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_FLT_3_a_signal_drains_and_leaves_with_0(sent: signal.Signals) -> None:
    process, port = start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    asked = {"prompt": "def f", "max_tokens": 400, "ignore_eos": True, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(asked))
    response = connection.getresponse()
    response.read(10)
    process.send_signal(sent)
    statuses = []
    for _ in range(200):
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            other.request("GET", "/ready")
            statuses.append(other.getresponse().status)
        except OSError:
            break
        finally:
            other.close()
        time.sleep(0.005)
    rest = response.read()
    connection.close()
    assert rest.endswith(b"data: [DONE]\n\n"), "the stream was cut off"
    assert process.wait(30) == 0
    assert process.stderr is not None
    log = process.stderr.read()
    process.stderr.close()
    assert "draining" in log
    assert "leaked" not in log
    assert 200 not in statuses[1:]


def test_FLT_3_a_second_signal_ends_at_once() -> None:
    process, port = start("--max-seq-len", "20000")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    asked = {"prompt": "def f", "max_tokens": 19000, "ignore_eos": True, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(asked))
    response = connection.getresponse()
    response.read(10)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - began < 10  # 2 s, on a machine that does nothing else
    connection.close()
    assert process.stderr is not None
    process.stderr.close()


def test_FLT_4_an_error_after_the_headers_is_one_event() -> None:
    model = ScriptedModel(n_blocks=64, fail_on=BAD,
                          script=lambda t: GOOD if len(t) < 12 else BAD)  # fmt: skip
    with running(scripted(model)) as server:
        (found,) = together(server.port, [body("x", max_tokens=100)])
        assert found.status == 200
        errors = [e for e in found.events if "error" in e]
        assert len(errors) == 1
        assert found.events[-1] is not None
        assert "error" in found.events[-1]
        assert b"[DONE]" not in found.body


def test_a_model_that_is_not_there_is_said_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codellama", "serve", "no/such", "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no/such" in done.stderr
    assert "Traceback" not in done.stderr
