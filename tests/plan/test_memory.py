"""Bytes that `plan` promises, held against files and processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from recorded import label, recorded, recorded_subject
from started import started

from codellama.bench.process import BODIES, EngineProcess, EngineSpec
from codellama.bench.shapes import SHAPES, random_model
from codellama.checkpoint.convert import convert
from codellama.checkpoint.gguf_metadata import Metadata, header
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.quantize import quantize
from codellama.checkpoint.reader import GenerationDefaults
from codellama.engine.plan import free_memory
from codellama.plan import memory
from codellama.plan.subject import Subject, find
from codellama.quant.formats import Format, n_bytes
from codellama.quant.mixes import MIXES
from codellama.text.tokenizer import Tokenizer
from tokenizers_at_hand import SHARED

CLOSE = 0.03
_N = 512  # tokens read, and cached
QUICK = ("f16", "q8_0", "q4_k_m")


def of_each_mix(mixes: tuple[str, ...] = QUICK) -> list[object]:
    return [m if m in mixes else pytest.param(m, marks=pytest.mark.slow) for m in MIXES]


def measured(path: Path | str) -> float:
    """Bytes that the engine's process has in memory after a prompt."""
    spec = EngineSpec(
        name="codellama", body=BODIES / "own.py", model=str(path), n_threads=1, context=_N + 16,
        n_streams=1, python=Path(sys.executable),
    )  # fmt: skip
    with EngineProcess(spec) as engine:
        engine.prefill(_N)
        rss, _ = engine.memory()
    return rss * 1e6


def planned(path: Path | str) -> int:
    subject = find(str(path))
    return memory.cpu_resident(
        subject.config,
        subject.formats,
        kv_cache=memory.natural_kv(subject.formats),
        cached_tokens=_N,
        step_tokens=_N,
    ).total


@pytest.mark.parametrize("mix", of_each_mix())
def test_nano_as_a_file_and_in_memory(mix: str, tmp_path: Path) -> None:
    path = tmp_path / "nano.gguf"
    quantize(resolve("nano"), path, mix, n_threads=1)
    assert path.stat().st_size == pytest.approx(memory.gguf_bytes(find("nano"), mix), rel=1e-3)
    assert planned(path) == pytest.approx(measured(path), rel=CLOSE)


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
def test_nano_as_a_folder(format: str, tmp_path: Path) -> None:
    convert(resolve("nano"), tmp_path / "nano", dtype=format.upper())  # type: ignore[arg-type]
    true = sum(file.stat().st_size for file in (tmp_path / "nano").iterdir())
    assert memory.folder_bytes(find("nano"), format) == pytest.approx(true, rel=CLOSE)  # type: ignore[arg-type]


def test_nano_as_it_comes_in_memory() -> None:
    assert planned("nano") == pytest.approx(measured(resolve("nano")), rel=CLOSE)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("shape", ["1.1b", "7b"])
def test_large_files_by_the_writers_own_layout(shape: str, mix: str) -> None:
    """Where the writer would put each tensor, of models too large to write here."""
    vocabulary = SHARED / "codellama-32016.tokenizer.model"
    if not vocabulary.exists():
        pytest.skip("the family's tokenizer is not at hand")
    config = SHAPES[shape]
    names = config.tensor_shapes()
    subject = Subject(name=shape, config=config, formats=dict.fromkeys(names, Format.BF16),
                      format="bf16")  # fmt: skip
    formats = subject.in_mix(mix)
    metadata = Metadata(
        name=shape, file_type=0, tokenizer=Tokenizer.open(vocabulary),
        generation=GenerationDefaults(bos_id=1, eos_ids=(2,)), chat_form=None,
    )  # fmt: skip
    _, places = header(config, metadata, {name: formats[name] for name in names})
    end = max(place + n_bytes(formats[name], names[name]) for name, place in places.items())
    assert memory.gguf_bytes(subject, mix) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize(
    ("member", "mix", "gigabytes"),
    [
        # The files that llama.cpp's quantize made of these models, as published in 2023.
        ("7B", "q4_0", 3.83),
        ("7B", "q4_k_m", 4.08),
        ("7B", "q5_0", 4.65),
        ("7B", "q5_k_m", 4.78),
        ("7B", "q6_k", 5.53),
        ("7B", "q8_0", 7.16),
        ("13B", "q4_0", 7.37),
        ("13B", "q4_k_m", 7.87),
        ("13B", "q8_0", 13.83),
        ("34B", "q4_k_m", 20.22),
        ("34B", "q8_0", 35.86),
    ],
)
def test_published_files(member: str, mix: str, gigabytes: float) -> None:
    assert memory.gguf_bytes(find(member), mix) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize("run", recorded(), ids=label)
