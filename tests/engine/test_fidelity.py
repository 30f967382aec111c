"""Divergence and perplexity, against transformers and torch on the same texts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoints_tiny import TINY, tiny_config, tiny_weights, write_hf
from codellama import checkpoint
from codellama.checkpoint.convert import convert
from codellama.checkpoint.quantize import quantize
from codellama.engine.fidelity import Fidelity, fidelity
from codellama.errors import CheckpointError, ConfigError, PromptError

IDS = np.random.default_rng(7).integers(3, 320, 700).tolist()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its Q4_0 copy."""
    folder = tmp_path_factory.mktemp("fidelity")
    quantize(write_hf(folder / "hf"), folder / "small.gguf", "q4_0")
    return folder / "hf", folder / "small.gguf"


def measure(a: Path, b: Path, ids: list[int], **options: object) -> Fidelity:
    return fidelity(checkpoint.open(a), checkpoint.open(b), ids, **options)  # type: ignore[arg-type]


def by_transformers(a: Path, b: Path, ids: list[int]) -> Fidelity:
    """Each piece of 255 ids behind `<s>`, one after the other."""
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (a, b)]
    kl = nll = nll_copy = same = 0.0
    for at in range(0, len(ids), TINY.max_seq_len - 1):
        piece = torch.tensor(ids[at : at + TINY.max_seq_len - 1])
        window = torch.cat([torch.tensor([1]), piece])[None]
        with torch.no_grad():
            p, q = (m(window).logits[0, :-1].double().log_softmax(-1) for m in models)
        kl += float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True))
        nll += float(torch.nn.functional.nll_loss(p, piece, reduction="sum"))
        nll_copy += float(torch.nn.functional.nll_loss(q, piece, reduction="sum"))
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
    n = len(ids)
    return Fidelity(
        n_tokens=n,
        mean_kl=kl / n,
        source_perplexity=math.exp(nll / n),
        perplexity=math.exp(nll_copy / n),
        same_choice=same / n,
    )


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize("n", [1, 255, 256, 700])
def test_it_is_what_transformers_says(
    pair: tuple[Path, Path], tmp_path: Path, engine: str, n: int
) -> None:
    """With the copy's numbers in F32, since blocks are multiplied in bytes on a CPU."""
    convert(pair[1], tmp_path / "copy", dtype="F32")
    expected = by_transformers(pair[0], tmp_path / "copy", IDS[:n])
    found = measure(pair[0], tmp_path / "copy", IDS[:n], engine=engine)
    assert found.n_tokens == n
    assert found.mean_kl == pytest.approx(expected.mean_kl, rel=1e-3)
    assert found.source_perplexity == pytest.approx(expected.source_perplexity, rel=1e-4)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-4)
    assert found.same_choice == expected.same_choice


def test_a_model_is_no_distance_from_itself(pair: tuple[Path, Path]) -> None:
    found = measure(pair[0], pair[0], IDS)
    assert (found.mean_kl, found.same_choice) == (0.0, 1.0)
    assert found.perplexity == found.source_perplexity


def test_a_worse_copy_is_further_away(pair: tuple[Path, Path], tmp_path: Path) -> None:
    quantize(pair[0], tmp_path / "better.gguf", "q8_0")
    better, worse = (measure(pair[0], p, IDS) for p in (tmp_path / "better.gguf", pair[1]))
    assert 0 < better.mean_kl < worse.mean_kl / 10
    assert worse.same_choice < better.same_choice


def test_progress_goes_to_the_end(pair: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    measure(*pair, IDS, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(set(seen))
    assert seen[-1] == (1400, 1400)


def test_what_cannot_be_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no token"):
        measure(*pair, [])
    other = write_hf(tmp_path / "other", tiny_config(vocab_size=322))
    with pytest.raises(CheckpointError, match=r"320 tokens and .* 322"):
        measure(pair[0], other, IDS)


def test_logits_that_are_not_numbers_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    weights = tiny_weights()
    weights["norm.weight"][:] = np.inf
    with pytest.raises(CheckpointError, match="broken: gives logits that are not finite"):
        measure(pair[0], write_hf(tmp_path / "broken", TINY, weights), IDS)


def test_a_format_the_engine_does_not_run_is_named(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError('there is no format "Q9_9"')

    monkeypatch.setattr("codellama.engine.fidelity.load_runner", refuse)
    with pytest.raises(ConfigError, match=r"the cpu engine cannot run .*Q9_9"):
        measure(*pair, IDS)
