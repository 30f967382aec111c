"""A trained model becomes a folder that the rest of the package, and others, open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from codellama import checkpoint
from codellama.model.transformer import AttentionMetadata
from codellama.train.export import export, final_config
from codellama.train.loop import Trainer
from codellama.train.measure import BitsPerByte, bits_per_byte
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES


@pytest.fixture(scope="module")
def trained(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """The micro model after its random start, and the folder it was exported to."""
    corpus = CorpusFolder(corpus_folder)
    recipe = Recipe.read(RECIPES / "micro" / "micro.toml")
    trainer = Trainer(recipe, tmp_path_factory.mktemp("run"), corpus.sources)
    trainer.model.cfg = final_config(recipe)
    dst = tmp_path_factory.mktemp("export") / "model"
    weights = dict(trainer.model.named_parameters())
    export(recipe, weights, corpus.tokenizer, dst, dtype="F32")
    return trainer, dst


def test_the_folder_says_what_the_last_stages_trained(trained: tuple[Trainer, Path]) -> None:
    reader = checkpoint.open(trained[1])
    assert (reader.config.max_seq_len, reader.config.rope_theta) == (512, 1e6)
    assert reader.chat_form == "inst"
    assert reader.generation.eos_ids == (2,)
    assert reader.tokenizer().step_id == 511


def test_transformers_computes_the_same(trained: tuple[Trainer, Path]) -> None:
    trainer, folder = trained
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(3, 500, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attn = AttentionMetadata(starts=(0, 40))
        ours = trainer.model.lm_head(trainer.model(ids[0], torch.arange(40), attn))
        torch.testing.assert_close(ours, theirs(ids).logits[0], rtol=1e-4, atol=1e-4)


def test_bits_per_byte_of_a_random_model(
    trained: tuple[Trainer, Path], corpus_folder: Path
) -> None:
    documents = CorpusFolder(corpus_folder).documents("val-pkg", "python")
    reader = checkpoint.open(trained[1])
    n_bytes = sum(len(d.text.encode()) for d in documents)
    n_tokens = sum(len(reader.tokenizer().encode(d.text)) for d in documents)
    expected = 9 * n_tokens / n_bytes  # 512 pieces are nine bits each
    assert bits_per_byte(trained[1], documents, 256, 50) == pytest.approx(expected, rel=0.06)


def test_bits_per_byte_covers_every_byte(corpus_folder: Path) -> None:
    corpus = CorpusFolder(corpus_folder)
    documents = corpus.documents("val-pkg", "python")
    measure = BitsPerByte(documents, corpus.tokenizer, 256, 10_000)
    assert measure.n_bytes == sum(len(d.text.encode()) for d in documents)


def test_a_context_outlives_a_shorter_stage() -> None:
    recipe = Recipe.read(RECIPES / "nano-cpu" / "nano-cpu.toml")
    assert [final_config(recipe, n).max_seq_len for n in (1, 2, 3, 4)] == [512, 512, 2048, 2048]
    assert [final_config(recipe, n).rope_theta for n in (1, 3)] == [1e4, 1e6]


def test_a_longer_context_that_was_there_stays() -> None:
    recipe = Recipe.read(RECIPES / "nano-cpu" / "own.toml")
    assert recipe.stages[0].row_length == 512
    assert final_config(recipe).max_seq_len == 2048
