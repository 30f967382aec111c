"""LOAD, CAN and OVL: many at once, some of whom leave, and more than there is room for.

The quick tests are scaled to two busy cores, the slow ones have the programme's numbers. Times are
not asserted but where a whole second would be a fault: what a machine that does other things beside
can show is order, completeness and sameness.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from harness import Running, nano, running, scales, scripted, until
from streams import post, together

from codellama import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.server.refusals import Refusal
from codellama.server.settings import Limits, Settings
from fakes import ByteTokenizer, ScriptedModel

WIDE = Settings(limits=Limits(waiting=300, cache_overcommit=100))
WIDEST = Settings(limits=Limits(waiting=20_000, cache_overcommit=10_000, reply_bytes=4 << 30))


def body(i: int, tokens: int = 24, **more: Any) -> dict[str, Any]:
    return {"prompt": f"def f{i}(x):\n", "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, **more}  # fmt: skip


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def n_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def quiet(server: Running) -> bool:
    """Whether nothing is left of any request."""
    service = server.served.service
    pool = service.engine.pool
    return (
        not service.n_live
        and not service._owners
        and not service._live
        and service.admission.reserved_tokens == service.admission.reserved_bytes == 0
        and pool.n_free == pool.n_blocks
    )


@scales("tokens", 24, 128)
def test_LOAD_1_LOAD_2_many_streams_each_as_if_alone(tokens: int) -> None:
    """256 streams, 32 at a time; memory, descriptors and tasks return to where they were."""
    with running(nano(), settings=WIDE) as server:
        solo = {i: together(server.port, [body(i, tokens)])[0].text for i in range(8)}
        together(server.port, [body(i, tokens) for i in range(16)])
        warm, files = memory(), n_files()
        tasks = server.on_loop(lambda: len(asyncio.all_tasks()))
        usage = {"include_usage": True}
        found = together(
            server.port, [body(i % 8, tokens, stream_options=usage) for i in range(256)]
        )
        assert [one.status for one in found] == [200] * 256
        assert all(one.is_complete for one in found)
        for i, one in enumerate(found):
            assert one.text == solo[i % 8]
            assert one.events[-1]["usage"]["completion_tokens"] == tokens
        assert memory() - warm < 64 << 20
        until(lambda: quiet(server) and not server.on_loop(lambda: server.crowd.n), 5)
        until(lambda: n_files() <= files, 5)
        assert server.on_loop(lambda: len(asyncio.all_tasks())) <= tasks


def test_LOAD_3_first_tokens_come_in_order_of_arrival() -> None:
    """With 32 streams nobody's first token waits for another's last."""
    with running(nano(), settings=WIDE) as server:
        order: list[str] = []

        async def main() -> None:
            async def one(i: int) -> None:
                await post(server.port, body(i, 32))
                order.append(f"end {i}")

            await asyncio.gather(*(one(i) for i in range(32)))

        asyncio.run(main())
        counters = server.served.service.counters
        # All 32 run together: as many steps as one reply has tokens, and the prompts' few.
        assert counters.steps <= 32 + 32


def test_LOAD_4_a_long_prompt_does_not_hold_others_up() -> None:
    """While 400 tokens are read in chunks, every step brings the other replies a token."""
    letter = ByteTokenizer().encode_bare("a")[0]
    model = ScriptedModel(n_blocks=512, script=lambda t: letter)
    with running(scripted(model, step_tokens=16)) as server:
        service = server.served.service
        prompts = [Prompt(ids=(1, 70 + i), stop_ids=frozenset(), bare=True) for i in range(3)]
        params = SamplingParams(max_tokens=200)
        short = [server.on_loop(lambda p=p: service.submit([p], params, 1)) for p in prompts]
        until(lambda: service.n_running == 3)
        before = len(model.batches)
        together(server.port, [{"prompt": "x" * 400, "max_tokens": 1}])
        for batch in model.batches[before + 2 : -1]:
            if len(batch.tokens) > 8 and service.n_running == 4:
                assert len(batch.logit_rows) >= 3
                assert len(batch.tokens) <= 16
        for generation in short:
            server.on_loop(generation.cancel)


def test_LOAD_6_nobody_is_overtaken() -> None:
    """Sequences start in the order in which they came."""
    model = ScriptedModel(n_blocks=512, script=lambda t: 70)
    with running(scripted(model, max_num_seqs=2), settings=WIDE) as server:
        service = server.served.service
        ended: list[int] = []

        def submit_all() -> None:
            for i in range(60):
                prompt = Prompt(ids=(1, 10 + i), stop_ids=frozenset(), bare=True)
                params = SamplingParams(max_tokens=1 + i % 7)
                generation = service.submit([prompt], params, 1)
                asyncio.ensure_future(generation.completions()).add_done_callback(
                    lambda _, i=i: ended.append(i)
                )

        server.on_loop(submit_all)
        until(lambda: len(ended) == 60)
        for place, i in enumerate(ended):
            assert sum(later > i for later in ended[:place]) <= 32


STAGES = ["queued", "prefill", "decode", "whole answer", "several"]


@pytest.mark.parametrize("stage", STAGES)
def test_CAN_1_leaving_frees_blocks_within_two_steps(stage: str) -> None:
    gate = threading.Semaphore(0)
    letter = ByteTokenizer().encode_bare("a")[0]
    model = ScriptedModel(n_blocks=512, script=lambda t: letter)
    run = model.run

    def gated(batch: Any) -> Any:
        gate.acquire()
        return run(batch)

    model.run = gated  # type: ignore[method-assign]
    with running(scripted(model, max_num_seqs=2, step_tokens=16)) as server:
        service = server.served.service
        if stage == "queued":
            prompt = Prompt(ids=(1, 9), stop_ids=frozenset(), bare=True)
            blockers = [
                server.on_loop(lambda: service.submit([prompt], SamplingParams(max_tokens=60), 1))
                for _ in range(2)
            ]
            gate.release()
            until(lambda: service.n_running == 2 or model.batches)
        data = json.dumps(
            body(1, 100, prompt="x" * (200 if stage == "prefill" else 2),
                 stream=stage not in ("whole answer", "several"),
                 n=2 if stage == "several" else 1)
        ).encode()  # fmt: skip
        leaving = socket.create_connection(("127.0.0.1", server.port))
        leaving.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        expected = (2 if stage == "several" else 1) + (2 if stage == "queued" else 0)
        until(lambda: service.n_live == expected)
        for _ in range(0 if stage == "queued" else 4):
            gate.release()
        if stage != "queued":
            until(lambda: len(model.batches) >= 4)
        leaving.close()
        until(lambda: any(type(c).__name__ == "_Cancel" for c in _queued(service)))
        steps = len(model.batches)
        gate.release()
        if stage == "queued":
            until(lambda: service.n_live == 2)
            for generation in blockers:
                server.on_loop(generation.cancel)
            for _ in range(70):
                gate.release()
        until(lambda: quiet(server))
        if stage != "queued":
            assert len(model.batches) <= steps + 2
        for _ in range(200):
            gate.release()


def _queued(service: Any) -> list[Any]:
    """Commands that the engine's thread has not taken yet, put back in their order."""
    found = []
    while not service._commands.empty():
        found.append(service._commands.get())
    for command in found:
        service._commands.put(command)
    return found


