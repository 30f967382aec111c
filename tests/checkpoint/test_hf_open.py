"""`checkpoint.open`: what is there, by its bytes; and what to do when it is something else."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from checkpoints_tiny import write_hf, write_json
from codellama import checkpoint
from codellama.errors import CheckpointError
from hostile import SMALLEST


@pytest.mark.parametrize("kind", ["hf", "meta", "gguf"])
def test_the_three_kinds(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue({"gguf": "gguf_file"}.get(kind, f"{kind}_folder"))
    assert checkpoint.open(path).kind == kind
    assert checkpoint.open(str(path)).kind == kind


def test_a_gguf_file_needs_no_suffix(gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").symlink_to(gguf_file)
    assert checkpoint.open(tmp_path / "weights.bin").kind == "gguf"


def test_a_folder_with_both_is_hugging_face_s(meta_folder: Path, tmp_path: Path) -> None:
    write_hf(tmp_path)
    for file in meta_folder.iterdir():
        if not (tmp_path / file.name).exists():
            (tmp_path / file.name).symlink_to(file)
    assert checkpoint.open(tmp_path).kind == "hf"


def refusal(path: Path | str) -> tuple[str, str]:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.open(path)
    return str(caught.value), str(caught.value.hint)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words", "hint"),
    [
        (b"", "is empty", ""),
        (zipped(), "zip archive", "params.json"),
        (tarred(), "tar archive", "give config.json"),
        (pickle.dumps({"a": 1}, protocol=2), "pickle", "params.json"),
        (gzip.compress(b"x"), "gzip", "give config.json"),
        (b"<!DOCTYPE html>\n<html>", "web page", "download"),
        (b"\n <html lang=en>", "web page", "download"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer", "download"),
        (b'{"model_type": "llama"}', "JSON file", "give its folder"),
        (b"\x7fELF", "not a model file of a known kind", "give config.json"),
        (bytes(5000), "not a model file of a known kind", "give config.json"),
        (b"GGU", "not a model file of a known kind", "give config.json"),
    ],
    ids=lambda v: str(v)[:16],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, words: str, hint: str) -> None:
    (tmp_path / "model.gguf").write_bytes(data)
    text, advice = refusal(tmp_path / "model.gguf")
    assert words in text
    assert hint in advice


def test_a_lone_safetensors_file_needs_its_folder(hf_folder: Path) -> None:
    text, hint = refusal(hf_folder / "model.safetensors")
    assert "single safetensors file" in text
    assert str(hf_folder) in hint


def test_a_lone_pth_file_needs_its_folder(meta_folder: Path) -> None:
    text, hint = refusal(meta_folder / "consolidated.00.pth")
    assert "zip archive" in text
    assert str(meta_folder) in hint


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"], ids=["one", "sharded"]
)
def test_pickled_weights_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "config.json", SMALLEST.to_hf())
    (tmp_path / name).write_bytes(zipped())
    text, hint = refusal(tmp_path)
    assert "pickles" in text
    assert "save_pretrained" in hint


@pytest.mark.parametrize(
    "data", [zipped(), pickle.dumps([1]), b"GGUF" + bytes(99)], ids=lambda d: d[:2].hex()
)
def test_other_bytes_under_the_name_of_safetensors(tmp_path: Path, data: bytes) -> None:
    write_hf(tmp_path, SMALLEST, tokenizer=False)
    (tmp_path / "model.safetensors").write_bytes(data)
    text, _ = refusal(tmp_path)
    assert ", not safetensors" in text


def test_an_empty_folder(tmp_path: Path) -> None:
    text, _ = refusal(tmp_path)
    assert "looked for config.json" in text
    assert "found nothing at all" in text


def test_a_folder_of_other_things(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.txt").touch()
    text, _ = refusal(tmp_path)
    assert text.endswith("found 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more")


def test_a_folder_around_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "a.Q8_0.gguf").touch()
    text, hint = refusal(tmp_path)
    assert "1 GGUF file" in text
    assert str(tmp_path / "a.Q8_0.gguf") in hint


def test_nothing_there_with_a_name_like_it(tmp_path: Path) -> None:
    (tmp_path / "CodeLlama-7b").mkdir()
    text, hint = refusal(tmp_path / "CodeLama-7b")
    assert "no such file or folder" in text
    assert str(tmp_path / "CodeLlama-7b") in hint


@pytest.mark.parametrize("path", ["/nonexistent/a/b", "a\0b", "x" * 5000, "\udcff"], ids=ascii)
def test_nothing_there_at_all(path: str) -> None:
    text, hint = refusal(path)
    assert "no such file or folder" in text
    assert hint.startswith("give ")


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")[0]
