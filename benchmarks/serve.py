"""Our server beside llama.cpp's and vLLM: the same model and prompts, 1 to 128 streams.

Servers run one at a time, each in turn in every round, so that none waits for another's threads.
For each number of streams: tokens a second in all, time to the first text (median and p99), gap
between parts (median and p99), and the server's memory. "llama" is `llama-server` where
`make bench-tools` built it, else the server of llama-cpp-python; "vllm" is vLLM on the CPU.
`make bench-serve` installs both. Writes `results/<date>_serve_<machine>.json`, which
`serve_table.py` turns into Markdown. A server's samples are saved as soon as it has ended, and
`--into` adds to a file that is there, so that hours of this may be had in pieces.

    python benchmarks/serve.py [--servers ours llama vllm] [--model nano 1.1b]
        [--streams 1 8 32 128] [--tokens 64] [--rounds 3] [--into RESULT.json | --no-save]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
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
from record import RESULTS, commit, head, save

from codellama.bench import machine
from codellama.bench.shapes import random_model
from codellama.checkpoint.hub import resolve

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
SERVERS = ("ours", "llama", "vllm")
MODELS = ("nano", "1.1b")
_CONTEXT = 512  # tokens of a stream, at most
_SLOTS = 128  # streams that a server may run at a time
_UP_S = 1200
_FORMATS = {"nano": "f32", "1.1b": "q8_0"}
_PROMPT = '''def function_{number}(value, items):
    """Returns the sum of those items that are larger than value.

    Items that are no numbers are left out, and an empty list gives zero.
    """
    total = 0
    '''


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


def command(
    server: str, model: str, port: int, threads: int, vllm: Path
) -> tuple[list[str], dict[str, str]]:
    """How a server is started, and what its environment has besides. `vllm` is the Python that
    has vLLM.

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
    if not vllm.exists():
        raise NotHere(f"there is no {vllm}: make bench-serve installs vLLM")
    return [
        str(vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder_of(model)),
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
    """`n` streams at once. Prompts differ in their first tokens, so that no cache has them."""

    def body(i: int) -> dict[str, Any]:
        return {
            "model": "codellama", "prompt": _PROMPT.format(number=first + i),
            "max_tokens": n_tokens, "temperature": 0.8, "seed": i, "ignore_eos": True,
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


class Record:
    """A result file, which grows by a server's samples at a time."""

    def __init__(self, path: Path | None, args: argparse.Namespace) -> None:
        """Args: path: what is added to; None for a new file."""
        begun = head("streams of completions from servers on one machine")
        self._now = begun["date"]
        name = "-".join(machine.cpu_name().split()[:2]) or "machine"
        self.path = RESULTS / f"{self._now[:10]}_serve_{name}.json" if path is None else path
        if path is not None and path.exists():
            self.content = json.loads(path.read_text())
            for key in ("threads", "tokens"):
                if self.content[key] != getattr(args, key):
                    raise SystemExit(f"{path} has {self.content[key]} {key}: add to another file")
            return
        self.content = begun | {
            "machine": machine.describe(),
            "threads": args.threads,
            "tokens": args.tokens,
            "skipped": {},
            "runs": [],
        }

    def add(self, model: str, server: str, words: str, rows: list[dict[str, Any]]) -> None:
        """A server's rows of one round; `words` is how it was started."""
        runs = self.content["runs"]
        run = next((run for run in runs if run["model"] == model), None)
        if run is None:
            run = {"model": model, "format": _FORMATS[model], "commands": {}, "samples": {}}
            runs.append(run)
        run["commands"][server] = words
        more = {"date": self._now, "commit": commit()}
        run["samples"].setdefault(server, []).extend(row | more for row in rows)

    def save(self, skipped: dict[str, str]) -> None:
        seen = {server for run in self.content["runs"] for server in run["samples"]}
        self.content["skipped"] = {k: v for k, v in skipped.items() if k not in seen}
        save(self.content, self.path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--vllm-python", type=Path, default=BUILD / "peers-vllm/bin/python")
    parser.add_argument("--into", type=Path, help="a result that is added to, or begun")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    record, skipped, n_rows = Record(args.into, args), {}, 0
    prompts = itertools.count(int(time.time()) % 10**6 * 1000, 1000)
    for model in args.model:
        for _ in range(args.rounds):
            firsts = [next(prompts) for _ in range(1 + len(args.streams))]
            for server in args.servers:
                port = free_port()
                try:
                    words, more = command(server, model, port, args.threads, args.vllm_python)
                except NotHere as reason:
                    skipped[server] = str(reason)
                    continue
                rows = []
                with started(words, more, port, BUILD / f"serve-{server}.log") as process:
                    measure(port, process.pid, 2, 8, firsts[-1])  # the first requests warm up
                    for n, first in zip(args.streams, firsts, strict=False):
                        rows.append(measure(port, process.pid, n, args.tokens, first))
                        print(f"{model} {server:6} {_words(rows[-1])}", flush=True)
                n_rows += len(rows)
                record.add(model, server, " ".join(words).replace(f"{HERE.parent}/", ""), rows)
                if not args.no_save:
                    record.save(skipped)
    for server, reason in skipped.items():
        print(f"left out: {server}: {reason}")
    if n_rows and not args.no_save:
        print(record.path)
    return int(not n_rows)


def _words(row: dict[str, Any]) -> str:
    return (
        f"{row['streams']:4} streams {row['tokens_per_s']:7.1f} tokens/s, first "
        f"{row['first_p50_ms']:.0f} / {row['first_p99_ms']:.0f} ms, gap "
        f"{row['gap_p50_ms']:.1f} / {row['gap_p99_ms']:.1f} ms, {row['memory_mib']:.0f} MiB"
        + (
            f", {row['streams'] - row['complete']} failed"
            if row["complete"] < row["streams"]
            else ""
        )
    )


if __name__ == "__main__":
    sys.exit(main())
