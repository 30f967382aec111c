"""A `codellama serve` process, as a user starts it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from codellama import LLM

START_S = 1800  # vLLM imports much and warms up, on a busy machine for long


def without_marks(llm: LLM) -> dict[int, float]:
    """The biases by which a server keeps markers out of replies, for a reference that has none."""
    tokenizer = llm.tokenizer
    marks = (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id)
    return {mark: -100.0 for mark in marks if mark is not None}


class Started:
    """What the client tests ask of a running server, over HTTP alone."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = process

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 300) -> Any:
        """The JSON (or text) of an answer with status 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, (response.status, content[:500])
        finally:
            connection.close()
        return json.loads(content) if content.startswith((b"{", b"[")) else content.decode()

    def is_idle(self) -> bool:
        """Whether nothing runs, nothing waits and no cache is held."""
        found = self.ask("GET", "/metrics")
        values = re.findall(
            r"^vllm:(?:num_requests_running|num_requests_waiting|kv_cache_usage_perc)\S* (\S+)$",
            found, re.M,
        )  # fmt: skip
        assert len(values) == 3, found
        return all(float(value) == 0 for value in values)


@contextmanager
def started(*arguments: str) -> Iterator[Started]:
    """`codellama serve ARGUMENTS` on a free port until the block ends."""
    words = [sys.executable, "-m", "codellama", "serve", *arguments, "--port", "0"]
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(words, stderr=log, stdout=log, env=dict(os.environ))
        try:
            yield Started(_port(process, log), process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _port(process: subprocess.Popen[bytes], log: Any) -> int:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        log.seek(0)
        text = log.read().decode(errors="replace")
        found = re.search(r"^codellama: serving .* at http://127\.0\.0\.1:(\d+)$", text, re.M)
        if found:
            return int(found[1])
        assert process.poll() is None, text[-4000:]
        time.sleep(0.2)
    raise AssertionError("the server did not start:\n" + text[-4000:])
