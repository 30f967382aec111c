"""LoRA adapters: the merged model is the one that PyTorch computes from the same matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints_tiny import TINY, tiny_weights, write_hf, write_safetensors
from codellama import checkpoint
from codellama.checkpoint.lora import open_adapter
from codellama.engine.loading import load_model
from codellama.errors import CheckpointError
from codellama.runners import Batch

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "bias": "none", "modules_to_save": None,
          "fan_in_fan_out": False, "target_modules": ["q_proj", "down_proj"]}  # fmt: skip
Q = "base_model.model.model.layers.0.self_attn.q_proj"
DOWN = "base_model.model.model.layers.1.mlp.down_proj"


def factors() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(3)
    q, d, f = TINY.n_heads * TINY.head_dim, TINY.dim, TINY.ffn_dim
    shapes = {f"{Q}.lora_A": (4, d), f"{Q}.lora_B": (q, 4),
              f"{DOWN}.lora_A": (4, f), f"{DOWN}.lora_B": (d, 4)}  # fmt: skip
    return {
        f"{name}.weight": chance.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(folder: Path, config: Any = CONFIG, tensors: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = factors() if tensors is None else tensors
    write_safetensors(folder / "adapter_model.safetensors", tensors, "F32")
    return folder


def logits(path: Path, adapter: Path | None) -> np.ndarray:
    model = load_model(path, max_seq_len=16, max_num_seqs=1, n_threads=1, adapter=adapter)
    ids = np.arange(5, 12, dtype=np.int32)
    n = len(ids)
    return model.runner.run(
        Batch(
            tokens=ids,
            positions=np.arange(n, dtype=np.int32),
            seq_starts=np.array([0, n], np.int32),
            context_lens=np.array([n], np.int32),
            block_tables=np.array([[0]], np.int32),
            logit_rows=np.arange(n, dtype=np.int32),
        )
    )


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_is_the_model_with_its_matrices_added(tmp_path: Path, rslora: bool) -> None:
    """Against the same sum in float64, written as a checkpoint of its own."""
    base = write_hf(tmp_path / "base")
    adapter = write(tmp_path / "adapter", CONFIG | {"use_rslora": rslora})
    scale = 6 / (2 if rslora else 4)
    found = factors()
    merged = dict(tiny_weights())
    for stem, name in ((Q, "layers.0.self_attn.q_proj"), (DOWN, "layers.1.mlp.down_proj")):
        product = found[f"{stem}.lora_B.weight"].astype(float) @ found[f"{stem}.lora_A.weight"]
        merged[f"{name}.weight"] = (merged[f"{name}.weight"] + scale * product).astype(np.float32)
    expected = logits(write_hf(tmp_path / "merged", weights=merged), None)
    assert np.abs(logits(base, adapter) - expected).max() < 1e-4
    assert np.abs(logits(base, None) - expected).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "not LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 0}, "`r`"),
        ({"r": 8}, "expected a float"),
        ({"lora_alpha": "x"}, "lora_alpha"),
    ],
)
def test_settings_that_are_not_honoured(tmp_path: Path, change: Any, words: str) -> None:
    reader = checkpoint.open(write_hf(tmp_path / "base"))
    with pytest.raises(CheckpointError, match=words):
        open_adapter(write(tmp_path / "adapter", CONFIG | change), reader)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    reader = checkpoint.open(write_hf(tmp_path / "base"))
    found = factors()
    cases: list[tuple[Any, str]] = [
        ({}, "adapts nothing"),
        ({name: x for name, x in found.items() if "lora_B" not in name}, "one of its two"),
        (found | {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight":
                  np.zeros((4, 64), np.float32)}, "belongs to no matrix"),
        (found | {"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32)},
         "only projections"),
    ]  # fmt: skip
    for tensors, words in cases:
        with pytest.raises(CheckpointError, match=words):
            open_adapter(write(tmp_path / "adapter", tensors=tensors), reader)
    with pytest.raises(CheckpointError, match="holds no adapter_config"):
        open_adapter(tmp_path / "base", reader)
