"""`solve` on HumanEval beside one answer per problem: what drawing until the tests pass is worth.

python benchmarks/solve.py HumanEval.jsonl.gz [--model nano] [--n 100] [--problems 164]

The tests are the benchmark's own, as a user's would be. Prints both rates and how many answers were
drawn for those that were solved.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import statistics
from pathlib import Path
from typing import Any

from codellama import LLM, SamplingParams
from codellama.sandbox import Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--max-tokens", type=int, default=256)
    args = parser.parse_args()
    with gzip.open(args.data, "rt") as file:
        problems = [json.loads(line) for line in file][: args.problems]
    drawn, n_plain = [], 0
    with LLM.load(args.model) as llm, Sandbox.open() as box:
        for i, problem in enumerate(problems):
            asked = {
                "prefix": problem["prompt"],
                "tests": f"{helpers(problem)}\n{problem['test']}",
                "entry_point": problem["entry_point"],
                "params": SamplingParams(max_tokens=args.max_tokens, seed=i),
                "box": box,
            }
            n_plain += llm.solve(n=1, **asked).verified
            found = llm.solve(n=args.n, **asked)
            drawn += [found.n_drawn] if found.verified else []
            print(f"{problem['task_id']}: {found.verified}, {found.n_drawn} drawn", flush=True)
    print(f"one answer at temperature 0.2: {n_plain} of {len(problems)}")
    print(f"solve, up to {args.n}: {len(drawn)} of {len(problems)}")
    if drawn:
        print(f"drawn where solved: median {statistics.median(drawn):g}, at most {max(drawn)}")


def helpers(problem: dict[str, Any]) -> str:
    """What the prompt defines besides the function that is asked for."""
    tree = ast.parse(problem["prompt"] + "    pass\n")
    name = problem["entry_point"]
    rest = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name == name)]
    return "\n".join(ast.unparse(node) for node in rest)


if __name__ == "__main__":
    main()
