"""Saving: what others read back, load∘save = identity, and what cannot be saved."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints_tiny import Weights, tiny_config, tiny_weights, write_hf
from codellama import checkpoint
from codellama.checkpoint import save
from codellama.checkpoint.reader import GenerationDefaults
from codellama.checkpoint.save import save_hf
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor
from codellama.text.tokenizer import Tokenizer
from hostile import contents, split_safetensors
from saving_tiny import as_tensors, only, save_tiny

# --- what others read back


@pytest.mark.parametrize(("max_shard_bytes", "n_shards"), [(10**9, 1), (100_000, 5)])
def test_transformers_computes_the_same(
    dst: Path, tokenizer: Tokenizer, max_shard_bytes: int, n_shards: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    original = write_hf(dst.parent / "original")
    save_tiny(dst, tokenizer, max_shard_bytes=max_shard_bytes)
    assert len(list(dst.glob("*.safetensors"))) == n_shards
    ids = torch.tensor([[1, 5, 300, 17, 44, 2, 9]])
    logits = []
    for folder in (original, dst):
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        assert model.dtype == torch.float32
        with torch.no_grad():
            logits.append(model(ids).logits)
    assert torch.equal(*logits)
    assert logits[0].std() > 0.1


def test_transformers_takes_the_format_and_the_ends(dst: Path, tokenizer: Tokenizer) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ends = GenerationDefaults(bos_id=1, eos_ids=(2, 319))
    save_tiny(dst, tokenizer, dtype="BF16", generation=ends)
    model = AutoModelForCausalLM.from_pretrained(dst, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert model.config.rope_parameters["rope_theta"] == 1e6
    assert model.generation_config.eos_token_id == [2, 319]
    assert model.generation_config.bos_token_id == 1


TEXTS = ["def f(x):\n    return x", " x", "  x", "", "\n", "é漢字😀", "import  self\t", "a <PRE> b"]


@pytest.mark.parametrize("form", [None, "inst"])
def test_transformers_reads_the_tokenizer(dst: Path, tokenizer: Tokenizer, form: Any) -> None:
    from transformers import AutoTokenizer

    save_tiny(dst, tokenizer, chat_form=form)
    theirs = AutoTokenizer.from_pretrained(dst, local_files_only=True)
    for text in TEXTS:
        ids = tokenizer.encode(text, bos=True)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids[1:])
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert theirs.model_max_length == 256
    if form is None:
        assert theirs.chat_template is None
    else:
        chat = theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
        assert chat == "<s>[INST] hi [/INST]"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_safetensors_library_reads_the_weights(
    dst: Path, tokenizer: Tokenizer, weights: Weights, dtype: Any
) -> None:
    from safetensors.torch import load_file

    save_tiny(dst, tokenizer, dtype=dtype)
    found = load_file(dst / "model.safetensors")
    assert len(found) == len(weights)
    for name, x in weights.items():
        full = name if name == "lm_head.weight" else f"model.{name}"
        assert np.array_equal(found[full].float().numpy(), x)


# --- load after save is the identity


@pytest.mark.parametrize("format", ["F32", "F16", "BF16"])
def test_load_of_save_is_the_identity(tmp_path: Path, tokenizer: Tokenizer, format: str) -> None:
    first = checkpoint.open(write_hf(tmp_path / "a", dtype=format))
    notes = save_hf(
        tmp_path / "b",
        first.config,
        first.tensors(),
        tokenizer,
        generation=first.generation,
        chat_form="inst",
    )
    assert notes == ()
    second = checkpoint.open(tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert second.config == first.config
    assert second.generation == first.generation
    assert second.chat_form == "inst"
    assert second.tokenizer().encode("def f") == tokenizer.encode("def f")
    assert second.notes == ()


def test_arbitrary_bits_survive(dst: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: Tensor(Format.BF16, shape, rng.integers(0, 256, 2 * int(np.prod(shape)), np.uint8))
        for name, shape in config.tensor_shapes().items()
    }
    save_tiny(dst, tokenizer, tensors=tensors.items())
    found = contents(dst)
    assert all(found[name][2] == t.data.tobytes() for name, t in tensors.items())


def test_mixed_formats_are_kept(dst: Path, tokenizer: Tokenizer, weights: Weights) -> None:
    formats = [Format.F32, Format.F16, Format.BF16]
    tensors = [
        (name, Tensor.from_float32(x, formats[i % 3]))
        for i, (name, x) in enumerate(weights.items())
    ]
    save_tiny(dst, tokenizer, tensors=tensors)
    assert {name: f for name, (f, _, _) in contents(dst).items()} == {
        name: t.format for name, t in tensors
    }


@pytest.mark.parametrize(("format", "word"), [("F16", "float16"), ("BF16", "bfloat16")])
def test_the_configuration_names_the_format_of_most_numbers(
    dst: Path, tokenizer: Tokenizer, weights: Weights, format: str, word: str
) -> None:
    tensors = [
        (name, Tensor.from_float32(x, Format(format) if x.ndim == 2 else Format.F32))
        for name, x in weights.items()
    ]
    save_tiny(dst, tokenizer, tensors=tensors)
    config = json.loads((dst / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == word


@pytest.mark.parametrize("form", [None, "inst", "step"])
@pytest.mark.parametrize("eos_ids", [(), (2,), (2, 5)], ids=str)
def test_form_and_ends_are_kept(dst: Path, tokenizer: Tokenizer, form: Any, eos_ids: Any) -> None:
    generation = GenerationDefaults(bos_id=1, eos_ids=eos_ids)
    save_tiny(dst, tokenizer, chat_form=form, generation=generation)
    reader = checkpoint.open(dst)
    assert reader.chat_form == form
    assert reader.generation == generation
    assert (reader.chat_template is None) == (form is None)


def test_any_order_of_tensors_will_do(dst: Path, tokenizer: Tokenizer, weights: Weights) -> None:
    backwards = dict(reversed(as_tensors(weights).items()))
    save_tiny(dst, tokenizer, tensors=backwards.items())
    save_tiny(dst.with_name("forwards"), tokenizer)
    assert contents(dst) == contents(dst.with_name("forwards"))


def test_the_same_model_gives_the_same_bytes(dst: Path, tokenizer: Tokenizer) -> None:
    again = dst.with_name("again")
    save_tiny(dst, tokenizer)
    save_tiny(again, tokenizer)
    assert only(dst) == only(again)
    assert all((dst / n).read_bytes() == (again / n).read_bytes() for n in only(dst))


def test_tied_embeddings_have_no_head(dst: Path, tokenizer: Tokenizer) -> None:
    config = tiny_config(tie_embeddings=True)
    save_tiny(dst, tokenizer, config=config, tensors=as_tensors(tiny_weights(config)).items())
    reader = checkpoint.open(dst)
    assert reader.config.tie_embeddings
    assert "lm_head.weight" not in dict(reader.tensors())


# --- files


def test_what_is_written(dst: Path, tokenizer: Tokenizer) -> None:
    save_tiny(dst, tokenizer)
    assert only(dst) == [
        "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip
    assert only(dst.parent) == ["model"]
    umask = os.umask(0)
    os.umask(umask)
    assert dst.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("max_shard_bytes", [1, 30_000, 100_000])
def test_shards(dst: Path, tokenizer: Tokenizer, max_shard_bytes: int) -> None:
    save_tiny(dst, tokenizer, max_shard_bytes=max_shard_bytes)
    index = json.loads((dst / "model.safetensors.index.json").read_text())
    files = sorted(dst.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == [file.name for file in files]
    assert len({file.name[-14:] for file in files}) == 1
    for file in files:
        header, data = split_safetensors(file.read_bytes())
        assert len(data) <= max_shard_bytes or len(header) == 2  # one tensor and the metadata
        assert (file.stat().st_size - len(data)) % 64 == 0
    save_tiny(dst.with_name("single"), tokenizer)
    assert contents(dst) == contents(dst.with_name("single"))


def test_more_files_than_can_be_read_back(
    dst: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "MAX_SHARDS", 20)
    with pytest.raises(CheckpointError, match="21 files are more than the 20"):
        save_tiny(dst, tokenizer, max_shard_bytes=1)
    assert only(dst.parent) == []


# --- formats


@pytest.mark.parametrize("block", [Format.Q8_0, Format.Q4_0])
@pytest.mark.parametrize(("dtype", "result"), [(None, "BF16"), ("F16", "F16"), ("F32", "F32")])
def test_blocks_are_dequantised_and_it_is_said(
    dst: Path, tokenizer: Tokenizer, weights: Weights, block: Format, dtype: Any, result: str
) -> None:
    tensors = {
        name: Tensor.from_float32(x, block if x.ndim == 2 else Format.F32)
        for name, x in weights.items()
    }
    notes = save_tiny(dst, tokenizer, tensors=tensors.items(), dtype=dtype)
    assert f"16 tensors dequantised from {block} to {result}" in notes
    found = dict(checkpoint.open(dst).tensors())
    for name, tensor in tensors.items():
        assert (found[name].data == tensor.to(found[name].format).data).all()
        if tensor.format is block:
            assert found[name].format == result


def test_rounding_is_said_and_widening_is_not(dst: Path, tokenizer: Tokenizer) -> None:
    assert save_tiny(dst, tokenizer, dtype="F16") == ("21 tensors rounded from F32 to F16",)
    wide = as_tensors(tiny_weights(), Format.BF16)
    assert save_tiny(dst.with_name("b"), tokenizer, tensors=wide.items(), dtype="F32") == ()


def test_a_number_too_large_is_named_and_nothing_is_left(dst: Path, tokenizer: Tokenizer) -> None:
    weights = tiny_weights()
    weights["layers.1.mlp.up_proj.weight"][3, 3] = 1e6
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.up_proj.weight: .* 1e\+06 .* F16"):
        save_tiny(dst, tokenizer, tensors=as_tensors(weights).items(), dtype="F16")
    assert only(dst.parent) == []


# --- tensors that are not the model's


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "1 tensor never came: norm.weight"),
        ("doubled", "'norm.weight' was given a second time"),
        ("extra", "'ghost' was given though nothing asks for it"),
        ("misshapen", r"norm.weight is \[65\] instead of \[64\]"),
        ("broken", "the source broke"),
    ],
)
def test_a_wrong_tensor_leaves_nothing(
    dst: Path, tokenizer: Tokenizer, fault: str, words: str
) -> None:
    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in as_tensors(tiny_weights()).items():
            if name != "norm.weight":
                yield name, tensor
                continue
            if fault == "misshapen":
                yield name, Tensor.from_float32(np.ones(65, np.float32))
            elif fault == "broken":
                raise CheckpointError("the source broke")
            elif fault != "missing":
                yield name, tensor
                yield ("ghost" if fault == "extra" else name), tensor

    with pytest.raises(CheckpointError, match=words):
        save_tiny(dst, tokenizer, tensors=tensors())
    assert only(dst.parent) == []


def test_a_tokenizer_larger_than_the_model(dst: Path, tokenizer: Tokenizer) -> None:
    config = tiny_config(vocab_size=310)
    with pytest.raises(CheckpointError, match="320 pieces and the model embeds 310"):
        save_tiny(dst, tokenizer, config=config, tensors=as_tensors(tiny_weights(config)).items())
    assert not dst.exists()
