"""The loop: it learns, it goes on as if never stopped, packed equals alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codellama import checkpoint
from codellama.errors import CheckpointError, ConfigError, TrainingError
from codellama.train.batch import RowBatch, batch_loss
from codellama.train.data import Sample, pack
from codellama.train.export import export
from codellama.train.loop import Trainer
from codellama.train.progress import StepReport
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"
SHORT = tuple(f"stages.{i}.max_tokens={n}" for i, n in enumerate((6000, 3000, 2000)))


@pytest.fixture(scope="module")
def corpus(corpus_folder: Path) -> CorpusFolder:
    return CorpusFolder(corpus_folder)


@pytest.fixture(autouse=True)
def _quiet_threads() -> None:
    torch.set_num_threads(1)


def _trainer(
    corpus: CorpusFolder, out: Path, report: Callable[[StepReport], None] = lambda _: None,
    overrides: tuple[str, ...] = SHORT,
) -> Trainer:  # fmt: skip
    return Trainer(Recipe.read(MICRO, overrides), out, corpus.sources, report=report)


def test_the_loss_falls(corpus: CorpusFolder, tmp_path: Path) -> None:
    steps: list[StepReport] = []
    overrides = ("stages.0.max_tokens=60000", *SHORT[1:])
    assert _trainer(corpus, tmp_path, steps.append, overrides).run()
    assert {s.stage for s in steps} == {"code", "long", "chat"}
    losses = [s.loss for s in steps if s.stage == "code"]
    assert 6.0 < losses[0] < 6.5  # log 512 = 6.24
    assert sum(losses[-5:]) / 5 < 4.5
    assert not any(s.skipped for s in steps)
    assert sorted(p.stem for p in tmp_path.glob("*.safetensors")) == ["chat", "code", "long"]


@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_resumed_equals_uninterrupted(corpus: CorpusFolder, tmp_path: Path, stop_at: int) -> None:
    whole: list[StepReport] = []
    through = _trainer(corpus, tmp_path / "whole", whole.append)
    assert through.run()

    parts: list[StepReport] = []

    def stop(step: StepReport) -> None:
        parts.append(step)
        if step.step == stop_at:
            first._stop()

    first = _trainer(corpus, tmp_path / "parts", stop)
    assert not first.run()
    second = _trainer(corpus, tmp_path / "parts", parts.append)
    assert second.resume()
    assert second.run()

    assert [(s.stage, s.step, s.loss, s.grad_norm, s.lr) for s in parts] == [
        (s.stage, s.step, s.loss, s.grad_norm, s.lr) for s in whole
    ]
    for (name, ours), (_, theirs) in zip(
        second.model.named_parameters(), through.model.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_another_recipe_is_not_resumed(corpus: CorpusFolder, tmp_path: Path) -> None:
    trainer = _trainer(corpus, tmp_path, lambda _: trainer._stop())
    assert not trainer.run()
    other = _trainer(corpus, tmp_path, overrides=(*SHORT, "seed=2"))
    with pytest.raises(CheckpointError, match="another recipe"):
        other.resume()


def test_nothing_to_resume(corpus: CorpusFolder, tmp_path: Path) -> None:
    assert not _trainer(corpus, tmp_path).resume()


def test_a_time_budget_ends_every_stage_decayed(corpus: CorpusFolder, tmp_path: Path) -> None:
    steps: list[StepReport] = []
    recipe = replace(Recipe.read(MICRO), time_budget_min=2 / 60)
    assert Trainer(recipe, tmp_path, corpus.sources, report=steps.append).run()
    assert {s.stage for s in steps} == {"code", "long", "chat"}
    tokens = {s.stage: s.tokens for s in steps}
    assert tokens["code"] < 60_000


def test_a_bad_step_is_left_out(
    corpus: CorpusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[StepReport] = []
    trainer = _trainer(corpus, tmp_path, steps.append)
    honest = trainer._loss

    def poisoned(*args: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = honest(*args)
        return loss * float("nan") if len(steps) == 2 else loss

    monkeypatch.setattr(trainer, "_loss", poisoned)
    assert trainer.run()
    assert [s.step for s in steps if s.skipped] == [3]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_three_bad_steps_in_a_row_stop_the_run(
    corpus: CorpusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[StepReport] = []
    trainer = _trainer(corpus, tmp_path, steps.append)
    honest = trainer._loss
    monkeypatch.setattr(
        trainer, "_loss", lambda *a: honest(*a) * (float("nan") if len(steps) >= 2 else 1.0)
    )
    before = {name: weight.clone() for name, weight in trainer.weights().items()}
    with pytest.raises(TrainingError, match=r"stage code: 3 steps in a row .* step 5"):
        trainer.run()
    assert [s.skipped for s in steps] == [False, False, True, True, True]
    assert steps[-1].rows["row"] == 16  # where in the window the bad rows begin
    assert all(torch.isfinite(t).all() for t in trainer.weights().values())
    assert any(not torch.equal(t, before[n]) for n, t in trainer.weights().items())


def test_a_run_starts_from_a_model(corpus: CorpusFolder, tmp_path: Path) -> None:
    first = _trainer(corpus, tmp_path / "first", overrides=(*SHORT, "seed=5"))
    export(first.recipe, first.weights(), corpus.tokenizer, tmp_path / "model", dtype="F32")
    second = _trainer(corpus, tmp_path / "second")
    reader = checkpoint.open(tmp_path / "model")
    second.start_from(reader)
    for name, weight in first.weights().items():
        assert torch.equal(second.weights()[name], weight), name
    other = _trainer(corpus, tmp_path / "other", overrides=(*SHORT, "model.n_layers=1"))
    with pytest.raises(ConfigError, match="`n_layers` is 2, and micro has 1"):
        other.start_from(reader)
    larger = _trainer(corpus, tmp_path / "larger", overrides=(*SHORT, "model.vocab_size=514"))
    larger.start_from(reader)
    rows, old = larger.weights()["embed_tokens.weight"], first.weights()["embed_tokens.weight"]
    assert torch.equal(rows[:512], old)
    torch.testing.assert_close(rows[512:], old.mean(0).expand(2, -1))
    wide = _trainer(corpus, tmp_path / "wide", overrides=(*SHORT, "model.vocab_size=1024"))
    with pytest.raises(ConfigError, match="a vocabulary of 512, and micro has 1024"):
        wide.start_from(reader)


def test_packed_equals_alone(corpus: CorpusFolder, tmp_path: Path) -> None:
    model = _trainer(corpus, tmp_path).model
    generator = torch.Generator().manual_seed(4)
    samples = [
        Sample([1, *torch.randint(3, 500, (n,), generator=generator).tolist()])
        for n in (30, 12, 50, 7, 21)
    ]
    with torch.no_grad():
        together = sum(
            float(batch_loss(model, RowBatch.of([r], one_by_one=False))) for r in pack(samples, 128)
        )
        alone = sum(
            float(batch_loss(model, RowBatch.of(pack([s], 64), one_by_one=False))) for s in samples
        )
    assert together == pytest.approx(alone, rel=1e-5)


def test_evaluations_are_logged(corpus: CorpusFolder, tmp_path: Path) -> None:
    recipe = Recipe.read(MICRO, SHORT)
    trainer = Trainer(
        recipe, tmp_path, corpus.sources, evaluate=lambda model, score: {"figure": 1.5}
    )
    assert trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["figure"]) for line in lines] == [
        ("code", 1.5), ("long", 1.5), ("chat", 1.5),
    ]  # fmt: skip
