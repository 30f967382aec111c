"""Builds a trainer in several processes and looks at its weights before any step.

    torchrun ... initial.py CORPUS OUT TENSOR_PARALLEL

Process 0 writes all weights, gathered, to OUT/weights.safetensors, and every process how many
numbers it keeps itself to OUT/RANK. What is drawn on the way is never more than one parameter.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from codellama.train import loop, parallel
from codellama.train.parallel import world
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES


def main(corpus: Path, out: Path, tensor_parallel: int) -> None:
    recipe = Recipe.read(RECIPES / "micro" / "micro.toml", (f"tensor_parallel={tensor_parallel}",))

    def shard_what_has_no_storage(objective: parallel.Objective, *rest: Any) -> Any:
        assert all(p.is_meta for p in objective.parameters()), "it was built before it was shared"
        return parallel.shard(objective, *rest)

    with world(recipe) as processes, patch.object(loop, "shard", shard_what_has_no_storage):
        trainer = loop.Trainer(recipe, out, CorpusFolder(corpus).sources, world=processes)
        kept = [p.to_local() if isinstance(p, DTensor) else p for p in trainer.model.parameters()]
        (out / str(processes.rank)).write_text(str(sum(p.numel() for p in kept)))
        weights = trainer.weights()
        if processes.rank == 0:
            save_file(weights, out / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
