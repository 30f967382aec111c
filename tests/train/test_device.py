"""Whatever the device, everything a step needs is made on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codellama.cli.main import main
from codellama.errors import ConfigError
from codellama.model.transformer import Transformer
from codellama.train.batch import RowBatch, batch_loss, model_config
from codellama.train.data import Sample, pack
from codellama.train.recipe import Recipe
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"
ROWS = pack([Sample([1, *range(3, 3 + n)]) for n in (30, 12, 50, 7, 21)], 64)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_loss_stays_on_its_device(one_by_one: bool) -> None:
    """On the meta device, which refuses to mix with any other."""
    recipe = Recipe.read(MICRO)
    with torch.device("meta"):
        model = Transformer(model_config(recipe, recipe.stages[0]))
    batch = RowBatch.of(ROWS, torch.device("meta"), one_by_one=one_by_one)
    with torch.no_grad():
        assert batch_loss(model, batch).device.type == "meta"


def test_documents_one_by_one_are_documents_under_a_mask() -> None:
    recipe = Recipe.read(MICRO)
    torch.manual_seed(0)
    model = Transformer(model_config(recipe, recipe.stages[0]))
    found = {}
    for one_by_one in (False, True):
        batch = RowBatch.of(ROWS, one_by_one=one_by_one)
        loss = batch_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        found[one_by_one] = float(loss.detach()), model.embed_tokens.weight.grad
        model.zero_grad()
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-6)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-4, atol=1e-5)
    starts = RowBatch.of(ROWS, one_by_one=True).starts
    assert starts[0] == 0
    assert starts[-1] == 64 * len(ROWS)
    documents = np.concatenate([row.document + 100 * i for i, row in enumerate(ROWS)])
    assert [documents[a] for a in starts[:-1]] == list(dict.fromkeys(documents))


def test_the_gpu_recipe_trains_two_steps_on_a_processor(
    corpus_folder: Path, tmp_path: Path
) -> None:
    """All that `make nano-gpu` does but its size and its device."""
    small = {"model.dim": 64, "model.n_layers": 1, "model.n_heads": 4, "model.n_kv_heads": 2,
             "model.head_dim": 16, "model.ffn_dim": 64, "model.vocab_size": 512,
             "compile": "false"}  # fmt: skip
    for i, length in enumerate((64, 64, 128, 256)):
        small |= {f"stages.{i}.row_length": length, f"stages.{i}.rows_per_step": 2,
                  f"stages.{i}.rows_at_once": 1, f"stages.{i}.max_tokens": length}  # fmt: skip
    sets = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    run = ["train", str(RECIPES / "nano" / "nano.toml"), "--corpus", str(corpus_folder), "--out",
           str(tmp_path), "--device", "cpu", "--resume", *sets]  # fmt: skip
    assert main(run) == 0
    steps = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {s["stage"] for s in steps} == {"code", "python", "long", "chat"}
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_device_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'tpu' is not one of cpu, cuda"):
        replace(Recipe.read(MICRO), device="tpu")
