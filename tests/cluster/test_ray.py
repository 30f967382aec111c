"""Real Ray on this machine: processes are killed, and nothing is lost or comes twice.

Needs Ray, which `make test-ray` installs into an environment of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from batches import BAD, answers, request, write
from started import started, without_marks

from codellama import LLM, SamplingParams

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; use make test-ray"
)

N_LINES = 2000
N_REQUESTS = 60


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codellama", *words], capture_output=True, text=True, check=True
    )


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """This machine as a cluster, as `codellama cluster up` makes it, or one that is there."""
    if os.environ.get("RAY_ADDRESS"):
        yield ""
        return
    port = "46379"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or a token would be left in the user's home
    said = command("cluster", "up", "--host", "127.0.0.1", "--port", port, "--cpus", "4").stdout
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    try:
        yield said
    finally:
        command("cluster", "down")
        del os.environ["RAY_ADDRESS"], os.environ["RAY_AUTH_MODE"]


def workers(name: str) -> list[int]:
    """Processes of Ray's whose title has `name` in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if title.startswith("ray::") and name in title:
                found.append(int(entry.name))
    return found


def kill_one(name: str, when: Any) -> threading.Thread:
    """Kills a process of that name once `when()` is true."""

    def wait() -> None:
        end = time.monotonic() + 300
        while not (when() and workers(name)):
            assert time.monotonic() < end
            time.sleep(0.05)
        killed.append(workers(name)[0])
        os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    thread = threading.Thread(target=wait)
    thread.killed = killed  # type: ignore[attr-defined]
    thread.start()
    return thread


def test_the_cluster_says_how_to_join_and_what_it_has(cluster: str) -> None:
    if not cluster:
        pytest.skip("RAY_ADDRESS names a cluster that is there already")
    assert cluster == "codellama cluster up --join 127.0.0.1:46379\n"
    assert "0.0/4.0 CPU" in command("cluster", "status").stdout


def test_a_batch_with_a_worker_killed(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, [*(request(i) for i in range(N_LINES - len(BAD))), *BAD])
    killing = kill_one("MapWorker", lambda: target.exists() and target.stat().st_size > 0)
    command("batch", str(source), str(target), "--cluster", "--workers", "2", "--threads", "1")
    killing.join(10)
    assert killing.killed  # type: ignore[attr-defined]
    found = answers(target)
    assert len(found) == N_LINES
    assert sum(one["error"] is not None for one in found.values()) == len(BAD)
    prompts = [f"x{i} = " for i in range(0, N_LINES - len(BAD), 20)]
    with LLM.load("nano", n_threads=1) as llm:
        expected = llm.complete(prompts, SamplingParams(temperature=0, max_tokens=4))
    for i, one in zip(range(0, N_LINES - len(BAD), 20), expected, strict=True):
        assert found[i + 1]["response"]["body"]["choices"][0]["text"] == one.text


def test_a_replica_killed_under_load() -> None:
    params = {"temperature": 0.8, "max_tokens": 64}
    prompts = [f"# number {i}\ndef f{i}(" for i in range(N_REQUESTS)]
    with LLM.load("nano", n_threads=1) as llm:
        biases = without_marks(llm)
        expected = [
            llm.complete(
                prompt, SamplingParams(seed=i, ignore_eos=True, logit_bias=biases, **params)
            )  # type: ignore[call-overload]
            for i, prompt in enumerate(prompts)
        ]
    arguments = ("codellama-nano=nano", "--replicas", "2", "--threads", "1",
                 "--max-num-seqs", "4", "--speculation", "off")  # fmt: skip
    with started(*arguments) as live, openai.OpenAI(
        base_url=f"{live.url}/v1", api_key="x", max_retries=0, timeout=300
    ) as client:  # fmt: skip
        assert len(workers("ServeReplica")) >= 2
        n_done = 0

        def ask(i: int) -> str:
            nonlocal n_done
            stream = client.completions.create(
                model="", prompt=prompts[i], seed=i, stream=True,
                extra_body={"ignore_eos": True}, **params,
            )  # type: ignore[call-overload]  # fmt: skip
            text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
            n_done += 1
            return text

        killing = kill_one("ServeReplica", lambda: n_done >= 4)
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(ask, range(N_REQUESTS)))
        killing.join(10)
        assert killing.killed  # type: ignore[attr-defined]
        assert found == [one.text for one in expected]
        texts = {prompt: one for prompt, one in zip(prompts, found, strict=True)}
        assert len(texts) == N_REQUESTS
        lp = client.completions.create(model="", prompt=prompts[0], echo=True, logprobs=1,
                                       max_tokens=0)  # fmt: skip
        assert lp.choices[0].logprobs is not None


def test_an_evaluation_on_two_workers_is_that_on_one(tmp_path: Path) -> None:
    """The same samples and the same score."""
    rows = [
        {"task_id": f"HumanEval/{i}", "prompt": f"def f{i}(x):\n    return x", "entry_point":
         f"f{i}", "canonical_solution": "", "test": "def check(candidate):\n    candidate(1)\n"}
        for i in range(12)
    ]  # fmt: skip
    data = tmp_path / "HumanEval.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = []
    samples = []
    for name, more in (("one", ()), ("two", ("--cluster", "2"))):
        out = tmp_path / name
        done = command(
            "eval", "humaneval", "--data", str(data), "--n", "4", "--max-tokens", "24", "--threads",
            "1", "--batch", "5", "--out", str(out), "--json", *more,
        )  # fmt: skip
        (result,) = (json.loads(line) for line in done.stdout.splitlines())
        results.append((result["figures"], result["model"], result["settings"]))
        (file,) = out.glob("*.samples.jsonl")
        samples.append(sorted(file.read_text().splitlines()))
    assert len(samples[0]) >= 48
    assert samples[0] == samples[1]
    assert results[0] == results[1]
