"""Files of ours in llama.cpp, and its own quantiser beside ours.

Needs llama-cpp-python, which compiles for a while and is in the extra `peers`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints_tiny import Weights, tiny_config, write_hf
from codellama import LLM, SamplingParams, checkpoint
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.quantize import quantize
from codellama.model.config import ModelConfig
from codellama.quant.mixes import MIXES

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed: pip install 'codellama[peers]'"
)
pytestmark = pytest.mark.peer

TEXTS = ["def add(a, b):\n", " x", "  two  spaces", "é漢字😀", "import os\n\n\nclass A:\n\tpass"]
SHAPES = {
    "whole blocks": dict(dim=256, n_heads=4, n_kv_heads=4, head_dim=64, ffn_dim=512, n_layers=9),
    "rows that do not fit": dict(
        dim=192, n_heads=3, n_kv_heads=3, head_dim=64, ffn_dim=544, n_layers=3
    ),
    "tied": dict(
        dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=256, n_layers=2, tie_embeddings=True
    ),
}


def real_looking(config: ModelConfig) -> Weights:
    """Heavy tails, and rows of different sizes."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        x = 1 + 0.1 * rng.standard_normal(shape)
        if len(shape) == 2:
            x = rng.standard_t(5, shape) * 0.02 * np.exp(0.3 * rng.standard_normal((shape[0], 1)))
        weights[name] = x.astype(np.float32)
    return weights


def quantise_theirs(src: Path, dst: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    paths = str(src).encode(), str(dst).encode()
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)) == 0


def tensors(path: Path) -> dict[str, Any]:
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def losses(x: NDArray[np.float32], tensor: Any) -> NDArray[np.float64]:
    """Squared error plain, by size, and by size squared: what llama.cpp minimises is among them."""
    x = x.reshape(-1, 32).astype(np.float64)
    off = (x - gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1, 32)) ** 2
    w = np.abs(x) + np.sqrt((x**2).mean(axis=1, keepdims=True))
    return np.array([off.sum(), (w * off).sum(), (x**2 * off).sum()])


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "_"))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    config = tiny_config(**SHAPES[request.param])
    write_hf(folder / "hf", config, real_looking(config))
    quantize(folder / "hf", folder / "f32.gguf", "f32")
    return folder


@pytest.mark.parametrize("mix", MIXES)
def test_types_are_theirs_and_errors_no_larger(source: Path, mix: str) -> None:
    original = {name: t.data for name, t in tensors(source / "f32.gguf").items()}
    quantize(source / "hf", source / f"ours-{mix}.gguf", mix)
    quantise_theirs(source / "f32.gguf", source / f"theirs-{mix}.gguf", MIXES[mix].file_type)
    ours, theirs = (tensors(source / f"{who}-{mix}.gguf") for who in ("ours", "theirs"))
    assert {n: t.tensor_type.name for n, t in ours.items()} == {
        n: t.tensor_type.name for n, t in theirs.items()
    }
    total = {}
    for name, tensor in ours.items():
        kind = tensor.tensor_type.name
        if not kind.endswith("_K"):
            assert tensor.data.tobytes() == theirs[name].data.tobytes(), name
            continue
        pair = np.stack([losses(original[name], t) for t in (tensor, theirs[name])])
        total[kind] = total.get(kind, 0) + pair
    for kind, (our_losses, their_losses) in total.items():
        assert (our_losses <= their_losses).all(), kind


@pytest.mark.parametrize("mix", ["f32", "f16"])
def test_greedy_ids_are_the_same(tmp_path: Path, mix: str) -> None:
    path = tmp_path / "nano.gguf"
    quantize(resolve("nano"), path, mix)
    theirs = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    llm = LLM.load(path, n_threads=1)
    for text in TEXTS:
        ids = llm.tokenizer.encode(text, bos=True)
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ids
        found = []
        for token in theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            if token == llm.tokenizer.eos_id or len(found) == 40:
                break
            found.append(token)
        params = SamplingParams(temperature=0, max_tokens=40)
        assert list(llm.complete(text, params).token_ids)[: len(found)] == found, text
    theirs.close()


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_is_loaded(tmp_path: Path, mix: str) -> None:
    path = tmp_path / "nano.gguf"
    quantize(resolve("nano"), path, mix)
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    tokenizer = checkpoint.open(path).tokenizer()
    assert model.n_vocab() == tokenizer.n_vocab
    assert (model.token_bos(), model.token_eos()) == (tokenizer.bos_id, tokenizer.eos_id)
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    assert llama_cpp.llama_vocab_fim_pre(vocab) == tokenizer.prefix_id
    assert llama_cpp.llama_vocab_fim_suf(vocab) == tokenizer.suffix_id
    assert llama_cpp.llama_vocab_fim_mid(vocab) == tokenizer.middle_id
    assert llama_cpp.llama_vocab_eot(vocab) == tokenizer.eot_id
    assert model.eval([1, 5, 9]) is None
    assert "[INST]" in model.metadata["tokenizer.chat_template"]
    model.close()
