"""Guessing ahead from the command line: the same text, said how many guesses were right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run

from checkpoints_tiny import tiny_config, write_hf
from codellama.cli.main import verb_parser
from codellama.engine.plan import DRAFT_TOKENS

LONG = ("complete", "def x x x x x x x x", "--temperature", "0", "--max-tokens", "200")


def test_every_setting_writes_the_same_text(hf_folder: Path) -> None:
    settings = [
        ("--speculation", "off"),
        ("--speculation", "lookup"),
        ("--draft-tokens", "3"),
        ("--draft-model", str(hf_folder)),
    ]
    done = [run(*LONG, "--model", hf_folder, *setting) for setting in settings]
    assert [d.code for d in done] == [0] * 4, done[-1].err
    assert len({d.out for d in done}) == 1
    assert "no guessing ahead" in done[0].err
    assert "drafted" not in done[0].err
    assert "accepted" in done[1].err, "the tiny model's greedy text goes round in circles"
    assert f"{hf_folder.name} guesses ahead" in done[3].err


def test_json_counts_guesses(hf_folder: Path) -> None:
    done = run(*LONG, "--model", hf_folder, "--json", "--quiet")
    timings = json.loads(done.out)["timings"]
    assert 0 < timings["accepted_tokens"] <= timings["drafted_tokens"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--draft-tokens", "0"), "expected an integer from 1 to 64"),
        (("--speculation", "off", "--draft-model", "nano"), "speculation is off"),
        (("--draft-model", "/no/such/model"), "/no/such/model"),
        (("--draft-model", "nano"), "has 8192 pieces in its vocabulary, and the model has 320"),
    ],
)
def test_what_cannot_be_is_refused(hf_folder: Path, flags: tuple[str, ...], says: str) -> None:
    done = run("complete", "x", "--model", hf_folder, *flags)
    assert (done.code, done.out) == (1, b"")
    assert says in done.err


def test_a_draft_model_of_a_shorter_context_is_told(tmp_path: Path, hf_folder: Path) -> None:
    short = write_hf(tmp_path / "short", tiny_config(max_seq_len=64, n_layers=1))
    done = run("complete", "x", "--model", hf_folder, "--draft-model", short, "--max-tokens", "2")
    assert done.code == 0
    assert "the draft model was made for 64 tokens" in done.err


def test_the_help_names_the_default() -> None:
    assert f"(default: {DRAFT_TOKENS})" in " ".join(verb_parser("complete").format_help().split())
