"""Decoding with and without guessing ahead, on text that repeats itself and on text that does not.

    python benchmarks/speculation.py [--shapes nano,1.1B] [--tokens 256] [--repeat 5] [--no-save]

What is measured, for each model, decode only, runs with and without look-up interleaved:

- `edit`: the prompt is a file of 300 lines (`--lines`), and the reply the same file with one line
  changed.
- `other`: the same prompt, and the reply is another file, which repeats little of it.
- `noise`: the same prompt, and the reply is drawn by lot: what looking in vain costs.
- `own`: nano alone; its own greedy reply to a prompt that it goes on repeating.

But for `own` the reply is dictated: the model computes every step as always and its logits are
sampled as always, but the token that counts is the next one of the text. Models with random weights
write no given file otherwise, nor does nano at this length; look-up, verification and what they
cost are the real ones.

Then, for each model, what a step of m rows of one sequence costs, as a share of a step of one:
where `draft_cost` of `EnginePlan` comes from. Writes `results/<date>_speculation_<machine>.json`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, head, save

from codellama import SamplingParams, checkpoint
from codellama.bench import shapes
from codellama.bench.machine import cpu_name
from codellama.checkpoint.hub import resolve
from codellama.engine.completion import Completion
from codellama.engine.engine import Engine
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.sampler import native_kernel
from codellama.runners import Batch, Runner, load_runner

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "speculation"
SOURCE = ROOT / "src/codellama/engine/llm.py"
OTHER = ROOT / "src/codellama/train/data.py"
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)


class Dictation:
    """The native sampler, whose draws are those of a text; with none, its own."""

    def __init__(self) -> None:
        self.reply: Sequence[int] | None = None
        self._kernel = native_kernel()

    def sample(self, logits: Any, *arrays: Any) -> Any:
        ids, logprobs = self._kernel.sample(logits, *arrays)
        if self.reply is not None:
            counter = arrays[8]
            ids = np.array([self.reply[int(i)] for i in counter], np.int32)
        return ids, logprobs

    def top_logprobs(self, logits: Any, k: int) -> Any:
        return self._kernel.top_logprobs(logits, k)


def models(wanted: Sequence[str]) -> dict[str, Path]:
    found = {"nano": Path(resolve("nano"))} if "nano" in wanted else {}
    for name, mix in (("1.1B-Q4_0", "q4_0-pure"), ("1.1B-Q8_0", "q8_0")):
        if name in wanted or "1.1B" in wanted:
            found[name] = BUILD / f"{name}.gguf"
            if not found[name].exists():
                config = replace(shapes.SHAPES["1.1b"], max_seq_len=16384)
                tokenizer = checkpoint.open(resolve("nano")).tokenizer()
                shapes.write(found[name], config, mix, tokenizer)
    return found


def texts(tokenizer: Any, n_lines: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids of the prompt, of the file with one line changed, of another file, of a short prompt."""
    lines = SOURCE.read_text().splitlines(keepends=True)[:n_lines]
    changed = [*lines[:6], "from itertools import pairwise\n", *lines[7:]]
    prompt = f"{''.join(lines)}\n\n# The same file, with one line changed.\n"
    other = OTHER.read_text()
    short = "".join(lines[45:60])
    return (
        tokenizer.encode(prompt, bos=True),
        tokenizer.encode_bare("".join(changed)),
        tokenizer.encode_bare(other),
        tokenizer.encode(short + "\n\n" + short, bos=True),
    )


def complete(engine: Engine, ids: list[int], params: SamplingParams) -> Completion:
    engine.add(Prompt(ids=tuple(ids), stop_ids=frozenset(), bare=True), params)
    while True:
        for output in engine.step():
            if output.piece.completion is not None:
                return output.piece.completion


def compare(engine: Engine, ids: list[int], n_tokens: int, repeat: int) -> dict[str, Any]:
    """Decode speed both ways; the first round warms up and fills the cache with the prompt."""
    speeds: dict[str, list[float]] = {"off": [], "lookup": []}
    said = set()
    for i in range(repeat + 1):
        for way in speeds:
            params = SamplingParams(
                temperature=0.0, max_tokens=n_tokens, draft_tokens=0 if way == "off" else None
            )
            reply = complete(engine, ids, params)
            said.add(reply.token_ids)
            assert reply.timings.tokens_per_s is not None
            if i:
                speeds[way].append(reply.timings.tokens_per_s)
            if way == "lookup":
                timings = reply.timings
    if len(said) != 1:
        sys.exit("the replies differ")
    medians = {way: statistics.median(values) for way, values in speeds.items()}
    pairs = [b / a for a, b in zip(speeds["off"], speeds["lookup"], strict=True)]
    return {
        "prompt_tokens": len(ids),
        "tokens": timings.completion_tokens,
        "drafted": timings.drafted_tokens,
        "accepted": timings.accepted_tokens,
        "tok_s": speeds,
        "median_tok_s": medians,
        "ratio": medians["lookup"] / medians["off"],
        "median_of_ratios": statistics.median(pairs),
    }