@scales("n", 240, 750)
def test_CAN_2_many_leave_at_any_moment_and_nobody_notices(n: int) -> None:
    """Two of three leave."""
    chance = random.Random(2)
    with running(nano(), settings=WIDEST) as server:
        solo = {i: together(server.port, [body(i)])[0].text for i in range(6)}

        async def main() -> list[Any]:
            jobs = []
            for i in range(n):
                leaves = i % 3 != 0
                after = chance.random() * n / 400 if leaves else None
                jobs.append(post(server.port, body(i % 6, stream=i % 2 == 0 or not leaves),
                                 leave_after=after))  # fmt: skip
            return list(await asyncio.gather(*jobs))

        found = asyncio.run(main())
        for i in range(0, n, 3):
            assert found[i].is_complete
            assert found[i].text == solo[i % 6]
        until(lambda: quiet(server), 30)
        service = server.served.service
        ended = service.counters.finished
        assert sum(ended.values()) + service.counters.aborts >= n // 3


@scales("n", 300, 10_000)
def test_CAN_4_no_answer_holds_the_mark_of_another(n: int) -> None:
    """A model that copies its prompt; a third of the clients leave."""

    def copy(tokens: tuple[int, ...]) -> int:
        bare = [i for i in tokens if 3 <= i < 259]
        return bare[len(bare) % 12 + 1] if len(bare) > 12 else bare[-1]

    chance = random.Random(4)
    model = ScriptedModel(n_blocks=512, script=copy)
    with running(scripted(model), settings=WIDE) as server:
        marks = [f"mark-{i:06d}" for i in range(n)]
        places = asyncio.Semaphore(250)

        async def one(mark: str) -> Any:
            after = chance.random() if chance.random() < 0.3 else None
            asked = {"prompt": mark, "max_tokens": 22, "stream": chance.random() < 0.5}
            async with places:
                return await post(server.port, asked, leave_after=after)

        async def main() -> list[Any]:
            return list(await asyncio.gather(*map(one, marks)))

        for mark, found in zip(marks, asyncio.run(main()), strict=True):
            text = found.body.decode(errors="replace")
            assert set(re.findall(r"mark-\d{6}", text)) <= {mark}
        until(lambda: quiet(server), 30)


