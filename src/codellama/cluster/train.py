"""Training on a Ray cluster: Ray Train starts the processes, and the loop is the one of torchrun.

A process that is lost ends the others; all are started again and go on from the newest checkpoint,
which lies in the run's folder: a folder that every machine of the cluster sees.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cluster.connection import connect, everywhere, require
from codellama.errors import ConfigError, EngineFailed

if TYPE_CHECKING:
    from codellama.train.recipe import Recipe

_RESTARTS = 3

Work = Callable[[Namespace], int]


def on_cluster(work: Work, args: Namespace, recipe: Recipe, n_workers: int) -> int:
    """Runs `work(args)` in `n_workers` processes that are one process group, with a GPU each where
    the recipe's device is one.

    Paths in `args` are made whole first, since workers start in folders of their own.

    Returns:
        The exit code of the first process.

    Raises:
        ConfigError: `n_workers` is not positive, or the cluster has no such devices for so many.
        EngineFailed: the processes failed again and again.
        MissingExtra: Ray is not installed.
    """
    from codellama.train.parallel import backend

    if n_workers < 1:
        raise ConfigError(f"--workers is {n_workers}; expected 1 or more")
    cpus, gpus = recipe.n_threads or 1, int(recipe.device == "cuda")
    require(connect(), "--workers", n_workers, cpus=cpus, gpus=gpus)
    train, torch = import_module("ray.train"), import_module("ray.train.torch")
    whole = Namespace(**{name: _whole(value) for name, value in vars(args).items()})
    whole.corpus = _whole(args.corpus or recipe.corpus)
    whole.start = None if args.start is None else everywhere(args.start)
    trainer = torch.TorchTrainer(
        _worker,
        train_loop_config={"work": work, "args": whole},
        scaling_config=train.ScalingConfig(
            num_workers=n_workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        torch_config=torch.TorchConfig(
            backend=backend(recipe.device), timeout_s=round(recipe.patience_s)
        ),
        run_config=train.RunConfig(
            name="ray-train",
            storage_path=str(whole.out),
            failure_config=train.FailureConfig(max_failures=_RESTARTS),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise EngineFailed(f"training on the cluster failed: {last[:300]}") from error
    return int(result.return_value)


def _worker(config: dict[str, Any]) -> int:
    """One process of the group; its exit code. What a lost process has left is gone on with."""
    from codellama.train.state import holds_run

    args = config["args"]
    if not args.resume and holds_run(args.out):
        args = Namespace(**{**vars(args), "resume": True})
    work: Work = config["work"]
    return work(args)


def _whole(value: Any) -> Any:
    return value.absolute() if isinstance(value, Path) else value
