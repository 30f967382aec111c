"""LOAD-5: mixed lengths, cancels, errors and bad requests for a given time.

Starts `codellama serve nano`, keeps 24 clients busy, and at the end checks that no block is in
use and prints how the server's memory grew. Exits with 1 where a block leaked, a stream failed or
memory grew faster than allowed after the first third.

    python benchmarks/soak.py [SECONDS] [--mib-per-hour 4]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
import time
from pathlib import Path

from load import get, stream
from own_server import serving

CLIENTS = 24
_SETTLED = 1 / 3  # of the time, after which memory should not grow
_SHORT_S = 1200  # below this the slope is noise, and 16 MiB in all are allowed


def resident(pid: int) -> float:
    """MiB of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def client(port: int, seed: int, end: float, tally: dict[str, int]) -> None:
    chance = random.Random(seed)
    while time.monotonic() < end:
        kind = chance.choice(["whole", "whole", "leave", "bad", "long"])
        body = {
            "prompt": "def f" + "".join(chance.choices("abc(): \n", k=chance.randint(0, 200))),
            "max_tokens": chance.choice([1, 8, 64]),
            "temperature": chance.choice([0, 1.0]),
            "ignore_eos": True,
        }
        leave_after = chance.random() * 0.3 if kind == "leave" else None
        if kind == "bad":
            body["temperature"] = -1
        elif kind == "long":
            body["prompt"] = "x = 1\n" * chance.randint(20, 60)
        found = await stream(port, body, leave_after=leave_after)
        if kind == "bad":
            good = found.status == 400
        else:
            good = kind == "leave" or found.is_complete or found.status in (400, 429)
        tally[kind] = tally.get(kind, 0) + 1
        tally["failed"] = tally.get("failed", 0) + (not good)


async def soak(port: int, pid: int, seconds: float) -> tuple[dict[str, int], list[list[float]]]:
    tally: dict[str, int] = {}
    end = time.monotonic() + seconds
    clients = [asyncio.create_task(client(port, i, end, tally)) for i in range(CLIENTS)]
    samples = []
    began = time.monotonic()
    while time.monotonic() < end:
        await asyncio.sleep(min(5.0, seconds / 20))
        samples.append([time.monotonic() - began, resident(pid)])
    await asyncio.gather(*clients)
    await asyncio.sleep(1)
    return tally, samples


def slope(samples: list[list[float]]) -> float:
    """MiB per hour, by least squares."""
    n = len(samples)
    mean_t = sum(t for t, _ in samples) / n
    mean_m = sum(m for _, m in samples) / n
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return 3600 * sum((t - mean_t) * (m - mean_m) for t, m in samples) / spread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--mib-per-hour", type=float, default=4)
    args = parser.parse_args()
    with serving("--max-num-seqs", "8") as (port, server):
        tally, samples = asyncio.run(soak(port, server.pid, args.seconds))
        metrics = asyncio.run(get(port, "/metrics"))[1].decode()
    usage = re.search(r"kv_cache_usage_perc\{[^}]*\} (\S+)", metrics)
    assert usage is not None, "the metrics tell the cache's use"
    settled = [s for s in samples if s[0] >= _SETTLED * args.seconds]
    grown = settled[-1][1] - settled[0][1]
    print(f"requests: {tally}; exit code {server.returncode}")
    print(f"blocks in use after the end: {float(usage[1]):.0%}")
    print(f"memory: {samples[0][1]:.1f} MiB at first, {samples[-1][1]:.1f} at last; "
          f"{slope(settled):+.1f} MiB/h after the first third")  # fmt: skip
    is_steady = grown < 16 if args.seconds < _SHORT_S else slope(settled) < args.mib_per_hour
    return int(
        bool(tally.get("failed")) or float(usage[1]) > 0 or server.returncode != 0 or not is_steady
    )


if __name__ == "__main__":
    sys.exit(main())
