"""Training speed beside two others, in one process, turn by turn, on the same model and text.

    python benchmarks/train.py [--corpus build/corpus] [--steps 4] [--repeat 5] [--threads 2]
                               [--compile] [--no-save]

The model is nano-cpu's (4.2M parameters, vocabulary 8192), a step is 8 rows of 512 tokens in
bfloat16 with AdamW, a learning rate of 1e-3 and clipping at 1:

- `ours`: the loop of `codellama train`, from the corpus: rows are drawn, cut for infilling, packed
  and masked by document while the clock runs.
- `trainer`: `transformers.Trainer` with `LlamaForCausalLM` on rows that lie ready. Needs
  `pip install accelerate`.
- `eager`: a loop in the manner of nanoGPT, a plain PyTorch decoder with fused AdamW, on the same.

The two others attend over whole rows, since neither knows documents. Each turn is `--steps` steps
of one of them; speed is the median over turns of tokens a second, all positions counted, and what
is reported is its ratio to ours, and CPU seconds a step where the machine is shared. Writes
`results/<date>_train_<machine>.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from record import RESULTS, commit, now, save
from torch import Tensor, nn

from codellama.bench.machine import cpu_name
from codellama.train.arithmetic import flop_per_token
from codellama.train.batch import model_config
from codellama.train.data import RowStream
from codellama.train.loop import Trainer
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/nano-cpu/nano-cpu.toml"
STAGE = (
    'stages.0.optimiser={kind = "adamw", adamw_lr = 0.001, weight_decay = 0.1, eps = 1e-8}',
    "stages.0.schedule={warmup_steps = 0}",
    "stages.0.mix={python = 0.8, function = 0.2}",
    "stages.0.max_tokens=1000000000",
    "save_every_s=1e9",
    "eval_every_s=1e9",
)


class Block(nn.Module):
    """A decoder block as one writes it first."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(dim, 1e-5), nn.RMSNorm(dim, 1e-5)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate, self.up = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.down = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(d, -1)
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        q, k = (torch.cat((y1 * cos - y2 * sin, y2 * cos + y1 * sin), -1)
                for y1, y2 in (y.chunk(2, -1) for y in (q, k)))  # fmt: skip
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        m = recipe.model
        self.embed = nn.Embedding(m.vocab_size, m.dim)
        self.blocks = nn.ModuleList(Block(m.dim, m.n_heads, m.ffn_dim) for _ in range(m.n_layers))
        self.norm = nn.RMSNorm(m.dim, 1e-5)
        half = torch.arange(0, m.head_dim, 2) / m.head_dim
        angles = torch.arange(recipe.stages[0].row_length)[:, None] / 1e4**half
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def ours(recipe: Recipe, corpus: CorpusFolder, folder: Path, steps: int) -> Iterator[None]:
    """Gives way after every `steps` steps of the loop."""
    import threading

    go, done = threading.Semaphore(0), threading.Semaphore(0)
    n = 0

    def report(_: object) -> None:
        nonlocal n
        n += 1
        if n % steps == 0:
            done.release()
            go.acquire()

    trainer = Trainer(recipe, folder, corpus.sources, report=report)
    thread = threading.Thread(target=trainer.run, daemon=True)
    thread.start()
    while True:
        done.acquire()
        yield
        go.release()


