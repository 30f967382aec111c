"""`codellama train RECIPE.toml`: carry out a training recipe."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codellama.cli.usage import UsageError
from codellama.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codellama.cli.train_line import ProgressLine
    from codellama.model.transformer import Transformer
    from codellama.train.measure import Score
    from codellama.train.parallel import World
    from codellama.train.recipe import Recipe, Stage
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
        help="print steps, arithmetic, A100 hours, carbon and epochs, and train nothing",
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
        "--evaluate",
        metavar="COMMAND",
        help="run after every stage, {model} being the model's folder; JSON it prints is logged",
    )
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        choices=("tensorboard", "wandb"),
        help="write figures for these as well",
    )
    parser.add_argument(
        "--watts", type=float, help="power of one device, for the energy in cost.json"
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="on a Ray cluster (see `codellama cluster`), by Ray Train; without Ray, torchrun",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes of --cluster (default: 1)"
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
    from codellama.train.recipe import Recipe
    from codellama.train.run import CorpusFolder
    from codellama.train.state import holds_run

    if args.workers != 1 and not args.cluster:
        raise UsageError("--workers are those of --cluster")
    if args.step is not None and args.export is None:
        raise UsageError("--step chooses what to --export, and nothing is to be exported")
    recipe = _recipe(args, Recipe)
    if args.plan:
        from codellama.train.arithmetic import Device
        from codellama.train.plan import epochs, table

        print(table(recipe, Device()))
        report = (args.corpus or recipe.corpus) / "report.json"
        if args.corpus is not None or report.is_file():
            print("\n".join(epochs(recipe, report)))
        return 0
    out: Path = args.out or Path("build") / recipe.name
    # What is missing is said before anything starts.
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
    args.out = out
    if args.evaluate is not None:
        from codellama.train.hook import check_command

        check_command(args.evaluate)
    if args.cluster:
        from codellama.cluster.train import on_cluster

        code = on_cluster(work, args, recipe, args.workers)
        if code == 0:
            print(out / "model")
        return code
    code = work(args)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Threads of gloo may outlive their group, and then abort an interpreter that shuts down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def work(args: argparse.Namespace) -> int:
    """What each process of a run does; the exit code."""
    from codellama.cli.train_line import ProgressLine
    from codellama.train.parallel import world
    from codellama.train.recipe import Recipe
    from codellama.train.run import CorpusFolder

    recipe = _recipe(args, Recipe)
    corpus = CorpusFolder(args.corpus or recipe.corpus)
    with world(recipe) as processes, _log(args.out, processes.rank) as log:
        line = ProgressLine(log)
        try:
            return _train(args, recipe, args.out, corpus, processes, line)
        finally:
            line.close()


def _recipe(args: argparse.Namespace, kind: type[Recipe]) -> Recipe:
    found = kind.read(args.recipe, tuple(args.overrides))
    if args.device is not None:
        found = dataclasses.replace(found, device=args.device)
    if args.time_budget is not None:
        found = dataclasses.replace(found, time_budget_min=args.time_budget)
    return found


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
    progress: ProgressLine,
) -> int:
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve
    from codellama.train.cost import cost, device_at
    from codellama.train.effects import Effects, read_stages, svg, table
    from codellama.train.export import export
    from codellama.train.hook import run_command
    from codellama.train.loop import Trainer
    from codellama.train.measure import BitsPerByte
    from codellama.train.tracking import open_tracker

    held_out = corpus.documents("val-pkg", "python")
    measures = {}
    if held_out:
        length = min(stage.row_length for stage in recipe.stages)
        measures["val-pkg bits/byte"] = BitsPerByte(held_out, corpus.tokenizer, length, 128)
    is_first = processes.rank == 0
    if args.effects and processes.size > 1:
        raise ConfigError("--effects measures with one process, and there are several")
    effects = Effects(corpus, recipe) if args.effects else None

    def evaluate(model: Transformer, score: Score) -> dict[str, float]:
        figures = {name: measure(score) for name, measure in measures.items()}
        figures |= effects(model, recipe.bf16) if effects is not None else {}
        progress.figures(trainer.progress.step, figures)
        return figures

    def after_stage(stage: Stage, weights: Mapping[str, Any]) -> Mapping[str, object]:
        n_stages = recipe.stages.index(stage) + 1
        model = out / "models" / stage.name
        export(recipe, weights, corpus.tokenizer, model, n_stages=n_stages)
        return run_command(args.evaluate, model)

    trainer = Trainer(
        recipe,
        out,
        corpus.sources,
        evaluate=evaluate,
        after_stage=after_stage if args.evaluate is not None else None,
        report=progress.report if is_first else lambda _: None,
        note=progress.note if is_first else lambda _: None,
        world=processes,
    )
    device = device_at(trainer.place, args.watts)
    if is_first:
        peak = device.peak_tflops * 1e12 * processes.size if device is not None else None
        progress.also([open_tracker(name, out, recipe) for name in args.track], peak)
    if args.start is not None:
        trainer.start_from(checkpoint.open(resolve(args.start)))
    if args.resume and not trainer.resume() and is_first:
        progress.note(f"{out} holds no checkpoint; starting from the beginning")
    finished = trainer.run()
    weights = trainer.weights()
    if not is_first:
        return 0 if finished else 130
    progress.draw(out, recipe.name)
    spent = cost(out / "log.jsonl", device, processes.size)
    (out / "cost.json").write_text(json.dumps(spent, indent=1) + "\n", encoding="utf-8")
    if effects is not None and finished:
        stages = read_stages(out / "log.jsonl")
        progress.note(table(stages))
        picture = svg(stages, f"{recipe.name}, on held-out text")
        (out / "effects.svg").write_text(picture, encoding="utf-8")
    if not finished:
        print(f"stopped; go on with: codellama train {args.recipe} --out {out} --resume",
              file=sys.stderr)  # fmt: skip
        return 130
    export(recipe, weights, corpus.tokenizer, out / "model")
    print(out / "model")
    return 0
