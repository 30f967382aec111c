"""One protocol, two bodies: the native CPU core and PyTorch.

A runner runs the model over one flat batch: sequences lie end to end in a single row of tokens and
a few small arrays say where each begins and where its keys and values live.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from codellama.errors import ConfigError, MissingExtra
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format
from codellama.runners.sampling import Logits

if TYPE_CHECKING:
    from codellama.checkpoint.reader import Reader
    from codellama.quant.formats import Tensor

Int32 = NDArray[np.int32]
EngineName = Literal["cpu", "torch"]
WeightKind = Literal["f32", "f16", "bf16", "int8", "int4", "fp8"]
WEIGHT_KINDS: tuple[WeightKind, ...] = ("f32", "f16", "bf16", "int8", "int4", "fp8")
_BYTES_OF_A_WEIGHT = {"int8": 34 / 32, "int4": 66 / 128, "fp8": 1.0}


class KVFormat(StrEnum):
    """How keys and values are kept: the CPU has F32, F16 and Q8_0, a GPU all of them.

    Q8_0 is a byte each, with a float32 scale for each position of a head; FP8 is E4M3 without any.
    """

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    FP8 = "FP8"

    @property
    def n_bytes(self) -> int:
        """Bytes of a number, scales left out."""
        return {"F32": 4, "F16": 2, "BF16": 2, "Q8_0": 1, "FP8": 1}[self]


_CPU_CACHES = (KVFormat.F32, KVFormat.F16, KVFormat.Q8_0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's work. T tokens, S sequences, M blocks at most per sequence, R logit rows.

    The tokens of a sequence are consecutive positions that end at `context_lens[s] - 1`. Position p
    of sequence s lives in cache slot `block_tables[s, p // block_size] * block_size + p %
    block_size`; a token at position p attends to positions 0..p of its own sequence, so prefill,
    chunked prefill and decode are the same thing.
    """

    tokens: Int32  # [T]
    positions: Int32  # [T]
    seq_starts: Int32  # [S + 1], offsets into tokens
    context_lens: Int32  # [S], cached tokens including this step's
    block_tables: Int32  # [S, M], padded with -1
    logit_rows: Int32  # [R], offsets into tokens


class Runner(Protocol):
    """Runs the model over one flat batch, and owns the paged key/value cache."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def n_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    def run(self, batch: Batch) -> Logits:
        """Stores the batch's keys and values and returns logits [R, vocab] of `logit_rows`."""
        ...


def natural_kv_cache(
    reader: Reader,
    engine: EngineName,
    device: str | None = None,
    weights: WeightKind | None = None,
) -> KVFormat:
    """How keys and values are kept where nobody says: no finer than the weights deserve.

    On the CPU F16 beside weights in a block format, F32 beside the others, whose results it would
    change; on a GPU the type of the activations.
    """
    if engine == "torch":
        return KVFormat(activation_format(reader, device, weights))
    is_quantised = any(info.format.is_quantised for info in reader.infos.values())
    return KVFormat.F16 if is_quantised else KVFormat.F32


def activation_format(
    reader: Reader, device: str | None, weights: WeightKind | None = None
) -> Format:
    """What PyTorch computes in: the type of plain weights, or what suits the device.

    A GPU computes in F16 where the checkpoint's matrices are F16, else in BF16.
    """
    if weights in ("f32", "f16", "bf16"):
        return Format(weights.upper())
    if device is None or device == "cpu":
        return Format.F32
    if weights == "fp8":  # whose products the device gives in BF16 alone
        return Format.BF16
    counts = Counter(info.format for info in reader.infos.values() if len(info.shape) == 2)
    return Format.F16 if counts.most_common(1)[0][0] is Format.F16 else Format.BF16


def weight_bytes(
    reader: Reader, engine: EngineName, device: str | None = None, weights: WeightKind | None = None
) -> int:
    """Bytes that the weights take in memory."""
    if engine == "cpu":
        return sum(info.n_bytes for info in reader.infos.values())
    plain = activation_format(reader, device, weights).block_bytes
    total = 0.0
    for name, info in reader.infos.items():
        n = math.prod(info.shape)
        is_matrix = len(info.shape) == 2 and not name.startswith("embed_tokens")
        if is_matrix and weights in _BYTES_OF_A_WEIGHT:
            total += n * _BYTES_OF_A_WEIGHT[weights]
        elif is_matrix and weights is None and info.format.is_quantised:
            # Planes keep what is in the blocks; the narrowest formats grow to four bits.
            total += max(info.n_bytes, n * 4.625 / 8) * 1.04
        else:
            total += n * plain
    return int(total)


