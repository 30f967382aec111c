"""Three formats, one model: the same numbers, whoever wrote them down.

The rule for rotary rows is given here twice, by other means than the readers use: row by row, and
as the arithmetic of Meta's model on complex numbers, beside the published implementation.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints_tiny import Weights, tiny_config, tiny_weights, write_gguf, write_hf, write_meta
from codellama import checkpoint
from codellama.checkpoint.reader import Reader
from codellama.model.config import ModelConfig
from hostile import contents

CONFIGS = {
    "mha": tiny_config(n_heads=8, n_kv_heads=8, head_dim=8),
    "gqa": tiny_config(n_heads=16, n_kv_heads=8, head_dim=4),
    "gqa wide": tiny_config(n_heads=4, n_kv_heads=2, head_dim=16),
    "one kv head": tiny_config(n_heads=4, n_kv_heads=1, head_dim=16),
}
SPLITS = [(name, n) for name in CONFIGS for n in (1, 2, 4, 8) if CONFIGS[name].n_kv_heads % n == 0]


def as_float32(reader: Reader) -> Weights:
    return {name: tensor.to_float32() for name, tensor in reader.tensors()}


def neighbours(x: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rotary pairs as neighbours, row by row: halves i and i + half of a head become 2i, 2i + 1."""
    out = np.empty_like(x)
    for start in range(0, len(x), head_dim):
        for i in range(head_dim // 2):
            out[start + 2 * i] = x[start + i]
            out[start + 2 * i + 1] = x[start + i + head_dim // 2]
    return out


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("name", "n_shards"), SPLITS)
def test_meta_s_files_hold_the_model(tmp_path: Path, name: str, n_shards: int, dtype: str) -> None:
    config = CONFIGS[name]
    weights = tiny_weights(config)
    hf = write_hf(tmp_path / "hf", config, weights, dtype=dtype, tokenizer=False)
    meta = write_meta(
        tmp_path / "meta", config, weights, dtype=dtype, n_shards=n_shards, tokenizer=False
    )
    expected = contents(hf)
    assert contents(meta) == expected
    assert {info[0] for info in expected.values()} == {dtype}
    assert len(list(meta.glob("*.pth"))) == n_shards


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_holds_the_model(tmp_path: Path, name: str, dtype: str) -> None:
    config = CONFIGS[name]
    weights = tiny_weights(config)
    reader = checkpoint.open(write_gguf(tmp_path / "x.gguf", config, weights, dtype=dtype))
    found = as_float32(reader)
    assert found.keys() == weights.keys()
    assert all(found[key].tobytes() == weights[key].tobytes() for key in weights)
    matrices = {info.format for info in reader.infos.values() if len(info.shape) == 2}
    assert matrices == {dtype}


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", CONFIGS)
def test_quantised_rows_move_as_they_are(tmp_path: Path, name: str, dtype: str) -> None:
    """What the gguf package reads, put in our order row by row, is what we read."""
    config = CONFIGS[name]
    path = write_gguf(tmp_path / "x.gguf", config, dtype=dtype)
    theirs = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    found = as_float32(checkpoint.open(path))
    for i in range(config.n_layers):
        for ours, name_there in (("q", "attn_q"), ("k", "attn_k")):
            rows = found[f"layers.{i}.self_attn.{ours}_proj.weight"]
            assert np.array_equal(
                neighbours(rows, config.head_dim), theirs[f"blk.{i}.{name_there}.weight"]
            )
        assert np.array_equal(
            found[f"layers.{i}.mlp.up_proj.weight"], theirs[f"blk.{i}.ffn_up.weight"]
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_files_keep_pairs_as_neighbours(tmp_path: Path, name: str) -> None:
    """What the fixtures wrote is what Meta and llama.cpp would have written."""
    config = CONFIGS[name]
    weights = tiny_weights(config)
    meta = write_meta(tmp_path / "meta", config, weights, dtype="F32", tokenizer=False)
    state = torch.load(meta / "consolidated.00.pth", weights_only=True)
    path = write_gguf(tmp_path / "x.gguf", config, weights)
    listed = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    for kind, meta_name, gguf_name in (("q", "wq", "attn_q"), ("k", "wk", "attn_k")):
        ours = weights[f"layers.1.self_attn.{kind}_proj.weight"]
        expected = neighbours(ours, config.head_dim)
        assert np.array_equal(state[f"layers.1.attention.{meta_name}.weight"].numpy(), expected)
        assert np.array_equal(listed[f"blk.1.{gguf_name}.weight"], expected)


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("name", ["mha", "gqa wide"])
def test_meta_s_arithmetic_gives_the_published_model_s_logits(
    tmp_path: Path, name: str, n_shards: int
) -> None:
    """Files as Meta means them, read by us, run by transformers: the same logits."""
    config = CONFIGS[name]
    state = random_meta_state(config)
    tokens = torch.arange(3, 43) * 7 % config.vocab_size
    expected = meta_forward(config, state, tokens)
    for i in range(n_shards):
        torch.save(shard_of(state, i, n_shards), tmp_path / f"consolidated.{i:02d}.pth")
    params = write_meta(tmp_path / "params", config, tokenizer=False) / "params.json"
    params.rename(tmp_path / "params.json")

    reader = checkpoint.open(tmp_path)
    model = LlamaForCausalLM(LlamaConfig(**config.to_hf()))
    ours = {key: torch.from_numpy(x.copy()) for key, x in as_float32(reader).items()}
    named = {key if key.startswith("lm_head") else f"model.{key}": x for key, x in ours.items()}
    model.load_state_dict(named)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    assert float((logits - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    # The order of rows matters here: one step that is not undone shows.
    model.load_state_dict({key: flip(key, x, config) for key, x in named.items()})
    with torch.no_grad():
        other = model(tokens[None]).logits[0]
    assert float((other - expected).abs().max()) > 1e-2 * float(expected.abs().max())


def flip(name: str, x: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return x
    return torch.from_numpy(neighbours(x.numpy(), config.head_dim))


def random_meta_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes = {"tok_embeddings": (config.vocab_size, config.dim)}
    for i in range(config.n_layers):
        shapes |= {
            f"layers.{i}.attention.wq": (q, config.dim),
            f"layers.{i}.attention.wk": (kv, config.dim),
            f"layers.{i}.attention.wv": (kv, config.dim),
            f"layers.{i}.attention.wo": (config.dim, q),
            f"layers.{i}.feed_forward.w1": (config.ffn_dim, config.dim),
            f"layers.{i}.feed_forward.w2": (config.dim, config.ffn_dim),
            f"layers.{i}.feed_forward.w3": (config.ffn_dim, config.dim),
        }
    shapes["output"] = (config.vocab_size, config.dim)
    state = {
        f"{key}.weight": torch.randn(shape, generator=generator) * 0.2
        for key, shape in shapes.items()
    }
    norms = ["norm"] + [
        f"layers.{i}.{kind}"
        for i in range(config.n_layers)
        for kind in ("attention_norm", "ffn_norm")
    ]
    for key in norms:
        state[f"{key}.weight"] = 1 + torch.randn(config.dim, generator=generator) * 0.1
    half = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    state["rope.freqs"] = 1.0 / config.rope_theta**half
    return state


def shard_of(state: dict[str, torch.Tensor], i: int, n_shards: int) -> dict[str, torch.Tensor]:
    """The part of each tensor that rank `i` of a model-parallel group holds."""
    by_column = ("wo.weight", "w2.weight", "tok_embeddings.weight")
    found = {}
    for name, x in state.items():
        if x.dim() == 2:
            x = x.chunk(n_shards, dim=1 if name.endswith(by_column) else 0)[i].clone()
        found[name] = x
    return found


def meta_forward(
    config: ModelConfig, state: dict[str, torch.Tensor], tokens: torch.Tensor
) -> torch.Tensor:
    """Logits of a Llama 2 decoder whose rotary pairs are neighbours, seen as complex numbers."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) * state[name]

    n = len(tokens)
    exponents = torch.arange(0, config.head_dim, 2).double() / config.head_dim
    angles = torch.outer(torch.arange(n).double(), config.rope_theta**-exponents)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]  # [T, 1, E/2]

    def turn(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2).float()

    future = torch.full((n, n), float("-inf")).triu(1)
    x = state["tok_embeddings.weight"][tokens]
    for i in range(config.n_layers):
        p = f"layers.{i}."
        y = norm(x, p + "attention_norm.weight")
        q, k, v = (
            (y @ state[f"{p}attention.{w}.weight"].T).unflatten(-1, (-1, config.head_dim))
            for w in ("wq", "wk", "wv")
        )
        shared = config.n_heads // config.n_kv_heads
        k, v = turn(k).repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        scores = torch.einsum("qhe,khe->hqk", turn(q), k) / config.head_dim**0.5
        mixed = torch.einsum("hqk,khe->qhe", (scores + future).softmax(-1), v).flatten(1)
        x = x + mixed @ state[p + "attention.wo.weight"].T
        y = norm(x, p + "ffn_norm.weight")
        gate = torch.nn.functional.silu(y @ state[p + "feed_forward.w1.weight"].T)
        up = y @ state[p + "feed_forward.w3.weight"].T
        x = x + (gate * up) @ state[p + "feed_forward.w2.weight"].T
    return norm(x, "norm.weight") @ state["output.weight"].T


def test_configurations_agree(tmp_path: Path) -> None:
    config = CONFIGS["gqa wide"]
    hf = checkpoint.open(write_hf(tmp_path / "hf", config)).config
    meta = checkpoint.open(write_meta(tmp_path / "meta", config)).config
    from_gguf = checkpoint.open(write_gguf(tmp_path / "x.gguf", config)).config
    assert hf == config
    assert from_gguf == config
    assert meta == tiny_config(max_seq_len=16384)  # Meta's files do not say; see the notes


def test_tokenizers_agree(hf_folder: Path, meta_folder: Path, gguf_file: Path) -> None:
    texts = [
        "def f(x):\n    return x",
        "  two  spaces",
        "",
        " ",
        "naïve ☃ 𝄞",
        "a<PRE> <PRE>",
        "\t\n",
    ]
    found = [checkpoint.open(path).tokenizer() for path in (hf_folder, meta_folder, gguf_file)]
    for text in texts:
        ids = [tokenizer.encode(text) for tokenizer in found]
        assert ids[0] == ids[1] == ids[2]
        assert [t.decode(i) for t, i in zip(found, ids, strict=True)] == [text] * 3
    assert all(tokenizer.has_infill for tokenizer in found)
