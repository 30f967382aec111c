"""Choosing what computes, in which numbers, and what of it fits a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from checkpoints_tiny import TINY, tiny_config, tiny_weights, write_hf
from codellama import LLM, ConfigError, SamplingParams, checkpoint
from codellama.checkpoint.quantize import quantize
from codellama.cli import loading as flags
from codellama.engine.batch import Share, flatten
from codellama.engine.loading import engine_of
from codellama.engine.plan import make_plan
from codellama.errors import OutOfMemory
from codellama.model.family import MEMBERS
from codellama.quant.formats import Format
from codellama.runners import (
    WEIGHT_KINDS,
    KVFormat,
    activation_format,
    kv_bytes_per_token,
    load_runner,
    natural_kv_cache,
    weight_bytes,
)
from codellama.runners.fused import memory
from codellama.runners.fused.runner import FusedRunner
from codellama.runners.sampling import to_array

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
PROMPTS = ["def f(x):", "for y in range(10): print y"]
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@needs_no_cuda
def test_without_cuda_one_sentence_says_so(hf_folder: Path) -> None:
    with pytest.raises(ConfigError, match="'cuda' was asked for, and PyTorch sees no CUDA device"):
        LLM.load(hf_folder, device="cuda")
    with pytest.raises(ConfigError, match="'cuda:1' was asked for"):
        load_runner(checkpoint.open(hf_folder), engine="torch", max_seq_len=32, device="cuda:1")


@pytest.mark.parametrize(("name", "said"), [("gpu", "no device 'gpu'"), ("meta", "cpu and cuda")])
def test_devices_that_there_are_not(hf_folder: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LLM.load(hf_folder, device=name)


def test_who_computes_where_nobody_says() -> None:
    assert engine_of(None, None, None) == "cpu"
    assert engine_of(None, "cpu", None) == "cpu"
    assert engine_of(None, "cuda", None) == "torch"
    assert engine_of(None, None, "int8") == "torch"
    assert engine_of("cpu", "cuda", None) == "cpu"


def test_the_native_core_refuses_what_only_pytorch_has(hf_folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot run on device 'cuda'"):
        LLM.load(hf_folder, engine="cpu", device="cuda")
    with pytest.raises(ConfigError, match="int8 was asked for"):
        LLM.load(hf_folder, engine="cpu", weights="int8")
    with pytest.raises(ConfigError, match="`kv_cache` is 'fp8'"):
        LLM.load(hf_folder, engine="cpu", kv_cache="fp8")
    with pytest.raises(ConfigError, match="`weights` is 'int3'"):
        LLM.load(hf_folder, weights="int3")


def test_the_command_line_offers_what_there_is() -> None:
    assert flags.WEIGHTS == WEIGHT_KINDS
    assert sorted(flags.KV_CACHES) == sorted(format.lower() for format in KVFormat)


@pytest.mark.parametrize("weights", [None, *WEIGHT_KINDS])
@pytest.mark.parametrize("kv_cache", [None, "q8_0", "fp8", "bf16"])
def test_any_numbers_say_nearly_the_same(
    hf_folder: Path, weights: str | None, kv_cache: str | None
) -> None:
    """The tiny model's logits are far apart: small errors leave the first greedy tokens alone."""
    llm = LLM.load(hf_folder, engine="torch", weights=weights, kv_cache=kv_cache)
    reference = LLM.load(hf_folder, n_threads=1)
    n_same = n = 0
    for prompt in PROMPTS:
        ours, theirs = (each.complete(prompt, GREEDY).token_ids for each in (llm, reference))
        n += len(theirs)
        n_same += next((i for i in range(len(theirs)) if ours[i] != theirs[i]), len(theirs))
    is_exact = weights in (None, "f32", "f16") and kv_cache is None
    assert n_same >= (n if is_exact else 1 if weights == "int4" else 0.1 * n)


@pytest.mark.parametrize("mix", ["q4_k_m", "q5_0", "q8_0"])
def test_files_in_blocks_stay_in_blocks(tmp_path: Path, mix: str) -> None:
    config = tiny_config(dim=256, ffn_dim=512, head_dim=64)
    quantize(write_hf(tmp_path / "hf", config, tiny_weights(config)), tmp_path / "x.gguf", mix)
    reader = checkpoint.open(tmp_path / "x.gguf")
    in_blocks = load_runner(
        reader, engine="torch", max_seq_len=64, kv_cache=KVFormat.F16, block_size=16
    )
    assert isinstance(in_blocks, FusedRunner)
    plain = load_runner(reader, engine="torch", max_seq_len=64)
    batch = flatten([Share(list(range(5, 35)), 0, [2, 0], 30), Share([9, 8, 7], 0, [3], 1)])
    ours, theirs = (to_array(runner.run(batch)) for runner in (in_blocks, plain))
    # The cache alone differs: it is kept in half precision.
    assert np.abs(ours - theirs).max() < 0.01 * theirs.std()


