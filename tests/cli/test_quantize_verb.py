"""`codellama quantize` from the command line."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import gguf
import pytest
from command import Done, run

from checkpoints_tiny import tiny_config, write_gguf, write_hf, write_meta
from codellama import checkpoint
from codellama.cli.quantize import _SAMPLE
from codellama.quant.formats import Format
from codellama.quant.mixes import MIXES

FAST = ("--threads", "1", "--tokens", "40")


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "out" / "small.gguf"


def quantize(src: Path, dst: Path, format: str, *flags: str | Path) -> Done:
    return run("quantize", src, dst, "--format", format, *FAST, *flags)


@pytest.mark.parametrize("kind", ["hf", "meta", "gguf"])
def test_anything_that_is_read_can_be_made_smaller(tmp_path: Path, dst: Path, kind: str) -> None:
    writer = {"hf": write_hf, "meta": write_meta, "gguf": write_gguf}[kind]
    done = quantize(writer(tmp_path / kind), dst, "q8_0")
    assert done.code == 0, done.err
    page = done.out.decode()
    assert f"written       {dst}\nformat        q8_0: 5 F32, 16 Q8_0\n" in page
    assert "bits per weight" in page
    assert f"on 40 tokens of codellama/{_SAMPLE}" in page
    for label in ("perplexity", "mean KL divergence, nats", "same likeliest token"):
        assert label in page
    assert "100 % of" in done.err
    assert checkpoint.open(dst).config == checkpoint.open(tmp_path / kind).config


@pytest.mark.parametrize("format", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_json(hf_folder: Path, dst: Path, format: str) -> None:
    done = quantize(hf_folder, dst, format, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert set(found) == {
        "path", "source", "format", "source_bytes", "bytes", "bits_per_weight", "tensor_formats",
        "notes", "quality",
    }  # fmt: skip
    reader = checkpoint.open(dst)
    assert found["bytes"] == sum(info.n_bytes for info in reader.infos.values())
    assert found["format"] == format
    quality = found["quality"]
    assert set(quality) == {
        "text", "n_tokens", "mean_kl", "source_perplexity", "perplexity", "same_choice",
    }  # fmt: skip
    assert quality["n_tokens"] == 40
    assert quality["mean_kl"] < {"q4_0": 1, "q8_0": 0.01}.get(format, 1e-9)


@pytest.mark.parametrize("format", MIXES)
def test_without_a_report_nothing_is_run(
    hf_folder: Path, dst: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(
        "codellama.engine.fidelity.load_runner", lambda *_, **__: pytest.fail("a model was run")
    )
    done = quantize(hf_folder, dst, format, "--no-report", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["quality"] is None
    assert checkpoint.open(dst).infos["norm.weight"].format is Format.F32


def test_the_user_s_text(hf_folder: Path, dst: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.py"
    text.write_text("def f(x):\n    return x\n")
    n = len(checkpoint.open(hf_folder).tokenizer().encode(text.read_text()))
    assert n < 40
    done = quantize(hf_folder, dst, "q8_0", "--text", text, "--json")
    quality = json.loads(done.out)["quality"]
    assert (quality["text"], quality["n_tokens"]) == (str(text), n)
    by_torch = quantize(hf_folder, dst, "q8_0", "--text", text, "--json", "--force",
                        "--engine", "torch")  # fmt: skip
    other = json.loads(by_torch.out)["quality"]
    assert other["perplexity"] == pytest.approx(quality["perplexity"], rel=1e-2)


def test_what_gives_way_is_said(hf_folder: Path, dst: Path) -> None:
    done = quantize(hf_folder, dst, "q4_k_m", "--no-report")
    assert "matrices with rows of 64 in Q5_0 instead of Q4_K" in done.err


@pytest.mark.parametrize("content", [None, "", b"\xff\xfe"])
def test_a_text_that_cannot_be_read_is_found_before_anything_is_written(
    hf_folder: Path, dst: Path, tmp_path: Path, content: str | bytes | None
) -> None:
    text = tmp_path / "text"
    if content is not None:
        text.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = quantize(hf_folder, dst, "q8_0", "--text", text)
    assert done.code == 1
    assert str(text) in done.err
    assert not dst.exists()


def test_what_exists_stays(hf_folder: Path, dst: Path) -> None:
    dst.parent.mkdir()
    dst.write_text("mine")
    done = quantize(hf_folder, dst, "q8_0")
    assert done.code == 1
    assert f"{dst}: exists" in done.err
    assert dst.read_text() == "mine"
    assert quantize(hf_folder, dst, "q8_0", "--force", "--no-report").code == 0
    assert checkpoint.open(dst).kind == "gguf"


def test_the_source_is_not_written_over(hf_folder: Path, tmp_path: Path) -> None:
    path, link = tmp_path / "a.gguf", tmp_path / "link.gguf"
    assert quantize(hf_folder, path, "f16", "--no-report").code == 0
    link.symlink_to(path)
    before = path.read_bytes()
    for src, dst in [(path, path), (link, path), (path, link)]:
        done = quantize(src, dst, "q8_0", "--force")
        assert done.code == 1
        assert "is the source itself" in done.err
    assert path.read_bytes() == before


def test_the_file_bears_the_name_that_was_given(hf_folder: Path, dst: Path, tmp_path: Path) -> None:
    source = tmp_path / "CodeLlama-7b.v2"
    source.symlink_to(hf_folder)
    assert quantize(source, dst, "f16", "--no-report").code == 0
    fields = gguf.GGUFReader(dst).fields
    assert fields["general.name"].contents() == "CodeLlama-7b.v2"
    assert fields["general.file_type"].contents() == 1


def test_info_shows_a_mixed_file(tmp_path: Path, dst: Path) -> None:
    config = tiny_config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=480)
    assert quantize(write_hf(tmp_path / "m", config), dst, "q4_k_m", "--no-report").code == 0
    facts = json.loads(run("info", dst, "--json").out)
    assert facts["tensor_formats"] == {"F32": 5, "Q4_K": 12, "Q5_0": 1, "Q6_K": 2, "Q8_0": 1}
    assert "12 Q4_K, 1 Q5_0, 2 Q6_K, 1 Q8_0" in run("info", dst).out.decode()


def test_a_quantised_source_is_refused_unless_asked_for(
    hf_folder: Path, dst: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.gguf"
    assert quantize(hf_folder, small, "q8_0", "--no-report").code == 0
    done = quantize(small, dst, "q4_0", "--no-report")
    assert done.code == 1
    assert "is quantised already (Q8_0)" in done.err
    assert "--allow-requantize" in done.err
    assert not dst.exists()
    again = quantize(small, dst, "q4_0", "--no-report", "--allow-requantize")
    assert again.code == 0, again.err
    same = quantize(small, tmp_path / "same.gguf", "q8_0", "--no-report")
    assert same.code == 0, same.err  # nothing is rounded twice


def test_a_disk_without_room(hf_folder: Path, dst: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        done = quantize(hf_folder, dst, "q8_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 1
    assert "cannot be written" in done.err
    assert "free some space" in done.err
    assert list(dst.parent.iterdir()) == []


def test_a_report_that_fails_leaves_the_file_and_says_so(
    hf_folder: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError('there is no format "Q9_9"')

    monkeypatch.setattr("codellama.engine.fidelity.load_runner", refuse)
    done = quantize(hf_folder, dst, "q8_0", "--json")
    assert done.code == 1
    assert f"{dst} is written, but not compared: the cpu engine cannot run" in done.err
    assert json.loads(done.out)["quality"] is None
    assert checkpoint.open(dst).kind == "gguf"


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--format", "q9_0"),
        ("--format", "Q8_0"),
        ("--format", "q8_0", "--tokens", "0"),
        ("--format", "q8_0", "--threads", "0"),
        ("--format", "q8_0", "--engine", "gpu"),
    ],
)
def test_senseless_command_lines(hf_folder: Path, dst: Path, flags: tuple[str, ...]) -> None:
    done = run("quantize", hf_folder, dst, *flags)
    assert done.code == 2
    assert not dst.exists()


def test_a_wide_model_in_blocks_of_256(tmp_path: Path, dst: Path) -> None:
    config = tiny_config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512)
    done = quantize(write_hf(tmp_path / "wide", config), dst, "q4_k_m", "--engine", "torch",
                    "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert set(found["tensor_formats"]) == {"F32", "Q4_K", "Q6_K"}
    assert found["quality"]["mean_kl"] < 0.5
    assert "instead of" not in done.err
