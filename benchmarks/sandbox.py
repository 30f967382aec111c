"""What isolation costs: programs in the sandbox beside the interpreter alone, in turns.

python benchmarks/sandbox.py [--n 40]

Prints medians in milliseconds on the clock, and of processor time for all processes together.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from codellama.sandbox import Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=40)
    args = parser.parse_args()
    started = time.perf_counter()
    with Sandbox.open(n_workers=1) as box:
        print(f"{box.level}, opened and tested in {1000 * (time.perf_counter() - started):.0f} ms")
        ways: dict[str, Callable[[], object]] = {
            "python -S -c pass": lambda: subprocess.run([sys.executable, "-S", "-c", "pass"]),
            "run": lambda: box.run("pass"),
            "check": lambda: box.check("def f(x): return x", "assert f(1) == 1", None),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.n):
            for name, way in ways.items():
                begun = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - begun)
        for name, found in seconds.items():
            print(f"{name:20} {1000 * statistics.median(found):6.1f} ms")
        n_runs = args.n * 3  # two processes of ours for a check
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{1000 * (used.ru_utime + used.ru_stime) / n_runs:.1f} ms of processor time a process")


if __name__ == "__main__":
    main()
