"""`codellama batch` on this machine: one line for each, whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import BAD, answers, request, write

from codellama import LLM, SamplingParams
from codellama.cli.main import main

N = 40


def batch(source: Path, target: Path, *more: str) -> int:
    return main(["batch", str(source), str(target), "--threads", "1", "--quiet", *more])


def test_every_line_has_its_answer(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    chat = {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}}  # fmt: skip
    fill = {"custom_id": "fill", "method": "POST", "url": "/v1/completions",
            "body": {"prompt": "def f(", "suffix": "\n", "max_tokens": 3, "n": 3}}  # fmt: skip
    long = request(99, prompt="x " * 5000)
    good = [request(i) for i in range(N)]
    extra = [json.dumps(chat).encode(), json.dumps(fill).encode(), long]
    write(source, [*good, *BAD, *extra])
    assert batch(source, target) == 0
    found = answers(target)
    assert len(found) == N + len(BAD) + len(extra)
    with LLM.load("nano", n_threads=1) as llm:
        prompts = [f"x{i} = " for i in range(N)]
        expected = llm.complete(prompts, SamplingParams(temperature=0, max_tokens=4))
    for i in range(N):
        one = found[i + 1]
        assert one["custom_id"] == f"n{i}"
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        assert one["response"]["body"]["choices"][0]["text"] == expected[i].text
    for i in range(len(BAD)):
        one = found[N + i + 1]
        assert one["response"] is None
        assert f"line {N + i + 1}" in one["error"]["message"]
    names = [found[N + i + 1]["custom_id"] for i in range(len(BAD))]
    assert names == [*[None] * 6, "get", "url", "body", "stream"]
    after = N + len(BAD)
    assert found[after + 1]["response"]["body"]["object"] == "chat.completion"
    assert len(found[after + 2]["response"]["body"]["choices"]) == 3
    assert found[after + 3]["response"]["status_code"] == 400
    assert "context is 2048" in found[after + 3]["response"]["body"]["error"]["message"]


def test_it_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, [request(i, max_tokens=100, ignore_eos=True) for i in range(N)])
    words = [sys.executable, "-m", "codellama", "batch", str(source), str(target), "--threads",
             "1", "--max-num-seqs", "2", "--quiet"]  # fmt: skip
    process = subprocess.Popen(words)
    try:
        end = time.monotonic() + 60
        while not (target.exists() and target.read_bytes().count(b"\n") >= 2):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    early = target.read_bytes()
    assert 2 <= early.count(b"\n") < N
    with target.open("ab") as file:
        file.write(b'{"id": "batch_req_0000')  # killed in a write
    assert batch(source, target) == 0
    assert len(answers(target)) == N
    assert target.read_bytes().startswith(early)
    before = target.read_bytes()
    assert batch(source, target) == 0  # and nothing is left to do
    assert target.read_bytes() == before


def test_outputs_that_are_not_its_own_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, other = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "other.jsonl"))
    write(source, [request(1), request(2)])
    write(other, [request(1), request(3)])
    assert batch(source, target) == 0
    whole = target.read_bytes()
    for words, said in (
        ((other, target), "another custom_id"),
        ((source, source), "is the input itself"),
        ((source, other), "no output of this command"),
        ((tmp_path / "absent", tmp_path / "new"), "cannot be read"),
    ):
        assert batch(*words) == 1
        assert said in capsys.readouterr().err
    assert target.read_bytes() == whole
    target.write_bytes(whole + whole)
    assert batch(source, target) == 1
    assert "twice" in capsys.readouterr().err
    write(source, [request(1)])
    target.write_bytes(whole)
    assert batch(source, target) == 1
    assert "fewer lines" in capsys.readouterr().err
