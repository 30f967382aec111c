"""Hugging Face folders: names, what is skipped, where sequences end, and how the model chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints_tiny import (
    Weights,
    hf_name,
    set_json,
    tiny_config,
    tiny_weights,
    write_hf,
    write_json,
    write_safetensors,
)
from codellama import checkpoint
from codellama.checkpoint.reader import GenerationDefaults
from codellama.errors import CheckpointError, CodeLlamaError
from codellama.model.config import ModelConfig
from codellama.text.hf_json import tokenizer_json
from hostile import SMALLEST, outcome, refusal

NAMES = list(SMALLEST.tensor_shapes())


# --- what is read


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_config_and_every_tensor(
    tmp_path: Path, config: ModelConfig, weights: Weights, dtype: str
) -> None:
    reader = checkpoint.open(write_hf(tmp_path, dtype=dtype))
    assert (reader.kind, reader.config, reader.path) == ("hf", config, tmp_path)
    assert reader.notes == ()
    found = dict(reader.tensors())
    assert list(reader.infos) == list(found) != []
    for name, x in weights.items():
        assert np.array_equal(found[name].to_float32(), x)
        info = reader.infos[name]
        assert (info.format, info.shape, info.n_bytes) == (dtype, x.shape, found[name].n_bytes)
        assert not found[name].data.flags.writeable
        assert found[name].data.ctypes.data % 64 == 0


def test_tensors_can_be_asked_for_again(hf_folder: Path) -> None:
    reader = checkpoint.open(str(hf_folder))
    first, second = dict(reader.tensors()), dict(reader.tensors())
    assert all((first[name].data == second[name].data).all() for name in first)


def test_names_without_the_model_prefix(tmp_path: Path) -> None:
    weights = tiny_weights(SMALLEST)
    write_hf(tmp_path, SMALLEST, tokenizer=False)
    write_safetensors(tmp_path / "model.safetensors", weights)
    found = dict(checkpoint.open(tmp_path).tensors())
    assert all(np.array_equal(found[name].to_float32(), x) for name, x in weights.items())


def test_the_tokenizer_is_the_folder_s(hf_folder: Path) -> None:
    tokenizer = checkpoint.open(hf_folder).tokenizer()
    assert tokenizer.n_vocab == 320
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


def test_a_tokenizer_json_alone_will_do(hf_folder: Path, tmp_path: Path) -> None:
    original = checkpoint.open(hf_folder).tokenizer()
    write_hf(tmp_path, tokenizer=False)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(original)))
    tokenizer = checkpoint.open(tmp_path).tokenizer()
    for text in ("def f(x):\n    return x", "  é", ""):
        assert tokenizer.encode(text) == original.encode(text)


def test_no_tokenizer_at_all(smallest_hf: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer.model nor tokenizer.json"):
        checkpoint.open(smallest_hf).tokenizer()


def test_a_tokenizer_larger_than_the_embeddings(tmp_path: Path, tokenizer_model: Path) -> None:
    write_hf(tmp_path, tiny_config(vocab_size=318), tokenizer=False)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    with pytest.raises(CheckpointError, match="320 pieces and the model embeds 318"):
        checkpoint.open(tmp_path).tokenizer()


# --- what is skipped


@pytest.mark.parametrize(
    "names",
    [
        ["model.layers.0.self_attn.rotary_emb.inv_freq"],
        ["model.rotary_emb.inv_freq"],
        ["rotary_emb.inv_freq", "layers.7.self_attn.rotary_emb.inv_freq"],
    ],
)
def test_rotary_tables_are_skipped_and_counted(smallest_hf: Path, names: list[str]) -> None:
    weights = {hf_name(name): x for name, x in tiny_weights(SMALLEST).items()}
    extra = {name: np.ones(1, np.float32) for name in names}
    write_safetensors(smallest_hf / "model.safetensors", weights | extra)
    reader = checkpoint.open(smallest_hf)
    (note,) = reader.notes
    assert f"skipped {len(names)} tensor" in note
    assert names[0] in note
    assert len(dict(reader.tensors())) == len(NAMES)


@pytest.mark.parametrize("name", ["model.rotary_emb.inv_freq.x", "model.layers.x.inv_freq"])
def test_other_extras_are_not_skipped(smallest_hf: Path, name: str) -> None:
    weights = {hf_name(name): x for name, x in tiny_weights(SMALLEST).items()}
    write_safetensors(smallest_hf / "model.safetensors", weights | {name: np.ones(1, np.float32)})
    assert name in refusal(smallest_hf, CodeLlamaError)


def tied(folder: Path, head: Any) -> Path:
    config = tiny_config(tie_embeddings=True)
    weights = tiny_weights(config)
    write_hf(folder, config, weights | ({} if head is None else {"lm_head.weight": head(weights)}))
    return folder


@pytest.mark.parametrize("head", [None, lambda w: w["embed_tokens.weight"]])
def test_a_tied_head_may_be_a_copy(tmp_path: Path, head: Any) -> None:
    reader = checkpoint.open(tied(tmp_path, head))
    assert "lm_head.weight" not in reader.infos
    assert len(reader.notes) == (head is not None)
    assert len(dict(reader.tensors())) == len(reader.infos)


@pytest.mark.parametrize(
    "head",
    [
        lambda w: w["embed_tokens.weight"] + np.eye(320, 64, -319, dtype=np.float32),
        lambda w: w["embed_tokens.weight"][:319],
    ],
)
def test_a_tied_head_may_not_differ(tmp_path: Path, head: Any) -> None:
    reader = checkpoint.open(tied(tmp_path, head))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from the embeddings"):
        list(reader.tensors())


def test_a_missing_head_hints_at_tying(smallest_hf: Path) -> None:
    weights = {hf_name(n): x for n, x in tiny_weights(SMALLEST).items() if n != "lm_head.weight"}
    write_safetensors(smallest_hf / "model.safetensors", weights)
    error = outcome(smallest_hf)
    assert isinstance(error, CheckpointError)
    assert "missing 1 tensor of a 1-layer model: lm_head.weight" in str(error)
    assert "tied" in str(error.hint)


# --- tensors that are not this model's


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "turned", "extra", "doubled", "dtype"])
def test_a_wrong_tensor_is_named(smallest_hf: Path, name: str, fault: str) -> None:
    import torch
    from safetensors.torch import save_file

    weights = {hf_name(n): torch.from_numpy(x) for n, x in tiny_weights(SMALLEST).items()}
    full = hf_name(name)
    x = weights.pop(full)
    if fault == "misshapen":
        weights[full] = torch.cat([x, x])
    elif fault == "turned":
        weights[full] = x[None]
    elif fault == "extra":
        weights |= {full: x, full.replace("weight", "bias"): torch.ones(2)}
    elif fault == "doubled":
        weights |= {full: x, full.removeprefix("model.").replace("lm_", "model.lm_"): x.clone()}
    elif fault == "dtype":
        weights[full] = x.to(torch.float64)
    save_file(weights, smallest_hf / "model.safetensors", {"format": "pt"})
    text = refusal(smallest_hf, CodeLlamaError)
    assert name.removesuffix("weight") in text
    words = {"turned": "wrong shape", "misshapen": "wrong shape", "doubled": "twice",
             "dtype": "F64", "extra": "does not"}  # fmt: skip
    assert words.get(fault, fault) in text


def test_counts_and_a_few_names_are_given(tmp_path: Path) -> None:
    config = tiny_config(n_layers=4)
    write_hf(tmp_path, config, tiny_weights(tiny_config(n_layers=2)), tokenizer=False)
    text = refusal(tmp_path)
    assert "missing 18 tensors of a 4-layer model: layers.2.input_layernorm.weight" in text
    assert text.endswith(", and 13 more")


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 2},
        {"hidden_size": 4},
        {"intermediate_size": 4},
        {"vocab_size": 4},
        {"num_attention_heads": 2},
        {"num_key_value_heads": 2, "num_attention_heads": 2},
        {"head_dim": 4},
    ],
    ids=str,
)
def test_a_configuration_of_another_size(smallest_hf: Path, change: dict[str, int]) -> None:
    set_json(smallest_hf / "config.json", **change)
    assert "model" in refusal(smallest_hf, CodeLlamaError)


def test_a_promise_of_very_many_layers_costs_nothing(smallest_hf: Path) -> None:
    set_json(smallest_hf / "config.json", num_hidden_layers=2**31 - 1)
    text = refusal(smallest_hf)
    assert "promises 2147483647 layers, and there are only 12 tensors" in text


# --- where sequences begin and end


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, (1, (2,))),
        ({}, {}, (1, (2,))),
        ({}, {"eos_token_id": [2, 0]}, (1, (2, 0))),
        ({"eos_token_id": 0}, {"eos_token_id": 1, "bos_token_id": 0}, (0, (1,))),
        ({"eos_token_id": [0, 1]}, {"eos_token_id": None}, (1, (0, 1))),
        ({"eos_token_id": None, "bos_token_id": None}, None, (None, ())),
    ],
    ids=str,
)
def test_ends_as_the_files_say(
    smallest_hf: Path, config: dict, generation: dict | None, expected: tuple
) -> None:
    set_json(smallest_hf / "config.json", **config)
    if generation is not None:
        write_json(smallest_hf / "generation_config.json", generation)
    bos_id, eos_ids = expected
    found = checkpoint.open(smallest_hf).generation
    assert found == GenerationDefaults(bos_id=bos_id, eos_ids=eos_ids)


@pytest.mark.parametrize("value", [-1, 3, 2**63, "2", True, 1.0, {}, [[2]], [2, "x"]], ids=str)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_that_is_no_token(smallest_hf: Path, file: str, value: Any) -> None:
    if not (smallest_hf / file).exists():
        write_json(smallest_hf / file, {})
    set_json(smallest_hf / file, eos_token_id=value)
    text = refusal(smallest_hf, CodeLlamaError)
    assert file in text
    assert "eos_token_id" in text


def test_only_one_beginning(smallest_hf: Path) -> None:
    set_json(smallest_hf / "config.json", bos_token_id=[1, 2])
    assert "bos_token_id" in refusal(smallest_hf, CodeLlamaError)


# --- chat

INST = "{% if m %}[INST] {{ m }} [/INST]{% endif %}"
STEP = "{{ ' Source: ' + role }} <step> "


@pytest.mark.parametrize(
    ("files", "template", "form"),
    [
        ({}, None, None),
        ({"tokenizer_config.json": {}}, None, None),
        ({"tokenizer_config.json": {"chat_template": INST}}, INST, "inst"),
        ({"tokenizer_config.json": {"chat_template": STEP}}, STEP, "step"),
        ({"tokenizer_config.json": {"chat_template": "{{ x }}"}}, "{{ x }}", None),
        ({"tokenizer_config.json": {"chat_template": [1, {"name": "default", "template": INST}]}},
         INST, "inst"),
        ({"tokenizer_config.json": {"chat_template": 5}}, None, None),
        ({"chat_template.jinja": INST}, INST, "inst"),
        ({"chat_template.jinja": INST, "tokenizer_config.json": {"codellama": {"chat_form": None}}},
         INST, None),
        ({"tokenizer_config.json": {"codellama": {"chat_form": "step"}}}, None, "step"),
        ({"tokenizer_config.json": {"codellama": {"chat_form": "inst"}, "chat_template": STEP}},
         STEP, "inst"),
        ({"tokenizer_config.json": {"codellama": 3}}, None, None),
    ],
)  # fmt: skip
def test_the_chat_form_and_the_template(
    tmp_path: Path, files: dict[str, Any], template: str | None, form: str | None
) -> None:
    write_hf(tmp_path)
    for name, value in files.items():
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    reader = checkpoint.open(tmp_path)
    assert reader.chat_template == template
    assert reader.chat_form == form


def test_a_chat_form_of_ours_that_does_not_exist(smallest_hf: Path) -> None:
    write_json(smallest_hf / "tokenizer_config.json", {"codellama": {"chat_form": ["x"]}})
    with pytest.raises(CheckpointError, match="expected inst, step or null"):
        _ = checkpoint.open(smallest_hf).chat_form
