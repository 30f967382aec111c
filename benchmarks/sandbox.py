"""What isolation costs: programs in the sandbox beside the interpreter alone, in turns.

python benchmarks/sandbox.py [--n 40] [--spinning 4]

Prints medians in milliseconds on the clock; with `--spinning`, then once more beside so many
programs that take all the processor time they get.
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
    parser.add_argument("--spinning", type=int, default=0)
    args = parser.parse_args()
    started = time.perf_counter()
    with Sandbox.open(n_workers=1) as box:
        print(f"{box.level}, opened and tested in {1000 * (time.perf_counter() - started):.0f} ms")
        measure(box, args.n)
        if args.spinning:
            print(f"beside {args.spinning} spinning programs")
            command = [sys.executable, "-S", "-c", "while True: pass"]
            spinning = [subprocess.Popen(command) for _ in range(args.spinning)]
            try:
                measure(box, args.n)
            finally:
                for one in spinning:
                    one.kill()
                    one.wait()


def measure(box: Sandbox, n: int) -> None:
    ways: dict[str, Callable[[], float]] = {
        "python -S -c pass": interpreter,
        "run": lambda: box.run("pass").cpu_s,
        "check": lambda: box.check("def f(x): return x", "assert f(1) == 1", None).cpu_s,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(n):
        for name, way in ways.items():
            begun = time.perf_counter()
            used[name].append(way())
            seconds[name].append(time.perf_counter() - begun)
    bare = statistics.median(seconds["python -S -c pass"])
    for name, found in seconds.items():
        median = statistics.median(found)
        print(
            f"{name:20} {1000 * median:6.1f} ms, {1000 * (median - bare):+6.1f} beside the bare "
            f"interpreter; {1000 * statistics.median(used[name]):.1f} ms of processor time"
        )


def interpreter() -> float:
    before = usage()
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
    return usage() - before


def usage() -> float:
    """Processor seconds of children that ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


if __name__ == "__main__":
    main()
