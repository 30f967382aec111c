"""`codellama train RECIPE.toml`: carry out a training recipe."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from codellama.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from codellama.model.transformer import Transformer
    from codellama.train.parallel import World
    from codellama.train.progress import StepReport
    from codellama.train.recipe import Recipe
    from codellama.train.run import CorpusFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "recipe", type=Path, help="a recipe, such as recipes/nano-cpu/nano-cpu.toml"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: build/RECIPE'S NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="start from these weights (a path or a hub name), not from random ones",
    )
    parser.add_argument("--corpus", type=Path, help="corpus folder, in place of the recipe's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one value of the recipe, e.g. stages.0.max_tokens=1000000",
    )
    parser.add_argument(
        "--effects",
        action="store_true",
        help="measure after every stage what only that stage should bring down, and draw it",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print steps, arithmetic, A100 hours and carbon, and train nothing",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="in place of the recipe's")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="train nothing; write a checkpoint of --out as a model that every verb opens",
    )
    parser.add_argument(
        "--step", type=int, help="which checkpoint to --export (default: the newest whole one)"
    )
    parser.add_argument(
        "--time-budget", type=float, metavar="MIN", help="minutes for all stages together"
    )


def run(args: argparse.Namespace) -> int:
    """Trains; 0 when the last stage is finished, 130 when a signal stopped the run."""
    # Threads that spin while they wait make a busy machine four times slower. OpenMP reads this
    # once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("`codellama train`", "train")
    from codellama.train.parallel import world
    from codellama.train.recipe import Recipe
    from codellama.train.run import CorpusFolder
    from codellama.train.state import holds_run

    recipe = Recipe.read(args.recipe, tuple(args.overrides))
    if args.device is not None:
        recipe = dataclasses.replace(recipe, device=args.device)
    if args.step is not None and args.export is None:
        raise ConfigError("--step chooses what to --export, and nothing is to be exported")
    if args.time_budget is not None:
        recipe = dataclasses.replace(recipe, time_budget_min=args.time_budget)
    if args.plan:
        from codellama.train.plan import Device, table

        print(table(recipe, Device()))
        return 0
    out: Path = args.out or Path("build") / recipe.name
    corpus = CorpusFolder(args.corpus or recipe.corpus)
    if args.export is not None:
        return _export(args, recipe, out, corpus)
    if not args.resume and holds_run(out):
        raise ConfigError(
            f"{out} already holds a run",
            hint="go on with it by --resume, or give another --out",
        )
    if recipe.lora is not None and args.start is None:
        raise ConfigError(
            f"{recipe.name} trains adapters of a model, and none is given",
            hint="name it by --from; with --resume too, since checkpoints hold the adapters only",
        )
    if args.resume and args.start is not None and recipe.lora is None:
        raise ConfigError("--from starts a run and --resume goes on with one: give either")
    out.mkdir(parents=True, exist_ok=True)
    with world(recipe) as processes, _log(out, processes.rank) as log:
        code = _train(args, recipe, out, corpus, processes, _ProgressLine(log))
    if processes.size > 1:
        # Threads of gloo may outlive their group, and then abort an interpreter that shuts down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _export(args: argparse.Namespace, recipe: Recipe, out: Path, corpus: CorpusFolder) -> int:
    """Writes the model of a checkpoint; 0."""
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve
    from codellama.train.export import export
    from codellama.train.loop import Trainer

    trainer = Trainer(recipe, out, corpus.sources)
    if args.start is not None:
        trainer.start_from(checkpoint.open(resolve(args.start)))
    if not trainer.resume(args.step):
        raise ConfigError(f"{out} holds no checkpoint", hint="say by --out where the run is")
    export(recipe, trainer.weights(), corpus.tokenizer, args.export,
           n_stages=trainer.n_stages_begun())  # fmt: skip
    print(args.export)
    return 0


def _log(out: Path, rank: int) -> TextIO:
    """The run's log; only the first process keeps one."""
    return (out / "log.jsonl" if rank == 0 else Path(os.devnull)).open("a", encoding="utf-8")


