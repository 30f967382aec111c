"""Whatever Python hands to the native core, the answer is a result or a sentence."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from native_models import batch, config, ints, tensors

from codellama import _native
from codellama.errors import CheckpointError, ConfigError, OutOfMemory
from codellama.quant.formats import Format, Tensor
from codellama.runners import KVFormat, kv_bytes_per_token, load_runner, natural_kv_cache
from codellama.runners.cpu import CpuRunner

GOOD = batch([(range(20), 0, [0, 1]), ([5], 16, [2, 3])])


@pytest.fixture(scope="module")
def model() -> CpuRunner:
    cfg = config()
    return CpuRunner(cfg, tensors(cfg), n_blocks=8, block_size=16)


BAD_BATCHES = {
    "no tokens": dict(
        tokens=ints(), positions=ints(), seq_starts=ints(0), context_lens=ints(),
        block_tables=np.empty((0, 2), np.int32), logit_rows=ints(),
    ),
    "an id below 0": dict(tokens=np.r_[GOOD.tokens[:-1], -1].astype(np.int32)),
    "an id past the vocabulary": dict(tokens=np.r_[GOOD.tokens[:-1], 101].astype(np.int32)),
    "too few positions": dict(positions=GOOD.positions[:-1]),
    "a gap in the positions": dict(positions=np.r_[GOOD.positions[:-1], 15].astype(np.int32)),
    "a context that ends elsewhere": dict(context_lens=ints(21, 17)),
    "a context shorter than its tokens": dict(context_lens=ints(19, 17)),
    "a negative context": dict(context_lens=ints(-(2**31), 17)),
    "starts not from 0": dict(seq_starts=ints(1, 20, 21)),
    "starts that fall": dict(seq_starts=ints(0, 30, 21)),
    "an empty sequence": dict(seq_starts=ints(0, 0, 21)),
    "starts past the tokens": dict(seq_starts=ints(0, 20, 22)),
    "too few starts": dict(seq_starts=ints(0, 21)),
    "too few tables": dict(block_tables=GOOD.block_tables[:1]),
    "a table too narrow": dict(block_tables=np.ascontiguousarray(GOOD.block_tables[:, :1])),
    "a table padded too early": dict(block_tables=np.array([[0, -1], [2, 3]], np.int32)),
    "a block past the pool": dict(block_tables=np.array([[0, 8], [2, 3]], np.int32)),
    "a block written by two": dict(block_tables=np.array([[0, 3], [2, 3]], np.int32)),
    "a block written twice": dict(block_tables=np.array([[1, 1], [2, 3]], np.int32)),
    "a logit row past the tokens": dict(logit_rows=ints(21)),
    "a logit row below 0": dict(logit_rows=ints(-1)),
    "longs": dict(tokens=GOOD.tokens.astype(np.int64)),
    "floats": dict(positions=GOOD.positions.astype(np.float32)),
    "every other number": dict(tokens=np.repeat(GOOD.tokens, 2)[::2]),
    "a flat table": dict(block_tables=GOOD.block_tables.reshape(-1)),
    "columns first": dict(block_tables=np.asfortranarray(GOOD.block_tables)),
    "a matrix of tokens": dict(tokens=GOOD.tokens[None]),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_BATCHES)
def test_a_bad_batch_is_refused(model: CpuRunner, what: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        model.run(replace(GOOD, **BAD_BATCHES[what]))


def test_a_refused_batch_leaves_the_model_usable(model: CpuRunner) -> None:
    before = model.run(GOOD)
    with pytest.raises(ValueError, match="vocabulary"):
        model.run(replace(GOOD, tokens=GOOD.tokens + np.int32(1000)))
    assert (model.run(GOOD) == before).all()


def native(**changes: Any) -> _native.Model:
    sizes = asdict(config()) | dict(n_blocks=8, block_size=16, n_threads=1)
    del sizes["max_seq_len"]
    return _native.Model(**(sizes | changes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(dim=0),
        dict(n_layers=-1),
        dict(n_heads=5),
        dict(head_dim=3),
        dict(norm_eps=0.0),
        dict(norm_eps=float("nan")),
        dict(rope_theta=float("inf")),
        dict(n_blocks=0),
        dict(block_size=0),
        dict(n_threads=0),
        dict(n_threads=100_000),
        dict(simd="sse9"),
        dict(n_layers=2**30, n_blocks=2**30, block_size=2**15),
    ],
    ids=str,
)
def test_bad_sizes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        native(**changes)


def test_a_cache_that_no_machine_holds_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        native(n_layers=2**10, n_blocks=2**30)


def test_bad_tensors_are_refused() -> None:
    model = native()
    name = "layers.0.mlp.down_proj.weight"  # [96, 160]
    data = np.zeros(96 * 160 * 4, np.uint8)
    model.set_tensor("norm.weight", "F32", 1, 96, data[: 96 * 4])
    for arguments, words in (
        (("layers.2.mlp.down_proj.weight", "F32", 96, 160, data), "no tensor"),
        ((name, "F32", 160, 96, data), "160 x 96, expected 96 x 160"),
        ((name, "F32", 96, 160, data[:-1]), "bytes"),
        ((name, "F16", 96, 160, data), "bytes"),
        ((name, "IQ4_NL", 96, 160, data), "no format"),
        ((name, "Q6_K", 96, 160, data), "blocks of 256"),
        ((name, "F32", 96, 160, data.view(np.float32)), "uint8"),
        ((name, "F32", 96, 160, data.reshape(96, -1)), "1-dimensional"),
        (("norm.weight", "F32", 1, 96, data[: 96 * 4]), "twice"),
    ):
        with pytest.raises(ValueError, match=words):
            model.set_tensor(*arguments)
    odd = native(ffn_dim=161)
    with pytest.raises(ValueError, match="blocks of 32"):
        odd.set_tensor(name, "Q8_0", 96, 161, data)


def test_missing_tensors_are_named() -> None:
    model = native()
    given = tensors(config())
    for name, tensor in given[:-2]:
        rows, cols = tensor.shape if len(tensor.shape) == 2 else (1, *tensor.shape)
        model.set_tensor(name, str(tensor.format), rows, cols, tensor.data)
    step = [getattr(GOOD, f) for f in GOOD.__dataclass_fields__]
    with pytest.raises(ValueError, match="finish"):
        model.step(*step)
    with pytest.raises(ValueError, match=r"missing: norm\.weight, lm_head\.weight$"):
        model.finish()
    with pytest.raises(ValueError, match=r"embed_tokens\.weight, .* and 13 more$"):
        native().finish()


def test_the_runner_speaks_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config()
    given: list[tuple[str, Tensor]] = tensors(cfg)
    with pytest.raises(ConfigError, match="n_threads"):
        CpuRunner(cfg, given, n_blocks=8, block_size=16, n_threads=0)
    monkeypatch.setenv("CODELLAMA_SIMD", "mmx")
    with pytest.raises(ConfigError, match="mmx"):
        CpuRunner(cfg, given, n_blocks=8, block_size=16)
    monkeypatch.setenv("CODELLAMA_SIMD", "generic")
    assert CpuRunner(cfg, given, n_blocks=8, block_size=16).simd == "generic"


def test_a_tensor_that_does_not_fit_is_a_checkpoint_error() -> None:
    cfg = config()
    given = tensors(cfg)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight cannot be used: .* twice"):
        CpuRunner(cfg, [given[0], given[0]], n_blocks=8, block_size=16)


def test_what_the_machine_has() -> None:
    assert _native.simd_levels()[0] == "generic"
    assert _native.n_physical_threads() >= 1
    assert all(isinstance(name, str) for name in _native.cpu_features())


def test_runners_are_chosen_by_name() -> None:
    cfg = config()
    reader = cast(Any, SimpleNamespace(config=cfg, tensors=lambda: iter(tensors(cfg)), infos={}))
    runner = load_runner(reader, max_seq_len=33, n_threads=1)
    assert isinstance(runner, CpuRunner)
    assert (runner.n_blocks, runner.block_size, runner.n_threads) == (3, 16, 1)
    assert load_runner(reader, max_seq_len=33, n_blocks=7, block_size=8).n_blocks == 7
    with pytest.raises(ConfigError, match="engine 'gpu'"):
        load_runner(reader, engine=cast(Any, "gpu"), max_seq_len=33)
    with pytest.raises(ConfigError, match="cuda"):
        load_runner(reader, max_seq_len=33, device="cuda")
    with pytest.raises(OutOfMemory, match="tokens"):
        load_runner(reader, max_seq_len=33, n_blocks=2**30, block_size=2**14)
    with pytest.raises(ConfigError, match="Q4_0"):
        load_runner(reader, max_seq_len=33, kv_cache=Format.Q4_0)
    with pytest.raises(ConfigError, match="keeps no keys and values in FP8"):
        load_runner(reader, max_seq_len=33, kv_cache=KVFormat.FP8)


def test_keys_and_values_are_kept_as_finely_as_weights_deserve() -> None:
    def kept(*formats: Format) -> KVFormat:
        infos = {str(i): SimpleNamespace(format=format) for i, format in enumerate(formats)}
        return natural_kv_cache(cast(Any, SimpleNamespace(infos=infos)), "cpu")

    assert kept(Format.F32, Format.BF16) is KVFormat.F32
    assert kept(Format.F32, Format.Q4_K) is KVFormat.F16
    cfg = config("nano")  # 2 layers, 3 heads of 64
    assert kv_bytes_per_token(cfg, KVFormat.F32) == 2 * 2 * 3 * 64 * 4
    assert kv_bytes_per_token(cfg, KVFormat.F16) == 2 * 2 * 3 * 64 * 2
    assert kv_bytes_per_token(cfg, KVFormat.Q8_0) == 2 * 2 * 3 * (64 + 4)
