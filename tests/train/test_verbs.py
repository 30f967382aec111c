"""The verbs `data` and `train`, from the command line to a model that opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codellama import checkpoint
from codellama.cli.main import main
from train_corpus import RECIPES, SOURCES

MICRO = str(RECIPES / "micro" / "micro.toml")
SHORT = ["--set", "stages.0.max_tokens=3000", "--set", "stages.1.max_tokens=1500"]
SHORT += ["--set", "stages.2.max_tokens=1500"]


def test_build_train_resume_and_measure(
    tmp_path: Path, wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = tmp_path / "sources.toml"
    sources.write_text(SOURCES)
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run")
    chat = str(RECIPES / "corpus" / "chat.toml")
    common = [str(sources), "--out", corpus, "--wheels", str(wheels)]
    assert main(["data", "collect", *common]) == 0
    build = ["--vocabulary", "512", "--chat", chat, "--conversations", "40"]
    assert main(["data", "build", *common, *build]) == 0
    assert capsys.readouterr().out == f"{corpus}\n"

    train = ["train", MICRO, "--corpus", corpus, "--out", run, *SHORT]
    assert main(train) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{run}/model\n"
    assert "stage chat is finished" in captured.err
    assert checkpoint.open(f"{run}/model").config.max_seq_len == 512
    assert (tmp_path / "run/curves.svg").read_text().startswith("<svg")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in lines if e["event"] == "evaluation"] == ["code", "long", "chat"]
    assert all("val-pkg bits/byte" in e for e in lines if e["event"] == "evaluation")

    assert main(train) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert main([*train, "--resume"]) == 0  # nothing is left to do
    capsys.readouterr()
    pytest.importorskip("codellama._native", reason="the native core is not built")
    measure = ["data", "measure", f"{run}/model", "--corpus", corpus, "--tasks", "3"]
    assert main(measure) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bodies"] == figures["lines"] == 3
    assert 0 < figures["val-pkg bits/byte"] < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.toml"], "none.toml: no such file"),
        (["train", MICRO, "--set", "sed=2"], "did you mean `seed`"),
        (["train", MICRO, "--corpus", "nowhere"], "nowhere holds no corpus"),
        (["data", "build", "none.toml"], "none.toml: no such file"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
