"""`codellama eval` as its users run it, and its verdicts in the real sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import run
from eval_fakes import EVAL_DATA

from codellama.errors import SandboxUnavailable
from codellama.sandbox import Sandbox

NEEDS_DATA = pytest.mark.skipif(
    EVAL_DATA is None, reason="the evaluation files do not lie beside this checkout"
)


@pytest.fixture(scope="module")
def _can_isolate() -> None:
    try:
        Sandbox.open().close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def rows(n: int) -> str:
    return "".join(
        json.dumps(
            {
                "task_id": f"T/{i}", "prompt": f"def f{i}(x):\n", "entry_point": f"f{i}",
                "canonical_solution": f"    return x + {i}\n",
                "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
            }
        )
        + "\n"
        for i in range(n)
    )  # fmt: skip


@pytest.mark.usefixtures("_can_isolate")
def test_a_model_from_samples_to_report(hf_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "HumanEval.jsonl"
    data.write_text(rows(3))
    out = tmp_path / "out"
    flags = ("--model", hf_folder, "--data", tmp_path, "--out", out, "--threads", "1",
             "--max-tokens", "8", "--n", "2", "--workers", "1")  # fmt: skip
    done = run("eval", "humaneval", *flags, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["model"]["sha256"]
    assert result["sandbox"] in ("full", "reduced")
    assert result["settings"]["temperature"] == 0.8  # several samples, and none was named
    assert result["samples"] == 6
    assert "<h2>HumanEval</h2>" in (out / "report.html").read_text()
    before = (out / "humaneval.n2-t0.8.samples.jsonl").read_bytes()
    again = run("eval", "humaneval", *flags)
    assert again.code == 0
    assert "100 % of 6 samples" in again.err
    assert (out / "humaneval.n2-t0.8.samples.jsonl").read_bytes() == before
    other = run("eval", "humaneval", *flags, "--seed", "1")
    assert other.code == 1
    assert "`seed` was 0 and is 1" in other.err


@pytest.mark.usefixtures("_can_isolate")
def test_stored_samples_are_judged(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(rows(2))
    samples = tmp_path / "mine.jsonl"
    lines = [("T/0", "    return x\n"), ("T/1", "    return x\n"), ("T/0", "    return 2\n"),
             ("T/1", "    return 2\n")]  # fmt: skip
    samples.write_text(
        "".join(json.dumps({"task_id": t, "completion": c}) + "\n" for t, c in lines)
    )
    done = run("eval", "humaneval", "--samples", samples, "--data", data, "--out", tmp_path / "out",
               "--json")  # fmt: skip
    assert done.code == 0, done.err
    figures = {one["key"]: one["value"] for one in json.loads(done.out)["figures"]}
    assert figures == {"pass@1": 0.5}
    verdicts = (tmp_path / "out" / "humaneval.n2-t0.verdicts.jsonl").read_text().splitlines()
    assert [json.loads(line)["passed"] for line in verdicts] == [True, False, False, True]


def test_drawing_alone(hf_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(rows(2))
    done = run("eval", "humaneval", "--model", hf_folder, "--data", tmp_path, "--out",
               tmp_path / "out", "--threads", "1", "--max-tokens", "4", "--no-run")  # fmt: skip
    assert done.code == 0, done.err
    assert len((tmp_path / "out" / "humaneval.samples.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "report.html").exists()


def test_perplexity_and_keys_need_no_sandbox(hf_folder: Path, tmp_path: Path) -> None:
    text = "".join(
        f"def number_{i}(value):\n    total = value * {i}\n    return total, '{'x' * 70}'\n\n\n"
        for i in range(600)
    )
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"text": text}) + "\n")
    flags = ("--model", hf_folder, "--data", data, "--out", tmp_path / "out", "--threads", "1",
             "--json", "--max-seq-len", "256")  # fmt: skip
    done = run("eval", "perplexity", *flags)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["sandbox"] is None
    assert found["figures"][0]["value"] > 1
    done = run("eval", "keys", *flags, "--lengths", "150", "--examples", "1")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["figures"]) == 5


SCORER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"toxic": float("bad" in json.loads(line)["text"])}))
"""


