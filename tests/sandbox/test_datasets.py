"""HumanEval and MBPP: every canonical solution passes, known wrong ones fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from humaneval_samples import DATA, ODD, check_of, problems, samples

from codellama.bench.machine import OtherPrograms
from codellama.sandbox import Limits, Sandbox, SandboxUnavailable

Check = tuple[str, str, str | None]
pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here")
QUICK = 40  # of each kind in the default run
PATIENT = Limits(cpu_s=20, wall_s=120)  # some canonical solutions take seconds


def mbpp() -> list[Check]:
    """The 500 problems that the paper tests on."""
    rows = map(json.loads, (DATA / "mbpp.jsonl").read_text().splitlines())
    return [
        (row["code"], "\n".join([row["test_setup_code"], *row["test_list"]]), None)
        for row in rows
        if 11 <= row["task_id"] <= 510
    ]


def canonical() -> list[Check]:
    return [check_of(problem, problem["canonical_solution"]) for problem in problems()] + mbpp()


def wrong() -> list[Check]:
    """HumanEval's functions with bodies that are none of theirs."""
    return [
        check_of(problem, ODD[i % 15])
        for i, problem in enumerate(problems())
    ]  # fmt: skip


def of_all(checks: list[Any], n: int) -> list[Any]:
    return checks[:: max(1, len(checks) // n)]


@pytest.fixture(scope="module")
def patient() -> Any:
    try:
        opened = Sandbox.open(limits=PATIENT, n_workers=2)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with opened as box:
        yield box


def test_some_canonical_solutions_pass(patient: Sandbox) -> None:
    chosen = of_all(canonical(), QUICK)
    for check, verdict in zip(chosen, patient.check_many(chosen), strict=True):
        assert verdict.passed, (check[0], verdict)


def test_some_wrong_ones_fail(patient: Sandbox) -> None:
    chosen = of_all(wrong(), QUICK)
    for check, verdict in zip(chosen, patient.check_many(chosen), strict=True):
        assert not verdict.passed, check[0]


@pytest.mark.slow
def test_all_canonical_solutions_pass(patient: Sandbox) -> None:
    checks = canonical()
    assert len(checks) == 664
    failed = [
        (check[0], verdict)
        for check, verdict in zip(checks, patient.check_many(checks), strict=True)
        if not verdict.passed
    ]
    assert failed == []


@pytest.mark.slow
def test_all_wrong_ones_fail(patient: Sandbox) -> None:
    checks = wrong()
    tests = mbpp()  # each with the solution of another
    checks += [(tests[i - 1][0], one[1], None) for i, one in enumerate(tests)]
    passed = [
        check[0]
        for check, verdict in zip(checks, patient.check_many(checks), strict=True)
        if verdict.passed
    ]
    assert passed == []


@pytest.mark.slow
def test_verdicts_are_the_same_when_the_machine_is_busy() -> None:
    """Over five runs; with four times as many at a time as there are processors; and beside four
    programs that do nothing but take processor time."""
    known = problems()
    checks = [check_of(known[at], text) for at, text in samples(164, n_endless=2, seed=5)]
    found = [verdicts(checks, n_workers) for n_workers in (2, 2, 2, 2, 2, 8)]
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        found.append(verdicts(checks, 2))
    finally:
        for one in spinning:
            one.kill()
            one.wait()
    assert {passed for passed, _ in found[0]} == {True, False}
    assert all(one == found[0] for one in found)


def verdicts(checks: list[Check], n_workers: int) -> list[tuple[bool, str]]:
    """Limits go by processor time, with much time on the clock."""
    try:
        box = Sandbox.open(limits=replace(PATIENT, cpu_s=2), n_workers=n_workers)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with box:
        return [(verdict.passed, verdict.status) for verdict in box.check_many(checks)]


@pytest.mark.slow
def test_ten_samples_of_each_in_three_minutes() -> None:
    """On two processors; where others are at work too, being late says nothing."""
    known = problems()
    checks = [check_of(known[at], text) for at, text in samples(1640, n_endless=4)]
    before = busy()
    started = time.monotonic()
    with Sandbox.open(limits=Limits(cpu_s=3, wall_s=12), n_workers=2) as box:
        n_passed = sum(verdict.passed for verdict in box.check_many(checks))
    seconds = time.monotonic() - started
    assert 400 < n_passed < 1200
    if seconds > 180 and max(before, busy()) > 0.1:
        pytest.skip(f"it took {seconds:.0f} s on a machine that is busy with other things")
    assert seconds < 180


def busy() -> float:
    """The share of the processors that is in use while this process sleeps for a second."""
    others = OtherPrograms()
    others.start(())
    time.sleep(1)
    return others.share() or 0.0
