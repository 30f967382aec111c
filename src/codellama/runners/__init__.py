"""One protocol, two bodies: the native CPU core and PyTorch.

A runner runs the model over one flat batch: sequences lie end to end in a single row of tokens and
a few small arrays say where each begins and where its keys and values live.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from codellama.errors import ConfigError, MissingExtra
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format

if TYPE_CHECKING:
    from codellama.checkpoint.reader import Reader
    from codellama.quant.formats import Tensor

Int32 = NDArray[np.int32]


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

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Stores the batch's keys and values and returns logits [R, vocab] of `logit_rows`."""
        ...


def natural_kv_cache(reader: Reader, engine: Literal["cpu", "torch"]) -> Format:
    """How keys and values are kept where nobody says: no finer than the weights deserve.

    F16 beside weights in a block format, F32 beside the others, whose results it would change.
    """
    is_quantised = any(info.format.is_quantised for info in reader.infos.values())
    return Format.F16 if engine == "cpu" and is_quantised else Format.F32


def kv_bytes_per_token(config: ModelConfig, kv_cache: Format) -> int:
    """Bytes of keys and values of one token over all layers."""
    if kv_cache is Format.Q8_0:  # a byte each, and a float32 scale per head
        scales = 2 * config.n_layers * config.n_kv_heads * 4
        return config.kv_bytes_per_token(1) + scales
    return config.kv_bytes_per_token(kv_cache.block_bytes)


def load_runner(
    reader: Reader,
    *,
    tensors: Iterable[tuple[str, Tensor]] | None = None,
    engine: Literal["cpu", "torch"] = "cpu",
    max_seq_len: int,
    n_blocks: int | None = None,
    block_size: int = 16,
    n_threads: int | None = None,
    kv_cache: Format | None = None,
    device: str | None = None,
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
        kv_cache = natural_kv_cache(reader, engine)
    if engine == "cpu":
        from codellama.runners.cpu import CpuRunner

        if device not in (None, "cpu"):
            raise ConfigError(
                f"the CPU engine cannot run on device {device!r}",
                hint="PyTorch can: ask for the torch engine",
            )
        return CpuRunner(
            reader.config,
            tensors,
            n_blocks=n_blocks,
            block_size=block_size,
            n_threads=n_threads,
            kv_cache=kv_cache,
        )
    if kv_cache is not Format.F32:
        raise ConfigError(f"the torch engine keeps keys and values in F32, not in {kv_cache}")
    try:
        from codellama.runners.torch import TorchRunner
    except ModuleNotFoundError as error:
        raise MissingExtra("the torch engine", "torch") from error
    return TorchRunner(
        reader.config,
        tensors,
        n_blocks=n_blocks,
        block_size=block_size,
        device=device or "cpu",
    )
