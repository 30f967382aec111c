"""The CPU body of the runner: weights handed to the native core once, and a step is one call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError, ConfigError, OutOfMemory
from codellama.model.config import ModelConfig
from codellama.quant.formats import Tensor
from codellama.runners import Batch, KVFormat, kv_bytes_per_token
from codellama.runners.sampling import SamplingKernel

try:
    from codellama import _native
except ImportError as error:
    raise ConfigError(
        f"the native core of this package cannot be loaded: {error}",
        hint="install the package with pip, or run `make native` in its sources",
    ) from error


class CpuRunner:
    """Runs the native core over flat batches with a paged key/value cache.

    Matrices in F32, F16 and BF16 are multiplied as they are, by activations in float32. Those in a
    block format are laid out anew without loss, and multiplied by activations rounded to 8 bits in
    groups of 32. `n_threads` None takes one per physical core; `simd` "auto" the fastest kernels of
    this CPU, and CODELLAMA_SIMD (generic, avx2, avx512 or avx512vnni) forces others when debugging.
    Keys and values are kept as `kv_cache` says: F32, F16, or Q8_0 with a scale for each position
    of a head. A row of logits has the same bits whatever else is in the batch.

    Raises:
        ConfigError: a setting is out of range, or this CPU lacks the kernels asked for.
        CheckpointError: a tensor does not fit the model, or comes twice.
        OutOfMemory: the cache cannot be reserved, or the weights not be laid out.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        n_blocks: int,
        block_size: int,
        n_threads: int | None = None,
        kv_cache: KVFormat = KVFormat.F32,
        simd: str | None = None,
    ) -> None:
        self.config = config
        self.n_blocks = n_blocks
        self.block_size = block_size
        if simd is None:
            simd = os.environ.get("CODELLAMA_SIMD", "auto")
        try:
            self._model = _native.Model(
                dim=config.dim,
                n_layers=config.n_layers,
                n_heads=config.n_heads,
                n_kv_heads=config.n_kv_heads,
                head_dim=config.head_dim,
                ffn_dim=config.ffn_dim,
                vocab_size=config.vocab_size,
                norm_eps=config.norm_eps,
                rope_theta=config.rope_theta,
                tie_embeddings=config.tie_embeddings,
                n_blocks=n_blocks,
                block_size=block_size,
                n_threads=_native.n_physical_threads() if n_threads is None else n_threads,
                simd=simd,
                kv_cache=str(kv_cache),
            )
        except ValueError as error:
            raise ConfigError(f"the CPU engine cannot be set up: {error}") from error
        except MemoryError as error:
            n_bytes = n_blocks * block_size * kv_bytes_per_token(config, kv_cache)
            raise OutOfMemory(
                f"a cache of {n_blocks * block_size} tokens, {n_bytes / 1e9:.1f} GB, "
                "cannot be reserved",
                hint="a shorter --max-seq-len needs less cache",
            ) from error
        for name, tensor in tensors:
            rows, cols = tensor.shape if len(tensor.shape) == 2 else (1, tensor.shape[0])
            try:
                self._model.set_tensor(name, str(tensor.format), rows, cols, tensor.data)
            except ValueError as error:
                raise CheckpointError(f"{name} cannot be used: {error}") from error
            except MemoryError as error:
                raise OutOfMemory(
                    f"there is no memory left for {name}",
                    hint="close other programs, or use a smaller model or a quantised one",
                ) from error
        self._model.finish()

    @property
    def simd(self) -> str:
        """The kernels in use: generic, avx2, avx512 or avx512vnni."""
        return self._model.simd

    @property
    def n_threads(self) -> int:
        """Threads of a step, the caller's included."""
        return self._model.n_threads

    def sampling_kernel(self, host: SamplingKernel) -> SamplingKernel:
        """The compiled kernel, with this runner's threads: the rows of a step are shared out."""
        return cast(SamplingKernel, self._model)  # whose logits are arrays, as `run` returns

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Logits [R, vocab] of the rows asked for; see `Runner`."""
        return self._model.step(
            batch.tokens,
            batch.positions,
            batch.seq_starts,
            batch.context_lens,
            batch.block_tables,
            batch.logit_rows,
        )
