"""The loop against an outside one: `transformers`' model, plain torch AdamW, the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from codellama.train.batch import model_config
from codellama.train.data import Row, RowStream
from codellama.train.loop import Trainer
from codellama.train.progress import StepReport
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES

N_STEPS = 50
OVERRIDES = (
    "stages.0.max_tokens=1000000",
    "stages.0.row_length=128",
    'stages.0.optimiser={kind = "adamw", adamw_lr = 0.003, weight_decay = 0.1, eps = 1e-5}',
    'stages.0.schedule={kind = "cosine", warmup_steps = 10, end = 0.0333}',
)


def _rows(corpus: CorpusFolder, recipe: Recipe) -> Iterator[list[Row]]:
    stage = recipe.stages[0]
    stream = iter(RowStream(corpus.sources(stage), stage.mix, stage.row_length, recipe.seed))
    while True:
        yield list(islice(stream, stage.rows_per_step))


def _theirs(corpus: CorpusFolder, recipe: Recipe, start: dict[str, torch.Tensor]) -> list[float]:
    """Fifty losses by `transformers` and plain torch; every document is run by itself."""
    stage = recipe.stages[0]
    config = model_config(recipe, stage)
    model = LlamaForCausalLM(LlamaConfig(**config.to_hf(), attn_implementation="eager"))
    weights = {f"model.{name}": tensor for name, tensor in start.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.003, betas=(0.9, 0.95), eps=1e-5,
    )  # fmt: skip
    losses, tokens_seen = [], 0
    for step, rows in enumerate(islice(_rows(corpus, recipe), N_STEPS)):
        done = tokens_seen / stage.max_tokens
        cosine = 0.0333 + (1 - 0.0333) * (1 + math.cos(math.pi * done)) / 2
        for group in optimiser.param_groups:
            group["lr"] = 0.003 * cosine * min((step + 1) / 10, 1.0)
        total, n_tokens = torch.zeros(()), 0
        for row in rows:
            for number in range(int(row.document.max()) + 1):
                places = torch.from_numpy(row.document == number)
                labels = torch.from_numpy(row.labels)[places]
                if not bool((labels >= 0).any()):
                    continue
                logits = model(torch.from_numpy(row.tokens)[places][None]).logits[0]
                total = total + F.cross_entropy(logits, labels, reduction="sum")
                n_tokens += int((labels >= 0).sum())
        optimiser.zero_grad()
        (total / n_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(total.detach()) / n_tokens)
        tokens_seen += n_tokens
    return losses


def test_fifty_losses_are_those_of_an_outside_loop(corpus_folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    corpus, recipe = (
        CorpusFolder(corpus_folder),
        Recipe.read(RECIPES / "micro" / "micro.toml", OVERRIDES),
    )
    steps: list[StepReport] = []

    def report(step: StepReport) -> None:
        steps.append(step)
        if len(steps) == N_STEPS:
            trainer._stop()

    trainer = Trainer(recipe, tmp_path, corpus.sources, report=report)
    start = {name: tensor.clone() for name, tensor in trainer.weights().items()}
    assert not trainer.run()
    ours = [step.loss for step in steps]
    assert len(ours) == N_STEPS
    assert sum(ours[-5:]) < 0.9 * sum(ours[:5])
    assert ours == pytest.approx(_theirs(corpus, recipe, start), abs=1e-5)
