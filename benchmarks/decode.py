"""Single-stream decode of the shipped model: this package against `transformers`.

Both run the same weights in float32 on the same prompt, interleaved in one process with the same
number of threads, and nothing is guessed ahead; each figure is the median of the repetitions.
Writes `results/<date>_decode_<machine>.json` beside this file.

    python benchmarks/decode.py [--repeat 5] [--tokens 200] [--no-save]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import RESULTS, head, save
from transformers import AutoModelForCausalLM

from codellama import LLM, SamplingParams, _native
from codellama.bench.machine import cpu_name
from codellama.checkpoint.convert import convert
from codellama.checkpoint.hub import resolve

PROMPT = 'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    n_threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(n_threads)

    llm = LLM.load("nano", n_threads=n_threads, speculation="off")
    params = SamplingParams(temperature=0.0, max_tokens=args.tokens, ignore_eos=True)
    prompt = torch.tensor([llm.tokenizer.encode(PROMPT, bos=True)])
    with tempfile.TemporaryDirectory() as folder:
        convert(resolve("nano"), Path(folder) / "nano", dtype="F32")
        peer = AutoModelForCausalLM.from_pretrained(Path(folder) / "nano", dtype="float32")

    def ours() -> list[int]:
        return list(llm.complete(PROMPT, params).token_ids)

    @torch.inference_mode()
    def theirs() -> list[int]:
        out = peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=args.tokens,
            min_new_tokens=args.tokens,
            do_sample=False,
            pad_token_id=2,
        )
        return [int(token) for token in out[0, prompt.shape[1] :]]

    runs: dict[str, list[float]] = {"codellama": [], "transformers": []}
    for i in range(args.repeat + 1):  # the first round warms up
        for name, generate in (("codellama", ours), ("transformers", theirs)):
            start = time.perf_counter()
            ids = generate()
            elapsed = time.perf_counter() - start
            if len(ids) != args.tokens:
                sys.exit(f"{name} gave {len(ids)} tokens instead of {args.tokens}")
            if i:
                runs[name].append(args.tokens / elapsed)
    medians = {name: statistics.median(values) for name, values in runs.items()}
    ratio = medians["codellama"] / medians["transformers"]
    for name, values in runs.items():
        print(f"{name:13} {medians[name]:8.0f} tok/s   [{min(values):.0f}-{max(values):.0f}]")
    print(f"ratio         {ratio:8.1f} x")
    if args.no_save:
        return
    record = head("decode, one stream, nano, float32, prompt and tokens included in the time")
    record |= {
        "date": record["date"][:10],
        "cpu": cpu_name(),
        "n_threads": n_threads,
        "simd": _native.simd_levels()[-1],
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("codellama", "torch", "transformers", "numpy")
        },
        "tokens": args.tokens,
        "tok_s": runs,
        "median_tok_s": medians,
        "ratio": ratio,
    }
    path = RESULTS / f"{record['date']}_decode_{cpu_name().replace(' ', '-')}.json"
    save(record, path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
