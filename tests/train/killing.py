"""Trains in forked children that are killed at random instants: `python killing.py CORPUS OUT N`.

Every child appends a line per step to OUT/figures; the last one runs to the end. Prints how many
children were killed while they trained.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from random import Random

import torch

from codellama.train.loop import Trainer
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


def train(corpus: CorpusFolder, out: Path) -> None:
    """Goes on from whatever is there, to the end."""
    with (out / "figures").open("a", buffering=1) as figures:

        def report(step: StepReport) -> None:
            line = (step.step, step.loss.hex(), step.grad_norm.hex(), step.lr.hex(), step.skipped)
            figures.write(" ".join(map(str, line)) + "\n")

        trainer = Trainer(Recipe.read(RECIPES / "micro" / "micro.toml", OVERRIDES), out,
                          corpus.sources, report=report)  # fmt: skip
        trainer.resume()
        assert trainer.run()


def main(corpus_folder: str, out_folder: str, n_kills: int) -> None:
    torch.set_num_threads(1)
    corpus, out = CorpusFolder(Path(corpus_folder)), Path(out_folder)
    out.mkdir(exist_ok=True)
    random = Random(n_kills)
    n_killed = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                train(corpus, out)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        if n_killed < n_kills:
            time.sleep(random.uniform(0.05, 0.5))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "a child failed by itself"
            break
        n_killed += 1
    sys.stdout.write(f"{n_killed}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