def test_recorded_files_and_processes(run: dict[str, Any]) -> None:
    """What `benchmarks/plan.py` found on a machine with room for it, against today's plan."""
    subject = recorded_subject(run)
    resident = memory.cpu_resident(
        subject.config,
        subject.formats,
        kv_cache=memory.natural_kv(subject.formats),
        cached_tokens=run["cached_tokens"],
        step_tokens=run["cached_tokens"],
        n_threads=run["threads"],
    )
    assert resident.total == pytest.approx(run["rss_bytes"], rel=CLOSE)
    if run["shape"] != "nano":  # whose vocabulary is no Llama 2's; see above
        planned_bytes = memory.gguf_bytes(subject, run["format"])
        assert planned_bytes == pytest.approx(run["file_bytes"], rel=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["q4_0", "q8_0", "q4_k_m", "bf16"])
def test_a_billion_parameters_in_memory(format: str, tmp_path: Path) -> None:
    path = random_model("1.1b", format, tmp_path)
    assert planned(path) == pytest.approx(measured(path), rel=CLOSE)
    path.unlink()


@pytest.mark.slow
def test_seven_billion_parameters_in_memory(tmp_path: Path) -> None:
    if (free_memory() or 0) < 6e9:
        pytest.skip("takes 5 GB of memory")
    path = random_model("7b", "q4_0", tmp_path)
    assert memory.gguf_bytes(find("7B"), "q4_0") == pytest.approx(path.stat().st_size, rel=CLOSE)
    assert planned(path) == pytest.approx(measured(path), rel=CLOSE)
    path.unlink()


@pytest.mark.slow
def test_a_server_in_memory() -> None:
    subject = find("nano")
    with started("codellama-nano=nano", "--threads", "1") as live:
        body = {"prompt": [5] * 1400, "max_tokens": 100, "ignore_eos": True}
        live.ask("POST", "/v1/completions", body)
        status = Path(f"/proc/{live.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    resident = memory.cpu_resident(
        subject.config,
        subject.formats,
        kv_cache=memory.natural_kv(subject.formats),
        cached_tokens=1500,
        step_tokens=_N,
        is_server=True,
    )
    assert resident.total == pytest.approx(1024 * int(line.split()[1]), rel=CLOSE)


def test_every_part_is_counted_once() -> None:
    for model in ("7B", "34B-Instruct", "70B-Python", "nano"):
        subject = find(model)
        for mix in MIXES:
            formats = subject.in_mix(mix)
            shapes = subject.config.tensor_shapes()
            total = sum(n_bytes(formats[name], shape) for name, shape in shapes.items())
            assert sum(memory.weight_parts(subject.config, formats).values()) == total


def test_gpus_divide_weights_and_repeat_what_cannot_be_divided() -> None:
    config = find("34B").config  # 8 key/value heads
    one = memory.gpu_resident(config, n_gpus=1, cached_tokens=1000)
    eight = memory.gpu_resident(config, n_gpus=8, cached_tokens=1000)
    sixteen = memory.gpu_resident(config, n_gpus=16, cached_tokens=1000)
    assert one.weights == eight.weights == 2 * config.n_params
    assert one.kv_cache == eight.kv_cache == 1000 * 2 * 48 * 8 * 128 * 2
    assert sixteen.kv_cache == 2 * eight.kv_cache
