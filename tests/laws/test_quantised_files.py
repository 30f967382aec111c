"""A quantised file is the model that the `gguf` package's numbers make, in every mix."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints_tiny import Weights, tiny_config, tiny_weights, write_hf
from codellama import checkpoint
from codellama.checkpoint.quantize import quantize
from codellama.quant.formats import Tensor
from codellama.quant.mixes import MIXES
from codellama.runners import Batch
from codellama.runners.torch import TorchRunner

CONFIG = tiny_config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, n_layers=3)
NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("law") / "hf", CONFIG)


def by_the_package(path: Path) -> Weights:
    """The numbers in the file by our names, heads turned, as the package dequantises them."""
    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        *layer, kind = tensor.name.removesuffix(".weight").replace("blk.", "").split(".")
        x = gguf.dequantize(tensor.data, tensor.tensor_type)
        if kind in ("attn_q", "attn_k"):
            x = x.reshape(-1, CONFIG.head_dim // 2, 2, CONFIG.dim).swapaxes(1, 2)
            x = x.reshape(-1, CONFIG.dim)
        prefix = f"layers.{layer[0]}." if layer else ""
        weights[f"{prefix}{NAMES[kind]}.weight"] = np.ascontiguousarray(x)
    return weights


def logits(tensors: list[tuple[str, Tensor]]) -> NDArray[np.float32]:
    runner = TorchRunner(CONFIG, tensors, n_blocks=2, block_size=16)
    tokens = np.random.default_rng(0).integers(3, 320, 30).astype(np.int32)
    everything = np.arange(30, dtype=np.int32)
    return runner.run(
        Batch(
            tokens=tokens,
            positions=everything,
            seq_starts=np.array([0, 30], np.int32),
            context_lens=np.array([30], np.int32),
            block_tables=np.array([[1, 0]], np.int32),
            logit_rows=everything,
        )
    )


@pytest.mark.parametrize("mix", MIXES)
def test_a_file_is_its_dequantised_model(folder: Path, tmp_path: Path, mix: str) -> None:
    path = tmp_path / "x.gguf"
    quantize(folder, path, mix)
    theirs = [(name, Tensor.from_float32(x)) for name, x in by_the_package(path).items()]
    ours = logits(list(checkpoint.open(path).tensors()))
    assert np.array_equal(ours, logits(theirs))
    assert ours.std() > 0.1
    original = logits([(n, Tensor.from_float32(x)) for n, x in tiny_weights(CONFIG).items()])
    assert (ours == original).all() == (mix in ("f32", "f16", "bf16"))