def plan(member: str, memory_gb: float, weights: Any, kv_cache: KVFormat, **sizes: Any) -> Any:
    config = MEMBERS_BY_NAME[member]
    reader = cast(Any, FakeReader(config))
    return make_plan(
        config,
        weight_bytes=weight_bytes(reader, "torch", "cuda", weights),
        kv_bytes_per_token=kv_bytes_per_token(config, kv_cache),
        free_bytes=int(memory_gb * 1e9),
        memory="memory of cuda",
        **sizes,
    )


class FakeReader:
    """A checkpoint in BF16, by its shapes alone."""

    def __init__(self, config: Any, format: Format = Format.BF16) -> None:
        from codellama.checkpoint.reader import TensorInfo

        self.config = config
        self.infos = {
            name: TensorInfo(format, shape) for name, shape in config.tensor_shapes().items()
        }


MEMBERS_BY_NAME = {member.name: member.config for member in MEMBERS}


@pytest.mark.parametrize(
    ("memory_gb", "weights", "kv_cache"),
    [
        (140, "bf16", KVFormat.BF16),
        (140, "int4", KVFormat.BF16),
        (79, "bf16", KVFormat.Q8_0),
        (79, "bf16", KVFormat.FP8),
        (79, "int4", KVFormat.BF16),
    ],
)
def test_a_context_of_100_000_tokens_fits_beside_7b(
    memory_gb: float, weights: str, kv_cache: KVFormat
) -> None:
    found = plan("CodeLlama-7B", memory_gb, weights, kv_cache, max_seq_len=100_000)
    assert found.n_blocks * found.block_size >= 100_000


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(OutOfMemory, match=r"52.4 GB of cache, and .* of memory of cuda") as caught:
        plan("CodeLlama-7B", 40, "bf16", KVFormat.BF16, max_seq_len=100_000)
    assert "--max-seq-len" in str(caught.value.__notes__)


def test_weights_take_what_their_kind_says() -> None:
    reader = cast(Any, FakeReader(MEMBERS_BY_NAME["CodeLlama-7B"]))
    sizes = {kind: weight_bytes(reader, "torch", "cuda", kind) / 1e9 for kind in WEIGHT_KINDS}
    assert 26.9 < sizes["f32"] < 27.0
    assert sizes["bf16"] == sizes["f16"] == sizes["f32"] / 2
    assert 7.2 < sizes["int8"] < 7.5
    assert 3.6 < sizes["int4"] < 3.8
    assert 6.8 < sizes["fp8"] < 7.1


def test_a_gpu_computes_in_half_precision() -> None:
    config = MEMBERS_BY_NAME["CodeLlama-7B"]
    for stored, expected in ((Format.F16, "F16"), (Format.BF16, "BF16"), (Format.Q4_K, "BF16")):
        reader = cast(Any, FakeReader(config, stored))
        assert activation_format(reader, "cuda") == expected
        assert natural_kv_cache(reader, "torch", "cuda") == expected
        assert activation_format(reader, None) == "F32"
    assert activation_format(cast(Any, FakeReader(config)), "cuda", "f16") == "F16"


@pytest.mark.parametrize(
    ("capability", "weights", "kv_cache", "said"),
    [
        ((7, 5), None, KVFormat.F16, "kernels need a GPU of the Ampere generation"),
        ((8, 0), "bf16", KVFormat.Q8_0, None),
        ((8, 0), None, KVFormat.FP8, "keys and values in fp8 need a GPU of the Ada generation"),
        ((8, 0), "fp8", KVFormat.BF16, "weights in fp8 need a GPU of the Hopper generation"),
        ((8, 9), "int4", KVFormat.FP8, None),
        ((8, 9), "fp8", KVFormat.FP8, "weights in fp8 need"),
        ((9, 0), "fp8", KVFormat.FP8, None),
    ],
)
def test_an_old_gpu_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], weights: str | None,
    kv_cache: KVFormat, said: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Old")
    memory.require_generation(torch.device("cpu"), weights=weights, kv_cache=kv_cache)
    cuda = torch.device("cuda")
    if said is None:
        memory.require_generation(cuda, weights=weights, kv_cache=kv_cache)
        return
    with pytest.raises(ConfigError, match=f"{said}.*NVIDIA Old"):
        memory.require_generation(cuda, weights=weights, kv_cache=kv_cache)


def test_free_memory_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 30)
    assert memory.free_bytes(torch.device("cuda")) == 21 << 30


def test_a_parameter_too_few_or_too_many() -> None:
    from codellama.errors import CheckpointError
    from codellama.runners.fused.kernels import PlainKernels
    from codellama.runners.fused.layers import fused
    from codellama.runners.fused.weights import Dense

    every: list[tuple[str, Any]] = [
        (name, zeros if zeros.dim() == 1 or "embed" in name else Dense(zeros))
        for name, zeros in ((n, torch.zeros(s)) for n, s in TINY.tensor_shapes().items())
    ]
    with pytest.raises(CheckpointError, match=r"left out lm_head.weight"):
        fused(TINY, every[:-1], PlainKernels())
    with pytest.raises(CheckpointError, match=r"norm.weight was given twice"):
        fused(TINY, [*every, every[-2]], PlainKernels())
    assert fused(TINY, every, PlainKernels()).lm_head(torch.zeros(1, TINY.dim)).isfinite().all()
