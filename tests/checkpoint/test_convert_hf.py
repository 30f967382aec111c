"""Any checkpoint into a Hugging Face folder."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints_tiny import Weights, tiny_config, tiny_weights, write_gguf, write_hf
from codellama import checkpoint
from codellama.checkpoint.convert import convert
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor
from hostile import contents


@pytest.fixture(params=["hf_folder", "meta_folder", "gguf_file"])
def source(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("dtype", [None, "F32", "F16", "BF16"])
def test_every_kind_becomes_the_same_model(
    tmp_path: Path, source: Path, config: ModelConfig, weights: Weights, dtype: Any
) -> None:
    convert(source, tmp_path / "made", dtype=dtype)
    reader, original = checkpoint.open(tmp_path / "made"), checkpoint.open(source)
    assert reader.config == original.config
    assert reader.config.tensor_shapes() == config.tensor_shapes()
    assert reader.generation.eos_ids == original.generation.eos_ids
    found = dict(reader.tensors())
    assert all(np.array_equal(found[name].to_float32(), x) for name, x in weights.items())
    formats = {tensor.format for tensor in found.values()}
    assert formats == ({i.format for i in original.infos.values()} if dtype is None else {dtype})
    ours, theirs = original.tokenizer(), reader.tokenizer()
    for text in ("def f(x):\n    return", "  é\t漢", ""):
        assert theirs.encode(text) == ours.encode(text)


def test_converting_twice_changes_no_byte(tmp_path: Path, hf_folder: Path) -> None:
    convert(hf_folder, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


def test_over_the_folder_being_read(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "model", n_shards=2)
    before = contents(folder)
    convert(folder, folder, overwrite=True)
    assert contents(folder) == before
    assert (folder / "model.safetensors").exists()
    notes = convert(folder, folder, dtype="BF16", overwrite=True)
    assert notes == ("21 tensors rounded from F32 to BF16",)
    assert {format for format, _, _ in contents(folder).values()} == {"BF16"}


@pytest.mark.parametrize("block", ["Q8_0", "Q4_0"])
def test_blocks_are_dequantised(tmp_path: Path, weights: Weights, block: str) -> None:
    source = write_gguf(tmp_path / "x.gguf", dtype=block)
    notes = convert(source, tmp_path / "made")
    assert any(f"dequantised from {block} to BF16" in note for note in notes)
    found = dict(checkpoint.open(tmp_path / "made").tensors())
    for name, x in weights.items():
        stored = Tensor.from_float32(x, Format(block) if x.ndim == 2 else Format.F32)
        expected = stored.to(found[name].format)
        assert (found[name].data == expected.data).all()


def test_progress_counts_to_the_end(tmp_path: Path, hf_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(hf_folder, tmp_path / "made", progress=lambda done, n: seen.append((done, n)))
    assert seen == [(i + 1, 21) for i in range(21)]


def test_memory_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    config = tiny_config(n_layers=40, dim=256, ffn_dim=512)
    source = write_hf(tmp_path / "source", config, tiny_weights(config))
    largest = 256 * 512 * 4
    size = (source / "model.safetensors").stat().st_size
    checkpoint.open(source).tokenizer()
    tracemalloc.start()
    try:
        convert(source, tmp_path / "made", dtype="BF16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * largest < size / 10


def test_a_broken_source_leaves_nothing(tmp_path: Path, hf_folder: Path) -> None:
    source = write_hf(tmp_path / "source")

    def cut(done: int, _: int) -> None:
        if done == 5:
            with (source / "model.safetensors").open("r+b") as file:
                file.truncate(9000)

    with pytest.raises(CheckpointError, match="changed while it was being read"):
        convert(source, tmp_path / "made", progress=cut)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        convert(tmp_path / "absent", tmp_path / "made")
    assert not (tmp_path / "made").exists()
