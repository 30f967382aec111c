"""Hugging Face folders: configuration, names, what is skipped, and what the files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints_tiny import (
    Weights,
    hf_name,
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
from hostile import SMALLEST, flipped, outcome

NAMES = list(SMALLEST.tensor_shapes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "model", SMALLEST, tokenizer=False)


def refusal(folder: Path) -> str:
    error = outcome(folder)
    assert isinstance(error, CodeLlamaError), "this should have been refused"
    return str(error)


def set_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


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


def test_no_tokenizer_at_all(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer.model nor tokenizer.json"):
        checkpoint.open(folder).tokenizer()


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
def test_rotary_tables_are_skipped_and_counted(folder: Path, names: list[str]) -> None:
    weights = {hf_name(name): x for name, x in tiny_weights(SMALLEST).items()}
    extra = {name: np.ones(1, np.float32) for name in names}
    write_safetensors(folder / "model.safetensors", weights | extra)
    reader = checkpoint.open(folder)
    (note,) = reader.notes
    assert f"skipped {len(names)} tensor" in note
    assert names[0] in note
    assert len(dict(reader.tensors())) == len(NAMES)


@pytest.mark.parametrize("name", ["model.rotary_emb.inv_freq.x", "model.layers.x.inv_freq"])
def test_other_extras_are_not_skipped(folder: Path, name: str) -> None:
    weights = {hf_name(name): x for name, x in tiny_weights(SMALLEST).items()}
    write_safetensors(folder / "model.safetensors", weights | {name: np.ones(1, np.float32)})
    assert name in refusal(folder)


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


def test_a_missing_head_hints_at_tying(folder: Path) -> None:
    weights = {hf_name(n): x for n, x in tiny_weights(SMALLEST).items() if n != "lm_head.weight"}
    write_safetensors(folder / "model.safetensors", weights)
    error = outcome(folder)
    assert isinstance(error, CheckpointError)
    assert "missing 1 tensor of a 1-layer model: lm_head.weight" in str(error)
    assert "tied" in str(error.hint)


# --- tensors that are not this model's


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "turned", "extra", "doubled", "dtype"])
def test_a_wrong_tensor_is_named(folder: Path, name: str, fault: str) -> None:
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
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    text = refusal(folder)
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
def test_a_configuration_of_another_size(folder: Path, change: dict[str, int]) -> None:
    set_json(folder / "config.json", **change)
    assert "model" in refusal(folder)


def test_a_promise_of_very_many_layers_costs_nothing(folder: Path) -> None:
    set_json(folder / "config.json", num_hidden_layers=2**31 - 1)
    assert "promises 2147483647 layers, and there are only 12 tensors" in refusal(folder)


# --- config.json

SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings"]  # fmt: skip
NUMBERS = ["rms_norm_eps", "rope_theta"]


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, "2", 1.5, True, [], {}, [2]], ids=str)
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_cannot_be(folder: Path, key: str, value: Any) -> None:
    set_json(folder / "config.json", **{key: value})
    refusal(folder)


@pytest.mark.parametrize("value", [0, -1, 0.0, -1e-5, "1", True, [], {}], ids=str)
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_that_cannot_be(folder: Path, key: str, value: Any) -> None:
    set_json(folder / "config.json", **{key: value})
    text = refusal(folder)
    assert key.split("_")[-1] in text or "rotary base" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": "x"}, "quantised"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "yarn"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
    ids=str,
)
def test_what_the_architecture_does_not_do(folder: Path, change: dict, words: str) -> None:
    set_json(folder / "config.json", **change)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{", "not JSON"),
        ('{"vocab_size": 3, "vocab_size": 4}', "twice"),
        ('{"rms_norm_eps": NaN}', "not finite"),
        ('{"rope_theta": 1e400}', "not finite"),
        ('{"hidden_size": 1' + "0" * 400 + "}", "too long"),
        ('{"a":' * 40 + "1" + "}" * 40, "deeper"),
        ("<!DOCTYPE html><html></html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ],
    ids=lambda v: v[:20],
)
def test_a_configuration_that_is_not_strict_json(folder: Path, text: str, words: str) -> None:
    (folder / "config.json").write_text(text)
    assert words in refusal(folder)


def test_a_missing_configuration_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: there is no such file" in refusal(folder)


def test_any_configuration_bit_flipped_leaves_the_tensors_alone(folder: Path) -> None:
    """Only numbers that no tensor's shape confirms can change without a refusal."""
    path = folder / "config.json"
    config = checkpoint.open(folder).config
    unconfirmed = {"norm_eps", "max_seq_len"}
    for bit in range(0, 8 * path.stat().st_size, 3):
        with flipped(path, bit):
            try:
                found = checkpoint.open(folder).config
            except CodeLlamaError:
                continue
        changed = {name for name, value in vars(config).items() if getattr(found, name) != value}
        assert changed <= unconfirmed, f"bit {bit}"


def test_code_in_a_model_folder_is_reported_and_not_run(folder: Path) -> None:
    set_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    (note,) = checkpoint.open(folder).notes
    assert "`auto_map`" in note


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
    folder: Path, config: dict, generation: dict | None, expected: tuple
) -> None:
    set_json(folder / "config.json", **config)
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    bos_id, eos_ids = expected
    found = checkpoint.open(folder).generation
    assert found == GenerationDefaults(bos_id=bos_id, eos_ids=eos_ids)


@pytest.mark.parametrize("value", [-1, 3, 2**63, "2", True, 1.0, {}, [[2]], [2, "x"]], ids=str)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_that_is_no_token(folder: Path, file: str, value: Any) -> None:
    if not (folder / file).exists():
        write_json(folder / file, {})
    set_json(folder / file, eos_token_id=value)
    text = refusal(folder)
    assert file in text
    assert "eos_token_id" in text


def test_only_one_beginning(folder: Path) -> None:
    set_json(folder / "config.json", bos_token_id=[1, 2])
    assert "bos_token_id" in refusal(folder)


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


def test_a_chat_form_of_ours_that_does_not_exist(folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", {"codellama": {"chat_form": ["x"]}})
    with pytest.raises(CheckpointError, match="expected inst, step or null"):
        _ = checkpoint.open(folder).chat_form
