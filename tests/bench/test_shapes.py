"""Files with random weights: whole, readable by others, and of sane numbers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from checkpoints_tiny import TINY
from codellama import checkpoint
from codellama.bench import shapes
from codellama.bench.gguf_file import gguf_of
from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format

SMALL = ModelConfig(
    dim=512, n_layers=3, n_heads=8, n_kv_heads=2, head_dim=64, ffn_dim=768, vocab_size=300,
    norm_eps=1e-5, rope_theta=1e6, max_seq_len=512,
)  # fmt: skip


@pytest.mark.parametrize("format", shapes.FORMATS)
def test_weights_keep_the_size_of_what_they_multiply(format: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shapes.write(path, SMALL, format)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(tensors) == len(SMALL.tensor_shapes())
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            continue
        x = gguf.dequantize(tensor.data, tensor.tensor_type)
        expected = 1.0 if name == "token_embd.weight" else x.shape[1] ** -0.5
        assert 0.8 * expected < x.std() < 1.25 * expected, name
        assert abs(x.mean()) < 0.2 * expected, name
        assert np.count_nonzero(x) > 0.8 * x.size, name


def test_formats_are_mixed_as_llama_quantize_does(tmp_path: Path) -> None:
    def kinds(format: str) -> dict[str, str]:
        path = tmp_path / f"{format}.gguf"
        shapes.write(path, SMALL, format)
        return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}

    assert kinds("q4_0")["output.weight"] == "Q6_K"
    assert kinds("q4_0-pure")["output.weight"] == "Q4_0"
    mixed = kinds("q4_k_m")
    assert mixed["output.weight"] == "Q6_K"
    assert mixed["token_embd.weight"] == mixed["blk.0.ffn_up.weight"] == "Q4_K"
    assert {mixed[f"blk.{i}.ffn_down.weight"] for i in range(3)} == {"Q4_K", "Q6_K"}


@pytest.mark.parametrize("format", ["f16", "q8_0", "q4_0-pure"])
def test_the_engine_reads_and_runs_them(format: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shapes.write(path, SMALL, format)
    reader = checkpoint.open(path)
    assert reader.config == SMALL
    assert reader.tokenizer().n_vocab == SMALL.vocab_size
    from codellama.bench.bodies.own import load

    logits = load(str(path), 1, 16, 1).prefill(4)
    assert np.isfinite(logits).all()  # type: ignore[call-overload]
    assert 0.1 < np.std(logits) < 10  # type: ignore[call-overload]


def test_a_shape_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "s", TINY)
    said: list[str] = []
    first = shapes.random_model("s", "q8_0", tmp_path / "a", progress=said.append)
    again = shapes.random_model("s", "q8_0", tmp_path / "a", progress=said.append)
    assert first == again
    assert len(said) == 1
    assert [p.name for p in first.parent.iterdir()] == ["random-s-q8_0.gguf"]

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.posix_fallocate", broken)
    with pytest.raises(CheckpointError, match="full"):
        shapes.random_model("s", "q8_0", tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_unknown_names_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no shape 'xl'") as caught:
        shapes.random_model("xl", "q8_0", tmp_path)
    assert caught.value.hint is not None
    assert "1.1b" in caught.value.hint
    with pytest.raises(ConfigError, match="no format 'q1'"):
        shapes.random_model("s", "q1", tmp_path)


@pytest.mark.parametrize("format", [None, Format.Q8_0])
def test_a_checkpoint_becomes_the_same_model_as_gguf(
    hf_folder: Path, tmp_path: Path, format: Format | None
) -> None:
    source = checkpoint.open(hf_folder)
    gguf_of(source, tmp_path / "model.gguf", format)
    made = checkpoint.open(tmp_path / "model.gguf")
    assert made.config == source.config
    weights = dict(made.tensors())
    for name, tensor in source.tensors():
        wanted = tensor if format is None or len(tensor.shape) == 1 else tensor.to(format)
        assert np.array_equal(weights[name].to_float32(), wanted.to_float32()), name
