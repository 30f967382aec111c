"""`--device`, and the flags beside it, of every verb that runs a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import run

from codellama.bench import report
from codellama.cli.main import verb_parser
from codellama.cli.reference import page

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the extra `torch`")

ASKED = "device 'cuda' was asked for, and PyTorch sees no CUDA device"
BENCH = ("--prefill", "40,4", "--decode", "2", "--repeat", "1", "--threads", "1", "--no-start")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("complete", ["def"]),
        ("infill", ["file.py"]),
        ("chat", []),
        ("solve", ["task"]),
        ("serve", []),
        ("batch", ["in", "out"]),
        ("eval", ["humaneval"]),
        ("bench", []),
        ("bench-repo", ["."]),
    ],
)
def test_every_verb_takes_a_device_and_numbers(verb: str, words: list[str]) -> None:
    flags = ["--device", "cuda:1", "--weights", "int4", "--kv-cache", "fp8", "--engine", "torch"]
    args = verb_parser(verb).parse_args([*words, *flags])
    found = args.device, args.weights, args.kv_cache, args.engine
    assert found == ("cuda:1", "int4", "fp8", "torch")


def test_training_and_its_data_take_a_device() -> None:
    assert verb_parser("train").parse_args(["r.toml", "--device", "cuda"]).device == "cuda"
    for words in (["own", "nano"], ["instruct"]):
        assert verb_parser("data").parse_args([*words, "--device", "cuda"]).device == "cuda"
    assert page().count("--device D") >= 9


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_each_says_so_in_one_sentence(hf_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{}\n")
    (tmp_path / "HumanEval.jsonl").write_text("{}\n")
    model = ("--model", hf_folder)
    for words in (
        ("complete", "def", *model),
        ("chat", "hello", *model),
        ("batch", source, tmp_path / "out.jsonl", *model),
        ("eval", "humaneval", "--data", tmp_path, *model),
        ("bench", hf_folder),
    ):
        done = run(*words, "--device", "cuda")
        assert done.code == 1, words
        assert ASKED in done.err
        assert "Traceback" not in done.err


def test_a_batch_is_answered_in_the_numbers_asked_for(hf_folder: Path, tmp_path: Path) -> None:
    source, targets = tmp_path / "in.jsonl", [tmp_path / "core", tmp_path / "torch"]
    body = {"prompt": "def f(x):", "max_tokens": 4, "temperature": 0}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    source.write_text(json.dumps(line) + "\n")
    for target, flags in zip(targets, ((), ("--weights", "f32")), strict=True):
        done = run("batch", source, target, "--model", hf_folder, "--threads", "1", *flags)
        assert done.code == 0, done.err
    core, other = (json.loads(target.read_text())["response"]["body"] for target in targets)
    assert core["choices"][0]["text"] == other["choices"][0]["text"]


def test_an_evaluation_says_in_which_numbers_it_ran(hf_folder: Path, tmp_path: Path) -> None:
    row = {"task_id": "T/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "",
           "canonical_solution": ""}  # fmt: skip
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(row) + "\n")
    words = ("eval", "humaneval", "--model", hf_folder, "--data", tmp_path, "--out",
             tmp_path / "out", "--max-tokens", "2", "--no-run")  # fmt: skip
    done = run(*words, "--weights", "int8", "--kv-cache", "q8_0")
    assert done.code == 0, done.err
    again = run(*words)
    assert again.code == 1
    said = '`model.computed` was {"kv_cache": "q8_0", "weights": "int8"} and is null'
    assert said in again.err  # samples of other numbers are not gone on with


def bench(*arguments: str | Path) -> dict[str, Any]:
    done = run("bench", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.mark.parametrize(
    ("flags", "weights", "activations", "kv_cache"),
    [
        (("--weights", "bf16", "--streams", "3"), "bf16", "BF16", "BF16"),
        (("--weights", "int4", "--kv-cache", "q8_0"), "int4", "F32", "Q8_0"),
    ],
)
def test_a_device_is_measured_beside_its_own_limits(
    hf_folder: Path, flags: tuple[str, ...], weights: str | None, activations: str, kv_cache: str
) -> None:
    """PyTorch's CPU stands for a GPU."""
    found = bench(hf_folder, *BENCH, *flags)
    device = found["device"]
    assert (device["name"], device["memory_mb"]) == ("CPU", None)
    assert (device["weights"], device["activations"]) == (weights, activations)
    assert device["kv_cache"] == kv_cache
    roof = found["limits"]
    assert roof["product_kind"] == activations
    assert roof["int8_gop_s"] is None
    prefill, decode = found["prefill"], found["decode"]
    expected = prefill["tok_s"] * prefill["ops_per_token"] / (1e9 * roof["product_gflop_s"])
    assert prefill["limit_share"] == pytest.approx(expected, rel=1e-4)
    expected = decode["tok_s"] * decode["bytes_per_token"] / (1e9 * roof["read_gb_s"])
    assert decode["limit_share"] == pytest.approx(expected, rel=1e-4)
    assert ("--streams" in flags) == (found["streams"] is not None)
    page = report.page(found)
    for word in ("PyTorch", "on CPU", f"weights {weights}", f"products in {activations}"):
        assert word in page


def test_fewer_bits_are_fewer_bytes_to_read(hf_folder: Path) -> None:
    from codellama import checkpoint
    from codellama.bench.cost import Choice, cost_of

    reader = checkpoint.open(hf_folder)
    plain = cost_of(reader, Choice(engine="torch"))
    assert plain == cost_of(reader)  # of a checkpoint in float32
    halved = cost_of(reader, Choice(engine="torch", device="cuda", weights="bf16"))
    assert halved.weight_bytes == plain.weight_bytes / 2
    assert halved.kv_bytes_per_position == plain.kv_bytes_per_position / 2
    int4 = cost_of(reader, Choice(engine="torch", device="cuda", weights="int4", kv_cache="fp8"))
    assert int4.weight_bytes < 0.3 * halved.weight_bytes
    assert int4.kv_bytes_per_position == halved.kv_bytes_per_position / 2


def test_another_engine_is_not_held_against_a_device(hf_folder: Path) -> None:
    done = run("bench", hf_folder, "--weights", "f32", "--against", "llama-cpp")
    assert done.code == 2
    assert "beside the native core's" in done.err
