"""The figures of a cascade's stages: what they measure, and how they are shown."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from codellama.cli.main import main
from codellama.errors import ConfigError
from codellama.model.transformer import Transformer
from codellama.train.batch import model_config
from codellama.train.effects import FIGURES, LOSSES, SHARES, Effects, read_stages, svg, table
from codellama.train.keys import KeySource
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"


def test_a_model_that_knows_nothing_is_uniform(corpus_folder: Path) -> None:
    recipe = Recipe.read(MICRO)
    effects = Effects(CorpusFolder(corpus_folder), recipe, n=4)
    model = Transformer(model_config(recipe, recipe.stages[0]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    figures = effects(model)
    assert tuple(figures) == FIGURES
    assert all(figures[name] == pytest.approx(math.log(512), rel=1e-5) for name in LOSSES)
    assert all(figures[name] == 0 for name in SHARES)  # where all are equal <unk> comes first


def test_each_figure_looks_at_its_own_tokens(corpus_folder: Path) -> None:
    recipe = Recipe.read(MICRO)
    corpus = CorpusFolder(corpus_folder)
    effects = Effects(corpus, recipe, n=4)
    for row in effects._rows["beyond"]:
        assert (row.labels >= 0).nonzero()[0].min() == 256
    for row in effects._rows["within"]:
        assert (row.labels >= 0).nonzero()[0].max() == 255
    for row in effects._rows["infilling"]:
        learned = row.labels[row.labels >= 0]
        assert learned[-1] == corpus.tokenizer.eot_id
        assert corpus.tokenizer.suffix_id not in learned
    for row in effects._rows["answers"]:
        assert row.labels[row.labels >= 0][-1] == corpus.tokenizer.eos_id


def test_a_key_is_asked_for_behind_the_first_row_length(corpus_folder: Path) -> None:
    recipe = Recipe.read(MICRO)
    corpus = CorpusFolder(corpus_folder)
    effects = Effects(corpus, recipe, n=8)
    decode = corpus.tokenizer.decode_bare
    for name in SHARES:
        for row, text in effects._keys[name]:
            said = decode(row.tokens[1:].tolist())
            defined = dict(re.findall(r"def ([a-z]+)(\d\d)\(\): pass", said))
            asked = dict(re.findall(r"assert ([a-z]+)(\d\d)\(\)", decode(text.ids)))
            assert asked == defined
            assert len(asked) == len(text.answers) == 4
            answers = [decode(text.ids[at : at + 2]) for at in text.answers]
            assert sorted(answers) == sorted(asked.values())
            if name == "keys near":
                assert len(text.ids) <= 257
            else:
                assert min(text.answers) > 256


def test_key_documents_are_true_and_of_every_length(corpus_folder: Path) -> None:
    corpus = CorpusFolder(corpus_folder)
    source = KeySource(corpus.documents("train", "function"), corpus.tokenizer, 256)
    decode = corpus.tokenizer.decode_bare
    sizes, n_repeated = [], 0
    for number in range(60):
        sample = source.sample(number, str(number))
        assert source.sample(number, str(number)) == sample
        sizes.append(len(sample.ids))
        text = decode(sample.ids)
        defined = dict(re.findall(r"def ([a-z]+)(\d\d)\(\): pass\n", text))
        asserted = re.findall(r"assert ([a-z]+)(\d\d)\(\)\n", text)
        assert all(defined[name] == digits for name, digits in asserted)
        if sample.n_given == 1:
            n_repeated += len(asserted) > len(dict(asserted))
        else:
            learned = decode(sample.ids[sample.n_given :])
            assert re.fullmatch(r"\d\d\(\)\n(assert [a-z]+\d\d\(\)\n)*", learned)
    assert min(sizes) < 80 < 200 < max(sizes) <= 257
    assert n_repeated > 10


def test_a_run_draws_its_stages(
    corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [part for i in range(3) for part in ("--set", f"stages.{i}.max_tokens=1000")]
    run = ["train", str(MICRO), "--corpus", str(corpus_folder), "--out", str(tmp_path), "--effects"]
    assert main([*run, *short]) == 0
    assert (
        "infilling     beyond     within    answers   keys far  keys near"
        in capsys.readouterr().err
    )
    stages = read_stages(tmp_path / "log.jsonl")
    assert [name for name, _ in stages] == ["code", "long", "chat"]
    assert (tmp_path / "effects.svg").is_file()


def test_the_picture_is_to_scale_and_the_table_is_whole() -> None:
    low, high = dict.fromkeys(LOSSES, 2.0), dict.fromkeys(LOSSES, 4.0)
    low, high = low | dict.fromkeys(SHARES, 0.5), high | dict.fromkeys(SHARES, 1.0)
    stages = [("a & b", high), ("c", low)]
    bars = [r for r in ET.fromstring(svg(stages, "t")).iter() if r.tag.endswith("rect")][1:]
    heights = [float(bar.get("height", "0")) for bar in bars]
    assert heights[0] == pytest.approx(2 * heights[1], rel=1e-3)
    assert max(heights) == heights[0] == heights[-4]  # a share of 1 is as high as the worst loss
    assert len(heights) == 2 * len(FIGURES) + 2
    assert table(stages).count("\n") == 2


def test_a_log_without_figures_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"event": "evaluation", "stage": "a", "step": 1}) + "\n")
    with pytest.raises(ConfigError, match="holds no figures"):
        read_stages(log)
    with pytest.raises(ConfigError, match="is not the log"):
        read_stages(tmp_path / "none")
