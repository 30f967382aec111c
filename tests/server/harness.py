"""A server in this process, on a port of its own, over a scripted model or nano."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import pytest
import uvicorn

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.engine.loading import Model, load_model
from codellama.engine.plan import EnginePlan
from codellama.server.app import make_app, make_state
from codellama.server.protocol import Crowd, protocol_class
from codellama.server.run import Server
from codellama.server.served import Registry, Served
from codellama.server.settings import Settings
from codellama.server.web import State
from codellama.text.tokenizer import Tokenizer
from fakes import ByteTokenizer, ReferenceKernel, ScriptedModel

NANO_CONTEXT = checkpoint.open(resolve("nano")).config.max_seq_len


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Waits for what has to come about; fails where it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.002)


def scales(name: str, quick: int, full: int) -> pytest.MarkDecorator:
    """A test with a number for every day, and in full."""
    slow = pytest.param(full, marks=pytest.mark.slow, id="full")
    return pytest.mark.parametrize(name, [pytest.param(quick, id="quick"), slow])


def scripted(
    model: ScriptedModel | None = None,
    *,
    max_seq_len: int = 512,
    max_num_seqs: int = 8,
    step_tokens: int = 64,
    tokenizer: Any = None,
    chat_form: Any = "inst",
) -> Model:
    """A model whose replies are a hash of what it read, or what its script says."""
    runner = ScriptedModel(n_blocks=512) if model is None else model
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    return Model(
        runner=runner,
        tokenizer=cast(Tokenizer, tokenizer),
        plan=EnginePlan(
            max_seq_len=max_seq_len,
            n_blocks=runner.n_blocks,
            block_size=runner.block_size,
            max_num_seqs=max_num_seqs,
            step_tokens=step_tokens,
        ),
        eos_ids=(tokenizer.eos_id,),
        chat_form=chat_form,
    )


@cache
def nano(max_num_seqs: int = 32) -> Model:
    """The shipped model; its cache may be used by one server at a time."""
    return load_model("nano", max_num_seqs=max_num_seqs, n_threads=1, step_tokens=128)


class Running:
    """What a test sees of a running server."""

    def __init__(self, state: State, port: int, loop: asyncio.AbstractEventLoop, crowd: Crowd):
        self.state = state
        self.port = port
        self.loop = loop
        self.crowd = crowd
        self.url = f"http://127.0.0.1:{port}"

    @property
    def served(self) -> Served:
        return self.state.registry.models[0]

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        """One request on a connection of its own; a `body` that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        found = Answer(response.status, dict(response.headers), response.read())
        connection.close()
        return found

    def post(self, path: str, body: Any, **keywords: Any) -> Answer:
        return self.ask("POST", path, body, **keywords)

    def get(self, path: str, **keywords: Any) -> Answer:
        return self.ask("GET", path, **keywords)

    def is_idle(self) -> bool:
        """Whether nothing runs and nothing is held for it."""
        pool = self.served.service.engine.pool
        return self.served.service.n_live == 0 and bool(pool.n_free == pool.n_blocks)

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """Runs `function` in the server's event loop."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(30)


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def events(self) -> list[Any]:
        """The JSON of every server-sent event but the last, which is [DONE]."""
        lines = self.content.decode().split("\n\n")
        assert lines[-1] == "", "events end with an empty line"
        assert lines[-2] == "data: [DONE]", lines[-2]
        assert all(line.startswith("data: ") for line in lines[:-1])
        return [json.loads(line[6:]) for line in lines[:-2]]

    @property
    def lines(self) -> list[Any]:
        """The objects of NDJSON."""
        text = self.content.decode()
        assert text.endswith("\n")
        return [json.loads(line) for line in text[:-1].split("\n")]


@contextmanager
def running(
    *models: Model | tuple[str, Model],
    settings: Settings | None = None,
    keys: tuple[str, ...] = (),
    kernel: Any = None,
    wrap: Callable[[Served], None] | None = None,
) -> Iterator[Running]:
    """A server over `models` until the block ends; then nothing of it may be left."""
    settings = Settings() if settings is None else settings
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    served = []
    for i, item in enumerate(models):
        name, model = item if isinstance(item, tuple) else (f"codellama-test{i or ''}", item)
        is_scripted = isinstance(model.runner, ScriptedModel)
        own = ReferenceKernel() if kernel is None and is_scripted else kernel
        path = f"/models/{name}" if is_scripted else "nano"
        served.append(Served.over(name, path, model, settings.limits, own))
        if wrap is not None:
            wrap(served[-1])
    state = make_state(settings, Registry(served, is_strict=settings.strict_models), "test")
    crowd = Crowd()
    config = uvicorn.Config(
        make_app(state, keys), http=protocol_class(settings.limits, crowd), ws="none",
        lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=int(settings.limits.idle_s),
        timeout_graceful_shutdown=5, backlog=2048,
    )  # fmt: skip
    server = Server(config, state)
    found: list[Running] = []
    is_up = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for one in served:
            one.service.start()
        found.append(Running(state, port, loop, crowd))
        loop.call_later(0.05, is_up.set)
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
    thread.start()
    try:
        assert is_up.wait(20)
        yield found[0]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        for one in served:
            one.service.stop()
        state.workers.shutdown()
        assert not thread.is_alive(), "the server did not end"


def started(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A process that serves, and its port."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is not None:
            return process, int(found[1])
    raise AssertionError(f"it left with {process.wait()}")