def kv_bytes_per_token(config: ModelConfig, kv_cache: KVFormat | Format) -> int:
    """Bytes of keys and values of one token over all layers."""
    kept, scales = KVFormat(kv_cache), 0
    if kept is KVFormat.Q8_0:  # a float32 scale per head
        scales = 2 * config.n_layers * config.n_kv_heads * 4
    return config.kv_bytes_per_token(kept.n_bytes) + scales


def device_memory(device: str | None) -> int | None:
    """Bytes free on a GPU for weights and cache; None where the model runs in the host's memory.

    Raises:
        ConfigError: there is no such device.
        MissingExtra: PyTorch is not installed.
    """
    if device is None or device == "cpu":
        return None
    try:
        from codellama.runners.fused import memory
    except ModuleNotFoundError as error:
        raise MissingExtra(f"device {device!r}", "torch") from error
    return memory.free_bytes(memory.require_device(device))


def load_runner(
    reader: Reader,
    *,
    tensors: Iterable[tuple[str, Tensor]] | None = None,
    engine: EngineName = "cpu",
    max_seq_len: int,
    n_blocks: int | None = None,
    block_size: int = 16,
    n_threads: int | None = None,
    kv_cache: KVFormat | Format | None = None,
    device: str | None = None,
    weights: WeightKind | None = None,
) -> Runner:
    """Hands a checkpoint's weights to one of the runners.

    Args:
        reader: an open checkpoint.
        tensors: instead of the checkpoint's own.
        engine: "cpu" is the native core, "torch" PyTorch.
        max_seq_len: tokens that one sequence may have.
        n_blocks: blocks of the key/value cache; None makes it as large as one sequence.
        block_size: positions in a block.
        n_threads: threads of the native core; None takes one per physical core.
        kv_cache: how keys and values are kept; None takes `natural_kv_cache`.
        device: PyTorch's device; None is its CPU.
        weights: what PyTorch keeps matrices in; None keeps block formats as they are, and rounds
            others to what it computes in.

    Raises:
        ConfigError: a setting is out of range or does not belong to this engine.
        CheckpointError: the files do not hold what their headers promised.
        OutOfMemory: weights and cache do not fit.
    """
    if tensors is None:
        tensors = reader.tensors()
    if n_blocks is None:
        n_blocks = -(-max_seq_len // block_size)
    if engine not in ("cpu", "torch"):
        raise ConfigError(f"there is no engine {engine!r}", hint="there are cpu and torch")
    if kv_cache is None:
        kv_cache = natural_kv_cache(reader, engine, device, weights)
    formats = _CPU_CACHES if engine == "cpu" else tuple(KVFormat)
    if kv_cache not in formats:
        raise ConfigError(
            f"the {engine} engine keeps no keys and values in {kv_cache}",
            hint=f"it has {', '.join(formats)}",
        )
    kv_cache = KVFormat(kv_cache)
    if engine == "cpu":
        from codellama.runners.cpu import CpuRunner

        if device not in (None, "cpu"):
            raise ConfigError(
                f"the CPU engine cannot run on device {device!r}",
                hint="PyTorch can: ask for the torch engine",
            )
        if weights is not None:
            raise ConfigError(
                f"the CPU engine keeps weights as they are stored, and {weights} was asked for",
                hint="`codellama quantize` writes them in another format",
            )
        return CpuRunner(
            reader.config,
            tensors,
            n_blocks=n_blocks,
            block_size=block_size,
            n_threads=n_threads,
            kv_cache=kv_cache,
        )
    try:
        from codellama.runners.fused.load import load_torch_runner
    except ModuleNotFoundError as error:
        raise MissingExtra("the torch engine", "torch") from error
    return load_torch_runner(
        reader.config,
        tensors,
        activations=activation_format(reader, device, weights),
        weights=weights,
        kv_cache=kv_cache,
        max_seq_len=max_seq_len,
        n_blocks=n_blocks,
        block_size=block_size,
        device=device or "cpu",
    )
