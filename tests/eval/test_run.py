"""Runs: seeds, stopping and going on, settings that must be the same, figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eval_fakes import FakeBox, TableSource, opened

from codellama.errors import ConfigError
from codellama.eval.data import find
from codellama.eval.judge import Tools
from codellama.eval.run import Plan, evaluate, generate, seed_of, stem
from codellama.eval.sources import Request
from codellama.eval.suite import Judged, Reply, Sampling
from codellama.eval.suites import Options, suite

HUMANEVAL = suite("humaneval", Options())


def row(i: int) -> dict[str, Any]:
    return {
        "task_id": f"T/{i}",
        "prompt": f"def f{i}(x):\n",
        "entry_point": f"f{i}",
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(6)))
    return path


def right_for(even: bool) -> Callable[[Request], Reply]:
    def answer(request: Request) -> Reply:
        number = int(request.problem.split("/")[1])
        is_right = number % 2 == 0 and (even or request.sample == 0)
        return Reply(text=f"    return x + {number if is_right else 99}\n", n_tokens=5)

    return answer


def run(
    data: Path, folder: Path, source: TableSource, n: int = 1, **options: Any
) -> tuple[dict[str, Any], list[Judged]]:
    plan = Plan(sampling=Sampling(n=n, temperature=0.8 if n > 1 else 0.0), **options)
    found = find(HUMANEVAL, data)
    with Tools(lambda: opened(FakeBox())) as tools:
        return evaluate(HUMANEVAL, source, found, plan, folder, tools=tools)


def test_pass_at_k_of_a_run(data: Path, tmp_path: Path) -> None:
    result, judged = run(data, tmp_path / "out", TableSource(right_for(even=False)), n=5)
    figures = {one["key"]: one["value"] for one in result["figures"]}
    # Of six problems three have one right sample in five.
    assert figures == {"pass@1": pytest.approx(0.5 * 0.2), "pass@5": pytest.approx(0.5)}
    assert [one.sample for one in judged[:5]] == [0, 1, 2, 3, 4]
    assert result["sandbox"] == FakeBox.level
    assert result["data"]["sha256"] == find(HUMANEVAL, data).sha256
    assert result["curves"][0]["lines"]["pass@k"][0] == [1, pytest.approx(10)]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(data: Path, tmp_path: Path) -> None:
    whole, _ = run(data, tmp_path / "whole", TableSource(right_for(even=True)), n=3)
    broken = TableSource(right_for(even=True), fail_after=7)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out", broken, n=3)
    samples = tmp_path / "out" / "humaneval.n3-t0.8.samples.jsonl"
    assert len(samples.read_text().splitlines()) == 7
    with samples.open("a") as file:
        file.write('{"task_id": "T/0", "sam')  # the line that was being written
    again = TableSource(right_for(even=True))
    found, _ = run(data, tmp_path / "out", again, n=3)
    assert len(again.asked) == 18 - 7
    assert found["figures"] == whole["figures"]
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len({(one["task_id"], one["sample"]) for one in lines}) == len(lines) == 18


def test_more_samples_are_added_to_those_there(data: Path, tmp_path: Path) -> None:
    plan = Plan(sampling=Sampling(n=2, temperature=0.8), limit=2)
    found = find(HUMANEVAL, data)
    first = TableSource(right_for(even=True))
    generate(HUMANEVAL, first, found, plan, tmp_path)
    path = tmp_path / (stem(HUMANEVAL, plan) + ".samples.jsonl")
    wider = Plan(sampling=plan.sampling, limit=4)
    again = TableSource(right_for(even=True))
    generate(HUMANEVAL, again, found, wider, tmp_path)
    assert {one.problem for one in again.asked} == {"T/2", "T/3"}
    assert len(path.read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"top_p": 0.5}, "top_p"), ({"max_tokens": 9}, "max_tokens")],
)
def test_samples_of_other_settings_are_not_mixed(
    data: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    found = find(HUMANEVAL, data)
    source = TableSource(right_for(even=True))
    generate(HUMANEVAL, source, found, Plan(sampling=Sampling()), tmp_path)
    with pytest.raises(ConfigError, match=f"`{named}` was"):
        generate(HUMANEVAL, source, found, Plan(sampling=Sampling(**change)), tmp_path)
    generate(
        HUMANEVAL, source, found, Plan(sampling=Sampling(**change)), tmp_path, restart=True
    )  # fmt: skip
    assert len((tmp_path / "humaneval.samples.jsonl").read_text().splitlines()) == 6


def test_samples_of_other_data_are_not_mixed(data: Path, tmp_path: Path) -> None:
    source = TableSource(right_for(even=True))
    generate(HUMANEVAL, source, find(HUMANEVAL, data), Plan(sampling=Sampling()), tmp_path)
    data.write_text(json.dumps(row(7)) + "\n")
    with pytest.raises(ConfigError, match="`data_sha256` was"):
        generate(HUMANEVAL, source, find(HUMANEVAL, data), Plan(sampling=Sampling()), tmp_path)


def test_a_damaged_line_is_named(data: Path, tmp_path: Path) -> None:
    found = find(HUMANEVAL, data)
    source = TableSource(right_for(even=True))
    generate(HUMANEVAL, source, found, Plan(sampling=Sampling()), tmp_path)
    path = tmp_path / "humaneval.samples.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{}", *lines[2:]]) + "\n")
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        generate(HUMANEVAL, source, found, Plan(sampling=Sampling()), tmp_path)


def test_a_sample_has_its_own_seed() -> None:
    seeds = {seed_of(s, f"T/{p}", i) for s in range(3) for p in range(9) for i in range(20)}
    assert len(seeds) == 3 * 9 * 20
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_a_reply_that_is_an_error_fails_unrun(data: Path, tmp_path: Path) -> None:
    def refuse(request: Request) -> Reply:
        return Reply(finish="error", error="the prompt has 9 tokens and the context is 4")

    result, judged = run(data, tmp_path / "out", TableSource(refuse))
    assert result["figures"][0]["value"] == 0
    assert result["no_reply"] == 6
    assert "the context is 4" in judged[0].reason


def test_the_same_program_runs_once(data: Path, tmp_path: Path) -> None:
    box = FakeBox()
    plan = Plan(sampling=Sampling(n=4, temperature=0.8))
    with Tools(lambda: opened(box)) as tools:
        evaluate(
            HUMANEVAL, TableSource(right_for(even=True)), find(HUMANEVAL, data), plan,
            tmp_path / "out", tools=tools,
        )  # fmt: skip
    assert box.checked == 6


def test_every_nth_problem(data: Path, tmp_path: Path) -> None:
    result, judged = run(
        data, tmp_path / "out", TableSource(right_for(even=True)), every=2, limit=2
    )
    assert [one.problem.id for one in judged] == ["T/0", "T/2"]
    assert result["settings"]["every"] == 2


def test_without_a_sandbox_the_samples_stay(data: Path, tmp_path: Path) -> None:
    plan = Plan(sampling=Sampling())
    source = TableSource(right_for(even=True))
    with Tools() as tools, pytest.raises(ConfigError, match="no sandbox"):
        evaluate(HUMANEVAL, source, find(HUMANEVAL, data), plan, tmp_path / "out", tools=tools)
    assert len((tmp_path / "out" / "humaneval.samples.jsonl").read_text().splitlines()) == 6