def row_costs(runner: Runner, context: int, repeat: int) -> dict[int, float]:
    """Seconds of a step of m rows of one sequence, all with logits."""
    seconds: dict[int, list[float]] = {m: [] for m in ROWS}
    table = np.arange(runner.n_blocks, dtype=np.int32)[None]
    for _ in range(repeat):
        for m in ROWS:
            batch = Batch(
                tokens=np.full(m, 5, np.int32),
                positions=np.arange(context, context + m, dtype=np.int32),
                seq_starts=np.array([0, m], np.int32),
                context_lens=np.array([context + m], np.int32),
                block_tables=table,
                logit_rows=np.arange(m, dtype=np.int32),
            )
            start = time.perf_counter()
            runner.run(batch)
            seconds[m].append(time.perf_counter() - start)
    return {m: statistics.median(values) for m, values in seconds.items()}


def measure(path: Path, is_nano: bool, args: argparse.Namespace) -> dict[str, Any]:
    reader = checkpoint.open(path)
    tokenizer = reader.tokenizer()
    prompt, edit, other, short = texts(tokenizer, args.lines)
    n_tokens = len(edit) if is_nano else args.tokens
    plan = EnginePlan(max_seq_len=16384, n_blocks=1024, max_num_seqs=1)
    runner = load_runner(
        reader, max_seq_len=plan.max_seq_len, n_blocks=plan.n_blocks, n_threads=args.threads
    )
    kernel = Dictation()
    engine = Engine(runner, tokenizer, plan, kernel)
    found: dict[str, Any] = {}
    noise = np.random.default_rng(0).integers(300, tokenizer.n_vocab, args.tokens).tolist()
    for name, ids, reply, n in (
        ("edit", prompt, edit, n_tokens),
        ("other", prompt, other, args.tokens),
        ("noise", prompt, noise, args.tokens),
        ("own", short, None, 300),
    ):
        if name not in args.cases.split(",") or (name == "own" and not is_nano):
            continue
        kernel.reply = reply
        found[name] = compare(engine, ids, n, args.repeat)
    seconds = row_costs(runner, 256, max(args.repeat, 100 if is_nano else 5))
    found["row_s"] = seconds
    found["row_cost"] = {m: (s / seconds[1] - 1) / (m - 1) for m, s in seconds.items() if m > 1}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="nano,1.1B", help="also 1.1B-Q4_0, 1.1B-Q8_0")
    parser.add_argument("--lines", type=int, default=300, help="of the file in the prompt")
    parser.add_argument("--cases", default="edit,other,noise,own")
    parser.add_argument("--tokens", type=int, default=256, help="of a reply, where not nano's")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for name, path in models(args.shapes.split(",")).items():
        found = results[name] = measure(path, name == "nano", args)
        for case in args.cases.split(","):
            if case in found:
                it = found[case]
                print(
                    f"{name:10} {case:6} {it['median_tok_s']['off']:8.1f} -> "
                    f"{it['median_tok_s']['lookup']:8.1f} tok/s  {it['ratio']:5.2f} x  "
                    f"(of pairs {it['median_of_ratios']:.2f})  "
                    f"{it['accepted']}/{it['drafted']} accepted, {it['tokens']} tokens "
                    f"behind {it['prompt_tokens']}",
                    flush=True,
                )
        costs = ", ".join(f"{m}: {cost:.2f}" for m, cost in found["row_cost"].items())
        print(f"{name:10} cost of a row in a step of m rows: {costs}", flush=True)
    if args.no_save:
        return
    record = head("decode with prompt look-up against without, one stream, greedy")
    record |= {
        "date": record["date"][:10],
        "cpu": cpu_name(),
        "models": results,
    }
    path = RESULTS / f"{record['date']}_speculation_{cpu_name().replace(' ', '-')}.json"
    save(record, path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
