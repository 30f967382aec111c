"""Our server beside llama.cpp's and vLLM: the same model and prompts, 1 to 128 streams.

Servers run one at a time, each in turn in every round, so that none waits for another's threads.
For each number of streams: tokens a second in all, time to the first text (median and p99), gap
between parts (median and p99), and the server's memory. "llama" is `llama-server` where
`make bench-tools` built it, else the server of llama-cpp-python; "vllm" is vLLM on the CPU.
`make bench-serve` installs both. Writes `results/<date>_serve_<machine>.json`, which
`serve_table.py` turns into Markdown.

    python benchmarks/serve.py [--servers ours llama vllm] [--model nano 1.1b]
        [--streams 1 8 32 128] [--tokens 64] [--rounds 3] [--no-save]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from load import Stream, percentile, stream
from machine import commit

from codellama.bench import machine
from codellama.bench.shapes import random_model
from codellama.checkpoint.hub import resolve

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BUILD = HERE.parent / "build"
SERVERS = ("ours", "llama", "vllm")
MODELS = ("nano", "1.1b")
_CONTEXT = 512  # tokens of a stream, at most
_SLOTS = 128  # streams that a server may run at a time
_UP_S = 1200
_FORMATS = {"nano": "f32", "1.1b": "q8_0"}


class NotHere(Exception):
    """A server that this machine lacks; the message says how to get it."""


def gguf_of(model: str) -> Path:
    """The file that ours and llama.cpp's run."""
    if model != "nano":
        return random_model(model, _FORMATS[model], BUILD / "bench")
    path = BUILD / "bench" / "nano-f32.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _run("quantize", "nano", path, "--format", "f32", "--quiet")
    return path


def folder_of(model: str) -> Path:
    """The same for vLLM, which runs no block format on a CPU: bfloat16 in place of q8_0."""
    if model == "nano":
        return Path(resolve("nano"))
    path = BUILD / "bench" / f"{model}-bf16"
    if not path.exists():
        _run("convert", gguf_of(model), path, "--dtype", "bf16", "--quiet")
    return path


def _run(verb: str, *words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "codellama", verb, *map(str, words)], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip


def command(server: str, model: str, port: int, threads: int) -> tuple[list[str], dict[str, str]]:
    """How a server is started, and what its environment has besides.

    Raises:
        NotHere: it is not installed.
    """
    if server == "ours":
        return [
            sys.executable, "-m", "codellama", "serve", f"codellama={gguf_of(model)}",
            "--port", str(port), "--max-num-seqs", str(_SLOTS), "--max-seq-len", str(_CONTEXT),
            "--threads", str(threads), "--log-level", "error",
        ], {}  # fmt: skip
    if server == "llama":
        program = BUILD / "peers" / "llama.cpp" / "bin" / "llama-server"
        if program.exists():
            return [
                str(program), "-m", str(gguf_of(model)), "--port", str(port), "-t", str(threads),
                "-np", str(_SLOTS), "-c", str(_SLOTS * _CONTEXT), "-fa", "on",
            ], {}  # fmt: skip
        python = BUILD / "peers" / "bin" / "python"
        if not python.exists():
            raise NotHere("llama.cpp is not in build/peers: make bench-serve installs it")
        return [
            str(python), "-m", "llama_cpp.server", "--model", str(gguf_of(model)),
            "--port", str(port), "--n_ctx", str(_CONTEXT), "--n_threads", str(threads),
            "--flash_attn", "true", "--interrupt_requests", "false",
        ], {}  # fmt: skip
    python = BUILD / "peers-vllm" / "bin" / "python"
    if not python.exists():
        raise NotHere("vLLM is not in build/peers-vllm: make bench-serve installs it")
    return [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder_of(model)),
        "--served-model-name", "codellama", "--port", str(port), "--max-model-len", str(_CONTEXT),
        "--max-num-seqs", str(_SLOTS), "--disable-log-stats",
    ], {
        "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def resident(pid: int) -> float:
    """MiB of a process and all below it in memory."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = status.read_text().rpartition(")")[2].split()
            child = int(status.parent.name)
            parents[child] = int(words[1])
            sizes[child] = int(words[21]) * os.sysconf("SC_PAGE_SIZE")
    total = 0
    for child, size in sizes.items():
        above = child
        while above not in (pid, 0):
            above = parents.get(above, 0)
        total += size * (above == pid)
    return total / 2**20


@contextlib.contextmanager
def started(words: list[str], more: dict[str, str], port: int, log: Path) -> Any:
    """The server's process, once it answers; it ends with the block."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            words, stdout=said, stderr=said, env={**os.environ, **more}, start_new_session=True
        )
    try:
        end = time.monotonic() + _UP_S
        while True:
            if process.poll() is not None:
                raise SystemExit(f"{words[0]} left with {process.returncode}: see {log}")
            with contextlib.suppress(OSError):
                if asyncio.run(crowd(port, 1, 1, 0))[0].status == 200:
                    break
            if time.monotonic() > end:
                raise SystemExit(f"{words[0]} did not answer in {_UP_S} s: see {log}")
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


