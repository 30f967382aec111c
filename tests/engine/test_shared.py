"""Streams that are left, Ctrl-C, several threads: what was held is freed, nobody else is hurt."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codellama import LLM, RequestError, SamplingParams
from codellama.engine.interrupts import postponed
from codellama.runners import Batch
from fakes import ScriptedModel, fake_llm

LONG = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True)
SHORT = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)


class Interrupted(ScriptedModel):
    """Somebody presses Ctrl-C in the middle of step number `at`."""

    def __init__(self, at: int | None) -> None:
        super().__init__(n_blocks=256)
        self.at = at

    def run(self, batch: Batch) -> NDArray[np.float32]:
        if len(self.batches) == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().run(batch)


def is_idle(llm: LLM) -> bool:
    engine = llm._engine._engine
    assert engine is not None
    free = engine.pool.n_free == engine.pool.n_blocks
    return free and not engine.n_requests and not llm._engine._inbox


def test_a_stream_that_is_closed_frees_its_blocks() -> None:
    llm = fake_llm()
    stream: Any = llm.stream("x", LONG)
    for _ in range(3):
        next(stream)
    assert not is_idle(llm)
    stream.close()
    assert is_idle(llm)


def test_a_stream_that_is_never_read_costs_nothing() -> None:
    llm = fake_llm()
    streams = [llm.stream("x", LONG) for _ in range(5)]
    assert is_idle(llm)
    del streams
    assert is_idle(llm)


def test_streams_can_be_read_in_turns() -> None:
    llm = fake_llm()
    whole = [llm.complete(prompt, LONG).text for prompt in ("a", "b", "c")]
    streams = {i: llm.stream(prompt, LONG) for i, prompt in enumerate(("a", "b", "c"))}
    texts = ["", "", ""]
    while streams:
        for i, stream in list(streams.items()):
            piece = next(stream)
            texts[i] += piece.text
            if piece.finish_reason is not None:
                del streams[i]
    assert texts == whole
    assert is_idle(llm)


def test_a_call_in_the_middle_of_a_stream() -> None:
    llm = fake_llm()
    alone = [llm.complete(prompt, LONG).text for prompt in ("a", "b")]
    text = ""
    for k, piece in enumerate(llm.stream("a", LONG)):
        text += piece.text
        if k == 2:
            assert llm.complete("b", LONG).text == alone[1]
    assert text == alone[0]
    assert is_idle(llm)


@pytest.mark.parametrize("at", [0, 1, 5])
def test_ctrl_c_in_a_stream(at: int) -> None:
    llm = fake_llm(Interrupted(at))
    with pytest.raises(KeyboardInterrupt):
        list(llm.stream("x", LONG))
    assert is_idle(llm)
    assert llm.complete("x", SHORT).text == fake_llm().complete("x", SHORT).text


@pytest.mark.parametrize("at", [0, 3])
def test_ctrl_c_in_a_crowd_leaves_streams_alone(at: int) -> None:
    model = Interrupted(None)
    llm = fake_llm(model, max_num_seqs=3)
    stream: Any = llm.stream("a", LONG)
    text = next(stream).text + next(stream).text
    model.at = len(model.batches) + at
    with pytest.raises(KeyboardInterrupt):
        llm.complete([f"b{i}" for i in range(20)], LONG, n=2)
    text += "".join(piece.text for piece in stream)
    assert text == fake_llm().complete("a", LONG).text
    assert is_idle(llm)


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the point is where in it
        with postponed():
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
            reached = True
        raise RuntimeError("it came through too late")
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_ctrl_c_is_somebody_elses_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postponed():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_share_one_engine() -> None:
    alone = {f"p{i}": fake_llm().complete(f"p{i}", LONG).text for i in range(8)}
    llm = fake_llm()
    found: dict[str, str] = {}

    def work(prompt: str) -> None:
        if prompt in ("p1", "p3"):
            found[prompt] = "".join(piece.text for piece in llm.stream(prompt, LONG))
        else:
            found[prompt] = llm.complete([prompt, prompt], LONG)[1].text

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone
    assert is_idle(llm)


def test_after_the_end_there_is_a_clear_error() -> None:
    with fake_llm() as llm:
        stream = llm.stream("x", LONG)
        begun = next(stream).text
    rest = list(stream)
    assert rest[-1].finish_reason == "abort"
    assert rest[-1].completion is not None
    assert rest[-1].completion.text == begun + "".join(piece.text for piece in rest)
    with pytest.raises(RequestError, match="closed"):
        llm.complete("x", SHORT)
    with pytest.raises(RequestError, match="closed"):
        llm.stream("x", SHORT)
    llm.close()


def test_a_request_that_is_refused_leaves_nothing() -> None:
    llm = fake_llm()
    with pytest.raises(RequestError):
        llm.complete(["a", "x" * 1000], SHORT)
    assert is_idle(llm)
