"""Samples of which it is known how many are right, for scorers to be compared on.

    python benchmarks/mixed_samples.py folder-of-the-suites build/evaluation/mixed-samples

Problem `i` gets `i` modulo `n + 1` right samples, so that pass@k has all its values; the others are
replies to the problems around it. Writes a file for each suite, for `codellama eval --samples`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from codellama.eval.data import find
from codellama.eval.suites import Options, suite

SUITES = {  # samples to each problem
    "humaneval": 5,
    "mbpp": 2,
    "infill-single-line": 1,
    "infill-multi-line": 2,
    "infill-random-span": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that has the suites' files")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, n in SUITES.items():
        made = suite(name, Options())
        problems = list(made.problems(find(made, args.data).rows()))
        right = [str(p.row.get("canonical_solution", p.row.get("code"))) for p in problems]
        lines = [
            json.dumps(
                {
                    "task_id": problem.id,
                    # Samples of one line differ little from their neighbours': take far ones.
                    "completion": right[i if k < i % (n + 1) else (i + 7 + k) % len(right)],
                }
            )
            for i, problem in enumerate(problems)
            for k in range(n)
        ]
        path = args.out / f"{name}.jsonl"
        path.write_text("".join(line + "\n" for line in lines))
        print(f"{path}: {len(lines)} samples")


if __name__ == "__main__":
    main()