def _train(
    args: argparse.Namespace,
    recipe: Recipe,
    out: Path,
    corpus: CorpusFolder,
    processes: World,
    progress: _ProgressLine,
) -> int:
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve
    from codellama.train.effects import Effects, read_stages, svg, table
    from codellama.train.export import export
    from codellama.train.loop import Trainer
    from codellama.train.measure import BitsPerByte

    held_out = corpus.documents("val-pkg", "python")
    measures = {}
    if held_out and processes.size == 1:
        length = min(stage.row_length for stage in recipe.stages)
        measures["val-pkg bits/byte"] = BitsPerByte(held_out, corpus.tokenizer, length, 128)
    is_first = processes.rank == 0
    effects = Effects(corpus, recipe) if args.effects and processes.size == 1 else None

    def evaluate(model: Transformer) -> dict[str, float]:
        figures = {name: m(model, bf16=recipe.bf16) for name, m in measures.items()}
        return figures | (effects(model) if effects is not None else {})

    trainer = Trainer(
        recipe,
        out,
        corpus.sources,
        evaluate=evaluate,
        report=progress.report if is_first else lambda _: None,
        note=progress.note if is_first else lambda _: None,
        world=processes,
    )
    if args.start is not None:
        trainer.start_from(checkpoint.open(resolve(args.start)))
    if args.resume and not trainer.resume() and is_first:
        progress.note(f"{out} holds no checkpoint; starting from the beginning")
    finished = trainer.run()
    weights = trainer.weights()
    if is_first:
        progress.draw(out, recipe.name)
    if effects is not None and finished:
        stages = read_stages(out / "log.jsonl")
        progress.note(table(stages))
        picture = svg(stages, f"{recipe.name}: held-out loss, nats a token")
        (out / "effects.svg").write_text(picture, encoding="utf-8")
    if not is_first:
        return 0 if finished else 130
    if not finished:
        print(f"stopped; go on with: codellama train {args.recipe} --out {out} --resume",
              file=sys.stderr)  # fmt: skip
        return 130
    export(recipe, weights, corpus.tokenizer, out / "model")
    print(out / "model")
    return 0


class _ProgressLine:
    """Writes every step to the log and about one line a second (or a minute) to stderr."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._is_terminal = sys.stderr.isatty()
        self._shown = 0.0
        self._loss: float | None = None
        self._speed: float | None = None

    def report(self, step: StepReport) -> None:
        self._log.write(json.dumps({"event": "step", **dataclasses.asdict(step)}) + "\n")
        if math.isfinite(step.loss):
            self._loss = step.loss if self._loss is None else 0.95 * self._loss + 0.05 * step.loss
        seen = self._speed or step.tokens_per_s
        self._speed = 0.95 * seen + 0.05 * step.tokens_per_s
        now = time.monotonic()
        if now - self._shown < (1 if self._is_terminal else 20):
            return
        self._shown = now
        self._log.flush()
        eta = "" if step.eta_s is None else f"  {step.eta_s / 60:.1f} min left"
        line = (
            f"{step.stage} {step.progress:4.0%}  step {step.step}  loss {step.loss:.3f} "
            f"(~{self._loss:.3f})  lr {step.lr:.2g}  |g| {step.grad_norm:.2f}  "
            f"{self._speed:,.0f} tok/s, {self._speed * step.flop_per_token / 1e9:,.0f} GFLOP/s{eta}"
        )
        end = "" if self._is_terminal else "\n"
        print(
            f"\r\033[K{line}" if self._is_terminal else line, end=end, file=sys.stderr, flush=True
        )

    def draw(self, out: Path, title: str) -> None:
        """Writes the curves of the whole log."""
        from codellama.train.curves import Log, svg

        self._log.flush()
        picture = svg(Log.read(out / "log.jsonl"), title)
        (out / "curves.svg").write_text(picture, encoding="utf-8")

    def note(self, text: str) -> None:
        print(f"\n{text}" if self._is_terminal else text, file=sys.stderr, flush=True)
