"""Trains in forked children that are killed at random instants.

    python killing.py CORPUS OUT KILLS PROCESSES

Every child appends a line per step to OUT/figures; the last one runs to the end. Prints how many
children were killed while they trained.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from random import Random

import torch

from codellama.train.loop import Trainer
from codellama.train.parallel import World, world
from codellama.train.progress import StepReport
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES

OVERRIDES = (
    "save_every_s=0.0",
    "model.n_layers=1",
    "stages.0.row_length=96",
    "stages.1.row_length=96",
    "stages.2.row_length=128",
    *(f"stages.{i}.max_tokens={n}" for i, n in enumerate((11_000, 3_000, 1_600))),
)


def train(corpus: CorpusFolder, out: Path, processes: World) -> None:
    """Goes on from whatever is there, to the end."""
    name = "figures" if processes.rank == 0 else os.devnull
    with (out / name).open("a", buffering=1) as figures:

        def report(step: StepReport) -> None:
            line = (step.step, step.loss.hex(), step.grad_norm.hex(), step.lr.hex(), step.skipped)
            figures.write(" ".join(map(str, line)) + "\n")

        trainer = Trainer(Recipe.read(RECIPES / "micro" / "micro.toml", OVERRIDES), out,
                          corpus.sources, report=report, world=processes)  # fmt: skip
        trainer.resume()
        assert trainer.run()


def child(corpus: CorpusFolder, out: Path, rank: int, size: int, port: int) -> int:
    """Starts one process of a run; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    try:
        recipe = Recipe.read(RECIPES / "micro" / "micro.toml", OVERRIDES)
        with world(recipe) as processes:
            train(corpus, out, processes)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def main(corpus_folder: str, out_folder: str, n_kills: int, n_processes: int) -> None:
    torch.set_num_threads(1)
    corpus, out = CorpusFolder(Path(corpus_folder)), Path(out_folder)
    out.mkdir(exist_ok=True)
    random = Random(n_kills)
    n_killed = 0
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [child(corpus, out, rank, n_processes, port) for rank in range(n_processes)]
        if n_killed < n_kills:
            time.sleep(random.uniform(0.05, 0.5 if n_processes == 1 else 3.0))
            for pid in children:  # at once, as when a machine goes
                os.kill(pid, signal.SIGKILL)
        statuses = [os.waitpid(pid, 0)[1] for pid in children]
        if all(map(os.WIFEXITED, statuses)):
            assert not any(map(os.WEXITSTATUS, statuses)), "a child failed by itself"
            break
        n_killed += 1
    sys.stdout.write(f"{n_killed}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