@scales("n", 400, 2000)
def test_OVL_1_a_flood_gets_answers_or_refusals(n: int) -> None:
    settings = Settings(limits=Limits(waiting=16))
    with running(nano(), settings=settings) as server:
        found = together(server.port, [body(i % 8, 12) for i in range(n)])
        assert {one.status for one in found} <= {200, 429, 503}
        accepted = [one for one in found if one.status == 200]
        refused = [one for one in found if one.status != 200]
        assert len(accepted) >= 16
        assert refused
        assert all(one.is_complete for one in accepted)
        waits = []
        for one in refused:
            (line,) = [x for x in one.headers.split(b"\r\n") if x.startswith(b"retry-after")]
            waits.append(int(line.split(b":")[1]))
        assert all(1 <= wait <= 60 for wait in waits)
        assert len(set(waits)) > 1, "clients would all return together"
        until(lambda: quiet(server))


@scales("n", 100, 200)
def test_OVL_2_the_official_client_gets_through(n: int) -> None:
    """About half of all find no place at first."""
    settings = Settings(limits=Limits(waiting=n // 2 - 26))
    with running(nano(), settings=settings) as server:

        async def main() -> list[Any]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
                return await asyncio.gather(
                    *(
                        client.completions.create(model="", prompt=f"def f{i}(", max_tokens=6)
                        for i in range(n)
                    ),
                    return_exceptions=True,
                )

        found = asyncio.run(main())
        good = [one for one in found if not isinstance(one, BaseException)]
        assert len(good) >= 0.9 * n
        bad = [one for one in found if isinstance(one, BaseException)]
        assert all(isinstance(one, openai.RateLimitError) for one in bad)


def test_OVL_3_a_small_cache_preempts_and_refuses_what_never_fits() -> None:
    def texts(n_blocks: int) -> list[str]:
        model = ScriptedModel(n_blocks=n_blocks)
        with running(scripted(model, max_seq_len=100), settings=WIDE) as server:
            found = together(server.port, [body(i, 40) for i in range(12)])
            until(lambda: quiet(server))
            never = server.post("/v1/completions", {"prompt": "x" * 90, "max_tokens": 50})
            assert never.status == 400
            return [one.text for one in found]

    small = texts(10)
    assert small == texts(400)
    assert all(small)


def test_a_promise_of_cache_has_a_limit() -> None:
    settings = Settings(limits=Limits(cache_overcommit=2))
    model = ScriptedModel(n_blocks=8, script=lambda t: 70)
    with running(scripted(model, max_seq_len=100), settings=settings) as server:
        service = server.served.service
        prompt = Prompt(ids=(1, 9), stop_ids=frozenset(), bare=True)
        params = SamplingParams(max_tokens=98)

        def fill() -> int:
            for n in range(100):
                try:
                    service.submit([prompt], params, 1)
                except Refusal as refusal:
                    return n if refusal.status == 429 else -1
            return -1

        assert server.on_loop(fill) == 2
        until(lambda: not service.n_live)
