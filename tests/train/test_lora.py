"""Adapters: they start as nothing, learn, merge into a plain model, and leave the base alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codellama import checkpoint
from codellama.cli.main import main
from codellama.errors import ConfigError
from codellama.model.transformer import AttentionMetadata, Transformer, initial_weights
from codellama.train.batch import model_config
from codellama.train.export import export
from codellama.train.loop import Trainer
from codellama.train.lora import Adapted, adapt, levels, merged, pack, unpack
from codellama.train.progress import StepReport
from codellama.train.recipe import Lora, Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"
SHORT = (
    *(f"stages.{i}.max_tokens={n}" for i, n in enumerate((8000, 2000, 2000))),
    *(f"stages.{i}.optimiser={{kind='adamw', adamw_lr=0.01}}" for i in range(3)),
)


def _model() -> Transformer:
    recipe = Recipe.read(MICRO)
    model = Transformer(model_config(recipe, recipe.stages[0]))
    model.load_state_dict(
        dict(initial_weights(model, torch.Generator().manual_seed(3))), strict=False
    )
    return model


def _hidden(model: Transformer) -> torch.Tensor:
    tokens = torch.arange(3, 43)
    with torch.no_grad():
        return model(tokens, torch.arange(40), AttentionMetadata(starts=(0, 40)))


def _disturb(model: Transformer) -> None:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.02, generator=generator)


@pytest.mark.parametrize("base", ["float32", "nf4"])
def test_merged_is_adapted(base: str) -> None:
    model, plain = _model(), _model()
    before = _hidden(model)
    adapt(model, Lora(rank=4, base=base), torch.Generator().manual_seed(1))
    torch.testing.assert_close(_hidden(model), before)  # `up` is zero
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2
    assert all(name.endswith((".up", ".down")) for name in trained)
    if base == "nf4":
        for module in model.modules():
            if isinstance(module, Adapted):
                module.take(module.weight)
        assert 0 < float((_hidden(model) - before).abs().max()) < 0.5
    _disturb(model)
    plain.load_state_dict(dict(merged(model)), strict=False)
    torch.testing.assert_close(_hidden(plain), _hidden(model), rtol=1e-4, atol=1e-5)


def test_the_levels_are_the_published_ones() -> None:
    published = [
        -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
        0.0795803, 0.1609302, 0.24611230, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
    ]  # fmt: skip
    torch.testing.assert_close(levels(), torch.tensor(published), rtol=0, atol=2e-6)


def test_packing_takes_the_nearest_level() -> None:
    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(2))
    codes, scales = pack(weight)
    assert (codes.dtype, codes.shape, scales.shape) == (torch.uint8, (6, 64), (6, 2))
    table = levels()[None] * scales.repeat_interleave(64, 1).reshape(-1, 1)
    nearest = (table - weight.reshape(-1, 1)).abs().min(1).values
    torch.testing.assert_close((unpack(codes, scales) - weight).abs().flatten(), nearest)
    zero = unpack(*pack(torch.zeros(2, 64)))
    assert bool((zero == 0).all())


@pytest.mark.parametrize("base", ["float32", "nf4"])
def test_a_run_trains_adapters_and_resumes(corpus_folder: Path, tmp_path: Path, base: str) -> None:
    torch.set_num_threads(1)
    corpus = CorpusFolder(corpus_folder)
    first = Trainer(Recipe.read(MICRO), tmp_path / "base", corpus.sources)
    export(first.recipe, first.weights(), corpus.tokenizer, tmp_path / "model", dtype="F32")
    recipe = Recipe.read(MICRO, (*SHORT, f"lora={{rank=8, base='{base}'}}"))

    def trainer(out: str, to: list[StepReport]) -> Trainer:
        made = Trainer(recipe, tmp_path / out, corpus.sources, report=to.append)
        assert all(p.is_meta for p in made.model.parameters() if not p.requires_grad)
        made.start_from(checkpoint.open(tmp_path / "model"))
        return made

    whole: list[StepReport] = []
    through = trainer("whole", whole)
    kinds = {m.weight.dtype for m in through.model.modules() if isinstance(m, Adapted)}
    assert kinds == {torch.uint8 if base == "nf4" else torch.float32}
    start = {n: w.clone() for n, w in through.weights().items()}
    assert through.run()
    losses = [s.loss for s in whole if s.stage == "code"]
    assert losses[-1] < losses[0] - 0.1
    changed = {n for n, w in through.weights().items() if not torch.equal(w, start[n])}
    assert changed == {n for n in start if n.endswith("proj.weight")}

    parts: list[StepReport] = []
    broken = trainer("parts", parts)
    broken._report = lambda step: (parts.append(step), broken._stop())[0]  # type: ignore[func-returns-value]
    assert not broken.run()
    again = trainer("parts", parts)
    assert again.resume()
    assert again.run()
    assert [s.loss for s in parts] == [s.loss for s in whole]


def test_mistakes_are_named(corpus_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapters are trained by AdamW"):
        Recipe.read(MICRO, ("lora={}",))
    with pytest.raises(ConfigError, match="base 'int3' is not known"):
        Recipe.read(MICRO, ("lora={base='int3'}",))
    with pytest.raises(ConfigError, match="did you mean `rank`"):
        Recipe.read(MICRO, ("lora={ranks=3}",))


def test_adapters_need_a_model(
    corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for item in (*SHORT, "lora={rank=2}") for part in ("--set", item)]
    run = ["train", str(MICRO), "--corpus", str(corpus_folder), "--out", str(tmp_path / "run")]
    assert main([*run, *sets]) == 1
    assert "trains adapters of a model, and none is given" in capsys.readouterr().err
