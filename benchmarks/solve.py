"""`solve` beside one answer to each problem: what drawing until the tests pass is worth.

    python benchmarks/solve.py SUITE folder-of-the-suites [--model nano] [--n 100] [--every 1]

SUITE is humaneval, where a function is continued, or an infilling suite, where a hole is filled.
The tests are the benchmark's own, as a user's would be. Goes on where it was stopped; `--part 1/2`
and `--part 2/2` share the problems out between two processes, and the one that finds all of them
done writes the result.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from record import RESULTS, head, save

from codellama import LLM, SamplingParams
from codellama.bench.machine import cpu_name
from codellama.engine.solving import solve
from codellama.eval.data import find
from codellama.eval.run import versions
from codellama.eval.sources.engine import model_sha256
from codellama.eval.suites import Options, suite
from codellama.sandbox import Limits, Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--batch", type=int, default=20, help="answers drawn at a time")
    parser.add_argument("--every", type=int, default=1, help="each so many problems one")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, help="of the engine")
    parser.add_argument("--part", default="1/1", help="which part of how many")
    parser.add_argument("--state", type=Path, default=Path("build/solve"))
    args = parser.parse_args()
    part, n_parts = map(int, args.part.split("/"))
    made = suite(args.suite, Options())
    problems = list(made.problems(find(made, args.data).rows()))[:: args.every]
    settings = {
        "suite": args.suite, "every": args.every, "model": args.model,
        "model_sha256": model_sha256(args.model), "n": args.n, "batch": args.batch,
        "max_tokens": args.max_tokens,
    }  # fmt: skip
    args.state.mkdir(parents=True, exist_ok=True)
    with (
        LLM.load(args.model, n_threads=args.threads, max_num_seqs=args.batch) as llm,
        Sandbox.open(limits=Limits(cpu_s=3, wall_s=22), n_workers=2) as box,
        (args.state / f"{args.suite}.{part}of{n_parts}.jsonl").open("a") as file,
    ):
        done = finished(args.state, settings)
        for i, problem in enumerate(problems):
            if i % n_parts != part - 1 or problem.id in done:
                continue
            row = problem.row
            asked: dict[str, Any] = {
                "prefix": row["prompt"],
                "suffix": row.get("suffix"),
                "tests": f"{helpers(row)}\n{row['test']}",
                "entry_point": row["entry_point"],
                "params": SamplingParams(max_tokens=args.max_tokens, seed=i),
                "box": box,
            }
            plain = solve(llm, None, n=1, temperatures=(0,), **asked)
            found = solve(llm, None, n=args.n, batch=args.batch, **asked)
            outcome = {
                "problem": problem.id, "greedy": plain.verified, "solved": found.verified,
                "n_drawn": found.n_drawn, "n_tried": found.n_tried,
                "n_unparsable": found.n_unparsable, "n_same": found.n_same,
            }  # fmt: skip
            file.write(json.dumps({"settings": settings, "outcome": outcome}) + "\n")
            file.flush()
            print(f"{problem.id}: {found.verified}, {found.n_drawn} drawn", flush=True)
        done = finished(args.state, settings)
    if all(problem.id in done for problem in problems):
        said = ["DATA" if word == str(args.data) else word for word in sys.argv[1:]]
        report(settings, [done[problem.id] for problem in problems], " ".join(said))


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What all parts have of this run, by problem."""
    lines = [
        json.loads(line) for path in folder.glob("*.jsonl") for line in path.open() if line.strip()
    ]
    return {one["outcome"]["problem"]: one["outcome"] for one in lines
            if one["settings"] == settings}  # fmt: skip


def report(settings: dict[str, Any], outcomes: list[dict[str, Any]], said: str) -> None:
    drawn = [one["n_drawn"] for one in outcomes if one["solved"]]
    found = head("solve: answers drawn until one passes the benchmark's own tests")
    found |= {
        "date": found["date"][:10],
        "command": f"python benchmarks/solve.py {said}",
        "cpu": cpu_name(),
        "versions": versions(),
        "settings": settings,
        "problems": len(outcomes),
        "greedy_passed": sum(one["greedy"] for one in outcomes),
        "solved": len(drawn),
        "drawn_where_solved": {"median": statistics.median(drawn), "most": max(drawn)}
        if drawn
        else None,
        "drawn": sum(one["n_drawn"] for one in outcomes),
        "tried": sum(one["n_tried"] for one in outcomes),
        "outcomes": outcomes,
    }
    path = RESULTS / f"{found['date']}_solve-{settings['suite']}_{settings['model']}.json"
    save(found, path)
    print(f"one greedy answer: {found['greedy_passed']} of {found['problems']}")
    print(f"solve, up to {settings['n']}: {found['solved']} of {found['problems']}")
    print(path)


def helpers(row: Any) -> str:
    """What the prompt defines besides the function that is asked for: its tests may use it."""
    if "suffix" in row:  # the prompt stops anywhere, and what it defines is the solution's
        return ""
    tree = ast.parse(row["prompt"] + "    pass\n")
    name = row["entry_point"]
    rest = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name == name)]
    return "\n".join(ast.unparse(node) for node in rest)


if __name__ == "__main__":
    main()
