"""Speeds against what was measured, layouts against heads and memory, costs against the paper."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded import RESULTS, label, recorded, recorded_subject

from codellama.bench.shapes import SHAPES
from codellama.cli import serve
from codellama.cli.main import main
from codellama.errors import ConfigError, OutOfMemory
from codellama.model.family import MEMBERS
from codellama.plan import hardware as hw
from codellama.plan import layout, memory, training
from codellama.plan.speed import Load, Speed
from codellama.plan.subject import find, member_of


def runs() -> list[dict[str, Any]]:
    """Measurements of our engine beside the machine's limits, with the fast kernels."""
    found = []
    for path in sorted(RESULTS.glob("*cpu-peers*2-threads.json")):
        found += json.loads(path.read_text())["runs"]
    return [run for run in found if run["limits"]["int8_gop_s"] and run["shape"] in SHAPES]


def machine(limits: dict[str, Any]) -> hw.Hardware:
    """The limits of the machine that a measurement found."""
    return dataclasses.replace(
        hw.LAPTOP, bandwidth=limits["read_gb_s"] * 1e9, peak=limits["int8_gop_s"] * 1e9,
        peak_fp32=limits["fp32_gflop_s"] * 1e9,
    )  # fmt: skip


@pytest.mark.parametrize("run", runs(), ids=label)
def test_decoding_is_within_a_quarter_of_what_was_measured(run: dict[str, Any]) -> None:
    cost = run["cost"]
    speed = Speed(
        config=SHAPES[run["shape"]], hardware=machine(run["limits"]),
        read_bytes=cost["weight_bytes"], kv_bytes=cost["kv_bytes_per_position"],
        is_quantised=cost["is_quantised"],
    )  # fmt: skip
    one = next(w for w in run["works"] if w["kind"] == "decode" and w["streams"] == 1)
    predicted = speed.decode_tok_s(one["n"] // 2)
    assert predicted == pytest.approx(one["engines"]["codellama"]["tok_s"], rel=0.25)


UNDISTURBED = 0.5  # of the processors, at most, that others used


@pytest.mark.parametrize(
    "run", [run for run in recorded() if run["others_cpu_share"] < UNDISTURBED], ids=label
)
def test_decoding_in_every_format_is_within_a_quarter(run: dict[str, Any]) -> None:
    subject = recorded_subject(run)
    speed = Speed(
        config=subject.config, hardware=machine(run["limits"]),
        read_bytes=memory.read_bytes(subject.config, subject.formats),
        kv_bytes=memory.kv_bytes(subject.config, memory.natural_kv(subject.formats)),
        is_quantised=any(kind.is_quantised for kind in subject.formats.values()),
    )  # fmt: skip
    predicted = speed.decode_tok_s(run["decode"]["n"] // 2)
    assert predicted == pytest.approx(run["decode"]["tok_s"], rel=0.25)


def test_the_paper_comes_out_of_its_tokens() -> None:
    hours, tonnes = training.whole_family(hw.gpus("a100", 1), 0.43)
    assert hours == pytest.approx(1_400_000, rel=0.2)
    assert tonnes == pytest.approx(228.55, rel=0.2)
    # 400 W and the same kilograms: the paper's tonnes of the paper's hours.
    device = training.device(hw.gpus("a100", 1), 0.43)
    assert device.tonnes_co2(1_400_000) == pytest.approx(228.55, rel=0.01)


def test_stages_are_those_of_the_recipes() -> None:
    from codellama.train.recipe import Recipe
    from train_corpus import RECIPES

    for member in MEMBERS:
        folder = RECIPES / member.size.lower()
        recipe = Recipe.read(folder / f"{member.variant.lower()}.toml")
        code = Recipe.read(folder / "code.toml")
        assert [(s.max_tokens, s.row_length) for s in recipe.stages] == [
            (s.tokens, s.row_length) for s in training.own_stages(member)
        ]
        assert code.stages[0].max_tokens == training.code_stage(member.size).tokens


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
@pytest.mark.parametrize("gpu", hw.GPUS)
def test_layouts_fit_and_divide(member, gpu: str) -> None:  # type: ignore[no-untyped-def]
    config = member.config
    hardware = hw.gpus(gpu, 64)
    found = layout.on_gpus(config, hardware, config.max_seq_len)
    assert config.n_heads % found.tensor_parallel == 0
    assert found.tensor_parallel <= hardware.per_node
    assert found.devices * found.replicas <= hardware.count
    assert found.resident.total <= 0.9 * found.devices * hardware.memory
    assert found.cached_tokens >= config.max_seq_len
    if found.devices > 1:  # no smaller replica would do
        with pytest.raises(OutOfMemory):
            layout.on_gpus(config, hw.gpus(gpu, found.devices // 2), config.max_seq_len)


def test_what_does_not_fit_says_what_would() -> None:
    with pytest.raises(OutOfMemory, match="2 x l4") as refusal:
        layout.on_gpus(find("70B").config, hw.gpus("l4", 2), 16384)
    assert refusal.value.hint == "give --count 8 or more"
    layout.on_gpus(find("70B").config, hw.gpus("l4", 8), 16384)


@pytest.mark.parametrize(
    "arguments",
    ["7B", "34B --gpu h100 --count 8", "70B --gpu l4 --count 32", "nano", "nano --gpu l4"],
)
def test_the_command_is_one_that_serve_takes(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments.split(), "--context", "2k", "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["command"].split("&&")[-1].split()
    assert command[:2] == ["codellama", "serve"]
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    parsed = parser.parse_args(command[2:])
    assert parsed.max_seq_len == 2048


def test_what_vllm_does_not_read_is_converted_first(
    gguf_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, before in (
        (str(gguf_file), [f"codellama convert {gguf_file} model-bf16 --dtype bf16"]),
        ("nano", []),
    ):
        assert main(["plan", path, "--gpu", "l4", "--context", "16", "--json"]) == 0
        *found, serving = json.loads(capsys.readouterr().out)["command"].split(" && ")
        assert found == before
        assert serving.split()[2] == ("model-bf16" if before else path)


def test_users_keep_their_latency_and_their_memory() -> None:
    config = find("7B").config
    speed = Speed(config=config, hardware=hw.gpus("h100", 1), read_bytes=13 * 10**9,
                  kv_bytes=524288, is_quantised=False)  # fmt: skip
    load = Load(prompt=1000, reply=200)
    n = speed.users(load, 0.05, cached_tokens=1e9)
    assert speed.token_s(n, load) <= 0.05 < speed.token_s(n + 1, load)
    assert speed.users(load, 0.05, cached_tokens=12_000) == 10
    assert speed.users(load, 1e-6, cached_tokens=1e9) == 0
    # Twice the bandwidth is twice the speed of one stream, whatever the arithmetic.
    double = dataclasses.replace(
        speed, hardware=dataclasses.replace(speed.hardware, bandwidth=2 * 3.35e12)
    )
    assert double.decode_tok_s(1000) == pytest.approx(2 * speed.decode_tok_s(1000))


def test_one_stream_of_a_gpu_by_hand() -> None:
    """13.48 GB of weights but the 262 MB table, and 1000 positions, at 60 % of 3.35 TB/s."""
    weights, keys_and_values = 13_477_000_000 - 262_000_000, 524_288
    speed = Speed(config=find("7B").config, hardware=hw.gpus("h100", 1), read_bytes=weights,
                  kv_bytes=keys_and_values, is_quantised=False)  # fmt: skip
    by_hand = 0.6 * 3.35e12 / (weights + 1000 * keys_and_values)
    assert speed.decode_tok_s(1000) == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("7B", "CodeLlama-7B"),
        ("13b-instruct", "CodeLlama-13B-Instruct"),
        ("CodeLlama-34b-Python", "CodeLlama-34B-Python"),
        ("codellama/CodeLlama-70b-Instruct-hf", "CodeLlama-70B-Instruct"),
        ("nano", None),
        ("8B", None),
    ],
)
def test_members_by_name(name: str, found: str | None) -> None:
    member = member_of(name)
    assert (member.name if member else None) == found


def test_hardware_files(tmp_path: Path) -> None:
    path = tmp_path / "hardware.toml"
    path.write_text('base = "h100"\ncount = 4\nprice = 2.5\n')
    found = hw.read(path)
    assert (found.count, found.price, found.memory) == (4, 2.5, 80e9)
    for text, words in (
        ('base = "h1000"', "h1000"),
        ('base = "h100"\nspeed = 3', "speed"),
        ('name = "x"', "kind"),
        ('base = "h100"\nwatts = -1', "watts"),
        ('base = "h100"\nkind = "tpu"', "tpu"),
        ("base =", "TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            hw.read(path)


def test_tables_and_pages(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["plan", "all", "--gpu", "h100", "--count", "8"], ["plan", "all", "--train"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(member.name in out for member in MEMBERS)
    assert main(["plan", "34B", "--train", "--gpu", "h100", "--count", "256"]) == 0
    assert "the paper reports 1,400,000" in capsys.readouterr().out
    assert main(["plan", "7B", "--users", "9999", "--gpu", "l4", "--context", "4k",
                 "--latency", "200"]) == 0  # fmt: skip
    assert "for the users asked" in capsys.readouterr().out
    assert main(["plan", "70B", "--context", "16k"]) == 1
    assert "--gpu h100" in capsys.readouterr().err


def test_this_machine_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nano", "--measure", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hardware"]["is_measured"]
    assert math.isfinite(found["decode_tok_s"])


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; from codellama.cli.main import main; main(['plan', '7B', '--train']); "
        "main(['plan', 'nano']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
