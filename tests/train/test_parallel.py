"""Law 11 and TRN-3: two processes are one. Recomputation and accumulation change nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codellama.errors import ConfigError
from codellama.train.loop import Trainer
from codellama.train.parallel import World
from codellama.train.pieces import SavedTensors
from codellama.train.progress import StepReport
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"
SHORT = tuple(f"stages.{i}.max_tokens={n}" for i, n in enumerate((6000, 2000, 2000)))


def _command(corpus: Path, out: Path, n_processes: int, *more: str) -> list[str]:
    start = [sys.executable, "-m"]
    if n_processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", "-m"]
    overrides = [part for item in SHORT for part in ("--set", item)]
    return [*start, "codellama", "train", str(MICRO), "--corpus", str(corpus), "--out", str(out),
            *overrides, *more]  # fmt: skip


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
                                "PYTHONPATH": paths}  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)


def _losses(out: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_shared_weights_begin_as_those_of_one_process(
    corpus_folder: Path, tmp_path: Path, tensor_parallel: int
) -> None:
    """Each process makes its part alone, and together they are, bit for bit, what one makes."""
    script = Path(__file__).with_name("initial.py")
    done = _run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                 "--nproc-per-node=2", str(script), str(corpus_folder), str(tmp_path),
                 str(tensor_parallel)])  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = Trainer(Recipe.read(MICRO), tmp_path, CorpusFolder(corpus_folder).sources).weights()
    found = load_file(tmp_path / "weights.safetensors")
    assert found.keys() == alone.keys()
    for name, weight in alone.items():
        assert torch.equal(found[name], weight), name
    n = sum(weight.numel() for weight in alone.values())
    kept = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert n <= sum(kept) <= 1.01 * n + (tensor_parallel - 1) * n / 2  # embedding twice under both


# Muon orthogonalises in bfloat16, which makes more of a last bit than float32 does.
@pytest.mark.parametrize(("kind", "tolerance"), [("adamw", 1e-5), ("muon", 1e-3)])
def test_two_processes_are_one(
    corpus_folder: Path, tmp_path: Path, kind: str, tolerance: float
) -> None:
    kinds = [part for i in range(3) for part in ("--set", f"stages.{i}.optimiser.kind={kind}")]
    for n in (1, 2):
        done = _run(_command(corpus_folder, tmp_path / str(n), n, *kinds))
        assert done.returncode == 0, done.stderr
    one, two = _losses(tmp_path / "1"), _losses(tmp_path / "2")
    assert len(one) == len(two) > 8
    for (loss, norm), (loss_two, norm_two) in zip(one, two, strict=True):
        assert loss_two == pytest.approx(loss, rel=tolerance)
        assert norm_two == pytest.approx(norm, rel=100 * tolerance)
    first, second = (load_file(tmp_path / n / "chat.safetensors") for n in "12")
    assert first.keys() == second.keys()
    for name, weight in first.items():
        # As a whole: where a gradient is nearly nothing AdamW makes a whole step of its sign.
        assert (second[name] - weight).norm() < 100 * tolerance * weight.norm(), name


@pytest.mark.parametrize(
    ("n_processes", "grid"),
    [
        (2, {"tensor_parallel": 2}),
        (2, {"context_parallel": 2}),
        pytest.param(4, {"tensor_parallel": 2, "context_parallel": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"tensor_parallel": 2}, marks=pytest.mark.slow),
    ],
    ids=["tensor", "context", "both", "tensor and data"],
)
def test_split_matrices_and_shared_rows_change_nothing(
    corpus_folder: Path, tmp_path: Path, n_processes: int, grid: dict[str, int]
) -> None:
    """Losses of a grid of processes are those of one, and so are the weights it saves."""
    more = [part for i in range(3) for part in ("--set", f"stages.{i}.optimiser.kind=adamw")]
    more += [part for i in range(3) for part in ("--set", f"stages.{i}.max_tokens=2000")]
    one = _run(_command(corpus_folder, tmp_path / "one", 1, *more))
    assert one.returncode == 0, one.stderr
    split = [part for name, n in grid.items() for part in ("--set", f"{name}={n}")]
    many = _run(_command(corpus_folder, tmp_path / "many", n_processes, *more, *split))
    assert many.returncode == 0, many.stderr
    pairs = list(zip(_losses(tmp_path / "one"), _losses(tmp_path / "many"), strict=True))
    assert len(pairs) >= 6
    for (loss, norm), (loss_many, norm_many) in pairs:
        assert loss_many == pytest.approx(loss, rel=1e-5)
        assert norm_many == pytest.approx(norm, rel=1e-3)
    first, second = (load_file(tmp_path / n / "chat.safetensors") for n in ("one", "many"))
    for name, weight in first.items():
        assert (second[name] - weight).norm() < 1e-3 * weight.norm(), name


def test_a_run_goes_on_with_another_number_of_processes(
    corpus_folder: Path, tmp_path: Path
) -> None:
    """One stage by two processes, the rest by one, and the state they wrote in parts is whole."""
    kinds = [part for i in range(3) for part in ("--set", f"stages.{i}.optimiser.kind=adamw")]
    whole = _run(_command(corpus_folder, tmp_path / "one", 1, *kinds))
    assert whole.returncode == 0, whole.stderr
    first = _run(_command(corpus_folder, tmp_path / "mixed", 2, *kinds))
    assert first.returncode == 0, first.stderr
    # Back to the checkpoint after the second stage: its successors go.
    finished = sorted((tmp_path / "mixed").glob("step-*"))
    assert len(finished) == 2
    assert len(list(finished[0].glob("tensors-*-of-00002.safetensors"))) == 2
    saved = SavedTensors(sorted(finished[0].glob("tensors-*")))
    stage_end = load_file(tmp_path / "mixed" / "long.safetensors")
    for name, weight in stage_end.items():
        assert torch.equal(saved[f"model.{name}"], weight), name
    shutil.rmtree(finished[1])
    rest = _run(_command(corpus_folder, tmp_path / "mixed", 1, *kinds, "--resume"))
    assert rest.returncode == 0, rest.stderr
    one, mixed = _losses(tmp_path / "one"), _losses(tmp_path / "mixed")
    n_again = len(mixed) - len(one)
    assert n_again > 0
    for (loss, _), (loss_mixed, _) in zip(one[-n_again:], mixed[-n_again:], strict=True):
        assert loss_mixed == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [("recompute=true",), ("stages.0.rows_at_once=1", "stages.1.rows_at_once=1")],
    ids=["recomputed", "accumulated"],
)
def test_saving_memory_changes_nothing(
    corpus_folder: Path, tmp_path: Path, change: tuple[str, ...]
) -> None:
    torch.set_num_threads(1)
    corpus = CorpusFolder(corpus_folder)
    figures: dict[str, list[tuple[float, float]]] = {"plain": [], "other": []}
    plain = (*SHORT, *(f"stages.{i}.optimiser.kind=adamw" for i in range(3)))
    for name, overrides in (("plain", plain), ("other", (*plain, *change))):

        def report(step: StepReport, to: list[tuple[float, float]] = figures[name]) -> None:
            to.append((step.loss, step.grad_norm))

        trainer = Trainer(Recipe.read(MICRO, overrides), tmp_path / name, corpus.sources,
                          report=report)  # fmt: skip
        assert trainer.run()
    assert len(figures["plain"]) > 8
    for (loss, norm), (other, norm_other) in zip(*figures.values(), strict=True):
        assert other == pytest.approx(loss, rel=2e-5)
        assert norm_other == pytest.approx(norm, rel=1e-2)


def test_rows_must_be_shared_evenly(corpus_folder: Path, tmp_path: Path) -> None:
    corpus = CorpusFolder(corpus_folder)
    with pytest.raises(ConfigError, match=r"micro\.code: 4 rows at once cannot be shared evenly"):
        Trainer(Recipe.read(MICRO), tmp_path, corpus.sources, world=World(0, 3))