async def crowd(port: int, n: int, n_tokens: int, first: int) -> list[Stream]:
    def body(i: int) -> dict[str, Any]:
        prompt = f"def function_{first + i}(value, items):\n    "
        return {
            "model": "codellama", "prompt": prompt, "max_tokens": n_tokens, "temperature": 0.8,
            "seed": i, "ignore_eos": True,
        }  # fmt: skip

    return list(await asyncio.gather(*(stream(port, body(i)) for i in range(n))))


def measure(port: int, pid: int, n: int, n_tokens: int, first: int) -> dict[str, Any]:
    """One crowd's figures. A server that does not know `ignore_eos` may write fewer tokens, so
    parts that came are counted and not what was asked for."""
    began = time.perf_counter()
    found = asyncio.run(crowd(port, n, n_tokens, first))
    took = time.perf_counter() - began
    gaps = [gap for one in found for gap in one.gaps_s]
    firsts = [one.first_s for one in found if one.first_s is not None]
    written = sum(one.n_tokens or one.n_chunks for one in found)
    return {
        "streams": n,
        "complete": sum(one.is_complete for one in found),
        "tokens": written,
        "tokens_per_s": written / took,
        "first_p50_ms": 1000 * percentile(firsts, 0.5),
        "first_p99_ms": 1000 * percentile(firsts, 0.99),
        "gap_p50_ms": 1000 * percentile(gaps, 0.5),
        "gap_p99_ms": 1000 * percentile(gaps, 0.99),
        "memory_mib": resident(pid),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    runs, skipped = [], {}
    for model in args.model:
        samples: dict[str, list[dict[str, Any]]] = {}
        commands: dict[str, str] = {}
        for number in range(args.rounds):
            for server in args.servers:
                port = free_port()
                try:
                    words, more = command(server, model, port, args.threads)
                except NotHere as reason:
                    skipped[server] = str(reason)
                    continue
                commands[server] = " ".join(words).replace(f"{HERE.parent}/", "")
                BUILD.mkdir(exist_ok=True)
                with started(words, more, port, BUILD / f"serve-{server}.log") as process:
                    measure(port, process.pid, 2, 8, 10_000)  # the first requests warm up
                    for n in args.streams:
                        row = measure(port, process.pid, n, args.tokens, 1000 * number)
                        samples.setdefault(server, []).append(row)
                        print(f"{model} {server:6} {row['streams']:4} streams "
                              f"{row['tokens_per_s']:8.0f} tokens/s, first p99 "
                              f"{row['first_p99_ms']:8.0f} ms, {row['memory_mib']:6.0f} MiB",
                              flush=True)  # fmt: skip
        runs.append({
            "model": model, "format": _FORMATS[model], "commands": commands, "samples": samples,
        })  # fmt: skip
    for server, reason in skipped.items():
        print(f"left out: {server}: {reason}")
    if args.no_save or not any(run["samples"] for run in runs):
        return int(not runs[0]["samples"])
    record = {
        "theme": "streams of completions from servers on one machine",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(["python benchmarks/serve.py", *sys.argv[1:]]),
        "machine": machine.describe(),
        "threads": args.threads,
        "tokens": args.tokens,
        "rounds": args.rounds,
        "skipped": skipped,
        "runs": runs,
    }
    name = "-".join(machine.cpu_name().split()[:2]) or "machine"
    path = RESULTS / f"{record['date'][:10]}_serve_{name}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