def eager(recipe: Recipe, batches: list[tuple[Tensor, Tensor]], steps: int) -> Iterator[None]:
    model = Decoder(recipe)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.1, fused=True)
    at = 0
    while True:
        for _ in range(steps):
            tokens, labels = batches[at % len(batches)]
            at += 1
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(tokens, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        yield


def trainer(
    recipe: Recipe, batches: list[tuple[Tensor, Tensor]], folder: Path, steps: int
) -> Iterator[None]:
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
    from transformers import Trainer as Theirs

    stage = recipe.stages[0]
    config = LlamaConfig(**model_config(recipe, stage).to_hf(), attn_implementation="sdpa")
    model = LlamaForCausalLM(config)
    rows = [
        {"input_ids": tokens[i], "labels": tokens[i]}
        for tokens, _ in batches
        for i in range(len(tokens))
    ] * steps
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=stage.rows_per_step, bf16=True,
        use_cpu=True, max_steps=steps, learning_rate=1e-3, adam_beta2=0.95, weight_decay=0.1,
        max_grad_norm=1.0, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, lr_scheduler_type="constant", dataloader_num_workers=0,
    )  # fmt: skip
    theirs = Theirs(model=model, args=arguments, train_dataset=rows)
    while True:
        theirs.train()
        yield


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, default=ROOT / "build/corpus")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="ours with compiled blocks")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    more = (*STAGE, f"compile={str(args.compile).lower()}", f"n_threads={args.threads}")
    recipe = Recipe.read(RECIPE, more)
    stage, corpus = recipe.stages[0], CorpusFolder(args.corpus)
    stream = iter(RowStream(corpus.sources(stage), stage.mix, stage.row_length, 1))
    batches = []
    for _ in range(args.steps):
        rows = list(islice(stream, stage.rows_per_step))
        tokens, labels = (torch.from_numpy(np.stack([getattr(r, n) for r in rows]))
                          for n in ("tokens", "labels"))  # fmt: skip
        batches.append((tokens, labels))
    tokens_per_turn = stage.rows_per_step * stage.row_length * args.steps
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, Iterator[None]] = {
            "ours": ours(recipe, corpus, Path(folder) / "ours", args.steps),
            "eager": eager(recipe, batches, args.steps),
        }
        if importlib.util.find_spec("accelerate") is None:
            print("no `trainer`: pip install accelerate", file=sys.stderr)
        else:
            runners["trainer"] = trainer(recipe, batches, Path(folder) / "hf", args.steps)
        found = measure(runners, args.repeat, tokens_per_turn)
    flop = flop_per_token(model_config(recipe, stage), stage.row_length)
    for name, entry in found.items():
        entry["median_tokens_per_s"] = statistics.median(entry["tokens_per_s"])
        entry["median_cpu_s_per_step"] = statistics.median(entry["cpu_s"]) / args.steps
        entry["gflops"] = entry["median_tokens_per_s"] * flop / 1e9
        ours_cpu = found["ours"]["median_cpu_s_per_step"]
        entry["ours_faster_by"] = (
            found["ours"]["median_tokens_per_s"] / entry["median_tokens_per_s"]
        )
        entry["ours_cpu_less_by"] = entry["median_cpu_s_per_step"] / ours_cpu
        print(
            f"{name:8} {entry['median_tokens_per_s']:9,.0f} tok/s {entry['gflops']:6.0f} GFLOP/s "
            f"{entry['median_cpu_s_per_step']:6.2f} CPU s a step; ours is "
            f"{entry['ours_faster_by']:.2f}x as fast, {entry['ours_cpu_less_by']:.2f}x in CPU time"
        )
    if args.no_save:
        return
    result = {
        "commit": commit(), "command": " ".join(sys.argv), "machine": cpu_name(),
        "threads": args.threads, "torch": torch.__version__, "found": found,
    }  # fmt: skip
    hardware = cpu_name().split("@")[0].strip().replace(" ", "-")
    save(result, RESULTS / f"{now()[:10]}_train_{hardware}.json")


def measure(
    runners: dict[str, Iterator[None]], repeat: int, tokens: int
) -> dict[str, dict[str, Any]]:
    """Wall and CPU time of every turn, in turns; the first of each only warms up."""
    found: dict[str, dict[str, Any]] = {n: {"tokens_per_s": [], "cpu_s": []} for n in runners}
    clocks: tuple[Callable[[], float], Callable[[], float]] = (time.perf_counter, time.process_time)
    for turn in range(repeat + 1):
        for name, runner in runners.items():
            wall, cpu = (clock() for clock in clocks)
            next(runner)
            wall, cpu = clocks[0]() - wall, clocks[1]() - cpu
            if turn:
                found[name]["tokens_per_s"].append(tokens / wall)
                found[name]["cpu_s"].append(cpu)
    return found


if __name__ == "__main__":
    main()