def test_a_scorer_of_the_users(tmp_path: Path) -> None:
    data, samples, scorer = (tmp_path / name for name in ("d.jsonl", "s.jsonl", "scorer.py"))
    scorer.write_text(SCORER)
    data.write_text("".join(json.dumps({"prompt": f"p{i}", "group": "g"}) + "\n" for i in range(4)))
    said = ["good", "bad", "fine", "so bad"]
    samples.write_text(
        "".join(
            json.dumps({"task_id": str(i), "completion": text}) + "\n"
            for i, text in enumerate(said)
        )
    )
    flags = ("eval", "toxigen", "--samples", samples, "--data", data, "--out", tmp_path / "out",
             "--json", "--scorer")  # fmt: skip
    done = run(*flags, f"{sys.executable} {scorer}")
    assert done.code == 0, done.err
    figures = {one["key"]: one["value"] for one in json.loads(done.out)["figures"]}
    assert figures == {"toxic": 0.5, "g/toxic": 0.5}
    assert "cannot be started" in run(*flags, "no-such-program-here").err
    assert "exit code 3" in run(*flags, f"{sys.executable} -c 'exit(3)'").err
    assert "answered 0 lines to 4" in run(*flags, f"{sys.executable} -c pass").err
    assert "none was named" in run(*flags[:-1]).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which suites"),
        (("humaneval", "--samples", "a", "--url", "b"), "give one"),
        (("humaneval", "mbpp", "--samples", "a"), "one suite"),
        (("humaneval", "--n", "2", "--temperature", "0"), "would be the same"),
        (("humaneval", "--n", "0"), "not a whole number"),
    ],
)
def test_command_lines_that_make_no_sense(arguments: tuple[str, ...], said: str) -> None:
    done = run("eval", *arguments)
    assert done.code == 2, done.err
    assert said in done.err


def test_an_unknown_suite_is_said_before_anything_is_loaded() -> None:
    done = run("eval", "humanevil", "--model", "nowhere")
    assert done.code == 1
    assert "did you mean humaneval?" in done.err


def test_torch_stays_out(hf_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(rows(1))
    code = (
        "import sys; from codellama.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    flags = ("--model", hf_folder, "--data", tmp_path, "--out", tmp_path / "o", "--threads", "1",
             "--max-tokens", "4", "--no-run", "--quiet")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", "humaneval", *map(str, flags)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0 []"


def canonical(data: Path, name: str, wrong: bool = False) -> list[dict[str, Any]]:
    import gzip

    found = []
    with gzip.open(data / name, "rt") if name.endswith("gz") else (data / name).open() as file:
        for line in file:
            row = json.loads(line)
            text = row.get("canonical_solution", row.get("code"))
            found.append({"task_id": str(row["task_id"]), "completion": text})
    if wrong:  # each problem gets the next one's solution
        texts = [one["completion"] for one in found]
        for one, text in zip(found, texts[1:] + texts[:1], strict=True):
            one["completion"] = text
    return found


@NEEDS_DATA
@pytest.mark.usefixtures("_can_isolate")
@pytest.mark.parametrize(
    ("suite", "file"),
    [
        ("humaneval", "HumanEval.jsonl.gz"),
        ("humaneval-plus", "HumanEvalPlus-Mini.jsonl.gz"),
        ("mbpp", "mbpp.jsonl"),
        ("infill-random-span", "HumanEval-RandomSpanInfillingLight.jsonl.gz"),
    ],
)
@pytest.mark.parametrize("wrong", [False, True])
def test_reference_solutions_pass_and_others_do_not(
    suite: str, file: str, wrong: bool, tmp_path: Path
) -> None:
    assert EVAL_DATA is not None
    samples = tmp_path / "samples.jsonl"
    lines = canonical(EVAL_DATA, file, wrong)
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(
        "eval", suite, "--samples", samples, "--data", EVAL_DATA / file, "--out", tmp_path / "out",
        "--json", "--every", "20",
    )  # fmt: skip
    assert done.code == 0, done.err
    figures = {one["key"]: one["value"] for one in json.loads(done.out)["figures"]}
    assert figures["pass@1"] == (0 if wrong else 1)
