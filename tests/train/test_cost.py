"""What a run has cost, what is told to others about it, and the command after a stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from codellama import checkpoint
from codellama.cli.main import main
from codellama.errors import CheckpointError, ConfigError, MissingExtra
from codellama.train.arithmetic import Device
from codellama.train.cost import cost, device_at
from codellama.train.device import Place
from codellama.train.hook import check_command, run_command
from codellama.train.loop import Trainer
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder
from codellama.train.tracking import open_tracker
from train_corpus import RECIPES

MICRO = RECIPES / "micro" / "micro.toml"
SHORT = tuple(f"stages.{i}.max_tokens=1500" for i in range(3))


def _log(path: Path, n_steps: int, seconds: float) -> Path:
    step = {"event": "step", "tokens_per_s": 1000.0, "seconds": seconds, "flop_per_token": 2e9}
    lines = [json.dumps(step)] * n_steps + [json.dumps({"event": "evaluation", "step": 1})]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_hours_become_energy_and_carbon_as_in_the_paper(tmp_path: Path) -> None:
    """1,400,000 hours at 400 W are its 228.55 t of CO2."""
    log = _log(tmp_path / "log.jsonl", 100, 1_400_000 * 3600 / 100 / 1000)
    found = cost(log, Device(), n_devices=1000)
    assert found["device_hours"] == pytest.approx(1_400_000)
    assert found["kwh"] == pytest.approx(560_000)
    assert found["kg_co2"] == pytest.approx(228_550, rel=1e-3)


def test_the_share_of_the_peak(tmp_path: Path) -> None:
    found = cost(_log(tmp_path / "log.jsonl", 3, 2.0), Device(peak_tflops=4.0), n_devices=2)
    assert (found["steps"], found["tokens"]) == (3, 6000)
    assert found["tokens_per_s"] == pytest.approx(1000)
    assert found["flop"] == pytest.approx(6000 * 2e9)
    assert found["mfu"] == pytest.approx(1000 * 2e9 / (2 * 4e12))


def test_no_power_is_made_up(tmp_path: Path) -> None:
    device = device_at(Place(torch.device("cpu")))
    assert device is not None
    assert 0.0001 < device.peak_tflops < 100
    assert "kwh" not in cost(_log(tmp_path / "log.jsonl", 3, 2.0), device)
    with pytest.raises(ConfigError, match="is not the log of a run"):
        cost(tmp_path / "none", device)


def test_a_command_runs_after_every_stage_and_its_figures_are_kept(
    corpus_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "count.py"
    script.write_text(
        "import json, pathlib, sys\nprint('some words')\n"
        "print(json.dumps({'files': len(list(pathlib.Path(sys.argv[1]).iterdir()))}))\n"
    )
    out = tmp_path / "run"
    sets = [part for item in SHORT for part in ("--set", item)]
    command = f"{sys.executable} {script} {{model}}"
    run = ["train", str(MICRO), "--corpus", str(corpus_folder), "--out", str(out), *sets,
           "--set", "keep=10", "--evaluate", command, "--watts", "50"]  # fmt: skip
    assert main(run) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    after = [line for line in lines if line["event"] == "after stage"]
    assert [line["stage"] for line in after] == ["code", "long", "chat"]
    assert all(line["files"] >= 3 for line in after)
    assert json.loads((out / "cost.json").read_text())["kwh"] > 0

    # Every checkpoint that is kept becomes a model: here the one between the second and the third.
    steps = sorted(int(p.name[5:11]) for p in out.glob("step-*"))
    assert len(steps) == 3
    export = ["train", str(MICRO), "--corpus", str(corpus_folder), "--out", str(out), *sets]
    assert main([*export, "--export", str(tmp_path / "m"), "--step", str(steps[1])]) == 0
    ours = dict(checkpoint.open(tmp_path / "m").tensors())
    theirs = dict(checkpoint.open(out / "models" / "long").tensors())
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.to_float32() == theirs[name].to_float32()).all(), name
    trainer = Trainer(Recipe.read(MICRO, SHORT), out, CorpusFolder(corpus_folder).sources)
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 7777"):
        trainer.resume(7777)


def test_a_command_that_fails_is_a_figure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say which model"):
        check_command("codellama eval humaneval")
    assert "No such file" in str(run_command("/no/such/program {model}", tmp_path)["error"])
    code = "import sys; sys.exit('out of luck')"
    failed = run_command(f'{sys.executable} -c "{code}" {{model}}', tmp_path)
    assert failed["error"] == "exit code 1: out of luck"


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_absent_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtra, match=f"needs the `{name}` extra"):
        open_tracker(name, tmp_path, Recipe.read(MICRO))


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    tracker = open_tracker("tensorboard", tmp_path, Recipe.read(MICRO))
    tracker.add(3, {"train/loss": 1.5})
    tracker.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in file.read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match='asks for device "cuda", and PyTorch finds none here'):
        Place.of("cuda", bf16=True)
