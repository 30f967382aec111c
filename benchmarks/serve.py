"""Our server beside llama-server and vLLM: the same model and prompts, 1 to 128 streams.

Starts `codellama serve`; other servers are started by commands of the user's, in which `{port}`
stands for the port, and need the OpenAI route /v1/completions. Rounds are interleaved. For each
number of streams: tokens a second in all, time to the first text (median and p99), gap between
parts (median and p99), and the server's memory. Writes `results/<date>_serve_<machine>.json`.

    python benchmarks/serve.py [--model nano] [--tokens 64] [--rounds 3] [--streams 1 8 32]
        [--other NAME="python -m llama_cpp.server --model nano.gguf --port {port}"] ...
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from load import Stream, get, percentile, stream
from machine import commit

from codellama.bench.machine import cpu_name

RESULTS = Path(__file__).parent / "results"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def resident(pid: int) -> float:
    """MiB of a process and its children in memory."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = status.read_text().rpartition(")")[2].split()
            if int(status.parent.name) == pid or int(words[1]) == pid:
                total += int(words[21]) * os.sysconf("SC_PAGE_SIZE")
    return total / 2**20


def wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"a server left with {process.returncode}")
        with contextlib.suppress(OSError, IndexError, ValueError):
            if asyncio.run(get(port, "/v1/models"))[0] == 200:
                return
        time.sleep(0.2)
    raise SystemExit("a server did not start in three minutes")


async def crowd(port: int, n: int, n_tokens: int, first: int) -> list[Stream]:
    def body(i: int) -> dict[str, Any]:
        prompt = f"def function_{first + i}(value, items):\n    "
        return {
            "prompt": prompt, "max_tokens": n_tokens, "temperature": 0.8, "seed": i,
            "ignore_eos": True,
        }  # fmt: skip

    return list(await asyncio.gather(*(stream(port, body(i)) for i in range(n))))


def measure(port: int, pid: int, n: int, n_tokens: int, first: int) -> dict[str, Any]:
    began = time.perf_counter()
    found = asyncio.run(crowd(port, n, n_tokens, first))
    took = time.perf_counter() - began
    gaps = [gap for one in found for gap in one.gaps_s]
    firsts = [one.first_s for one in found if one.first_s is not None]
    return {
        "streams": n,
        "complete": sum(one.is_complete for one in found),
        "chunks": sum(one.n_chunks for one in found),
        "tokens_per_s": n * n_tokens / took,
        "first_p50_ms": 1000 * percentile(firsts, 0.5),
        "first_p99_ms": 1000 * percentile(firsts, 0.99),
        "gap_p50_ms": 1000 * percentile(gaps, 0.5),
        "gap_p99_ms": 1000 * percentile(gaps, 0.99),
        "memory_mib": resident(pid),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    ours = f"{sys.executable} -m codellama serve {args.model} --port {{port}} --max-num-seqs 128 " \
        "--log-level error"  # fmt: skip
    commands = {"codellama": ours} | dict(text.split("=", 1) for text in args.other)
    servers: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    try:
        for name, command in commands.items():
            port = free_port()
            process = subprocess.Popen(
                shlex.split(command.format(port=port)), stderr=subprocess.DEVNULL
            )
            servers[name] = port, process
            wait_until_up(port, process)
            measure(port, process.pid, 2, 8, 10_000)
        for round_number in range(args.rounds):
            for n in args.streams:
                for name, (port, process) in servers.items():
                    first = round_number * 1000
                    samples[name].append(measure(port, process.pid, n, args.tokens, first))
    finally:
        for _, process in servers.values():
            process.send_signal(signal.SIGTERM)
        for _, process in servers.values():
            process.wait(60)
    for n in args.streams:
        for name in commands:
            rows = [row for row in samples[name] if row["streams"] == n]
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            print(
                f"{n:4} streams  {name:12} {middle['tokens_per_s']:8.0f} tokens/s  first "
                f"{middle['first_p50_ms']:7.1f} / {middle['first_p99_ms']:7.1f} ms  gap "
                f"{middle['gap_p50_ms']:6.2f} / {middle['gap_p99_ms']:6.2f} ms  "
                f"{middle['memory_mib']:6.0f} MiB"
            )
    if args.no_save:
        return
    RESULTS.mkdir(exist_ok=True)
    date = datetime.date.today().isoformat()
    path = RESULTS / f"{date}_serve_{platform.machine()}.json"
    report = {
        "commit": commit(), "cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)),
        "command": sys.argv, "commands": commands, "samples": samples,
    }  # fmt: skip
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
