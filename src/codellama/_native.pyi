"""The native core, built from native/. Bad arguments raise ValueError with a sentence.

Arrays must have the types below, be contiguous and lie on the CPU. The interpreter's lock is
released while a function computes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]
_Longs = NDArray[np.int64]
_Seeds = NDArray[np.uint64]

class Model:
    """Weights, paged key/value cache and threads of one model.

    `simd` is "auto", "generic", "avx2", "avx512" or "avx512vnni"; kernels the CPU lacks are a
    ValueError. `kv_cache` is "F32", "F16" or "Q8_0": how keys and values are kept. The cache is
    reserved, not touched: memory that cannot be reserved is a MemoryError.

    A process that forks outside a step may go on using the model; its steps then run on one thread.
    """

    def __init__(
        self,
        dim: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        ffn_dim: int,
        vocab_size: int,
        norm_eps: float,
        rope_theta: float,
        tie_embeddings: bool,
        n_blocks: int,
        block_size: int,
        n_threads: int,
        simd: str = "auto",
        kv_cache: str = "F32",
    ) -> None: ...
    def set_tensor(self, name: str, format: str, rows: int, cols: int, data: _Bytes) -> None:
        """Gives a tensor its stored bytes; vectors have one row.

        A matrix in a block format is packed for multiplication, which takes all threads for a
        moment; one in F32, F16 or BF16, and an embedding, is used where it lies, at any alignment,
        and the array is kept alive.
        """

    def finish(self) -> None:
        """Says that all tensors were given; a ValueError names those that were not."""

    def step(
        self,
        tokens: _Ints,
        positions: _Ints,
        seq_starts: _Ints,
        context_lens: _Ints,
        block_tables: _Ints,
        logit_rows: _Ints,
    ) -> _Floats:
        """Runs one flat batch (see `codellama.runners.Batch`): logits [R, vocab].

        A row's logits are the same bits whatever else is in the batch, however the prompt was cut
        into steps and wherever its blocks lie.
        """

    def sample(
        self,
        logits: _Floats,
        temperature: _Floats,
        top_k: _Ints,
        top_p: _Floats,
        min_p: _Floats,
        repetition_penalty: _Floats,
        presence_penalty: _Floats,
        frequency_penalty: _Floats,
        seed: _Seeds,
        counter: _Seeds,
        history: _Ints,
        history_offsets: _Longs,
        n_prompt: _Ints,
        bias_ids: _Ints,
        bias_values: _Floats,
        bias_offsets: _Longs,
    ) -> tuple[_Ints, _Floats]:
        """`codellama._native.sample` on the model's threads, between its steps."""

    def top_logprobs(self, logits: _Floats, k: int) -> tuple[_Ints, _Floats]:
        """Likewise."""

    @property
    def simd(self) -> str: ...
    @property
    def n_threads(self) -> int: ...

def sample(
    logits: _Floats,
    temperature: _Floats,
    top_k: _Ints,
    top_p: _Floats,
    min_p: _Floats,
    repetition_penalty: _Floats,
    presence_penalty: _Floats,
    frequency_penalty: _Floats,
    seed: _Seeds,
    counter: _Seeds,
    history: _Ints,
    history_offsets: _Longs,
    n_prompt: _Ints,
    bias_ids: _Ints,
    bias_values: _Floats,
    bias_offsets: _Longs,
) -> tuple[_Ints, _Floats]:
    """Draws a token per row of logits [R, V]: ids [R] and log-softmax of the logits as given [R].

    The logits are changed in this order: bias added; repetition penalty over prompt and output (a
    logit above 0 is divided by it, one below multiplied); frequency penalty times occurrences and
    presence penalty subtracted, over the output. Temperature 0 takes the largest, the lowest id of
    equals. Otherwise they are divided by the temperature and sorted, the lower id first among
    equals. Kept are the first `top_k` (0: all); of those each token before which at most `top_p`
    of their softmax mass lies; of those each with at least `min_p` times the first one's
    probability; always the first. Drawn is the first token at which the cumulative mass exceeds u
    times the kept mass, where u depends on `seed` and `counter` only: 53 bits of SplitMix64
    started from the seed's own hash and advanced `counter + 1` times.

    `history` is flat: row r's tokens, its first `n_prompt[r]` the prompt, are
    `history[history_offsets[r]:history_offsets[r + 1]]`; biases likewise. A bias of minus infinity
    rules a token out.

    A row whose logits are not all finite, or whose tokens are all ruled out, gives id -1 and NaN.
    """

def top_logprobs(logits: _Floats, k: int) -> tuple[_Ints, _Floats]:
    """The k largest of each row of logits [R, V], the lower id first among equals.

    Ids [R, k] and log-softmax [R, k]; -1 and NaN in rows that are not all finite.
    """

def matmul(x: _Floats, format: str, rows: int, data: _Bytes, simd: str = "auto") -> _Floats:
    """x [T, cols] times a stored matrix [rows, cols], transposed: [T, rows], on one thread.

    What the kernels compute inside a step, for tests and benchmarks. Where the format is a block
    format, x is rounded to 8 bits in groups of 32 first.
    """

def quantise(
    format: str, x: _Floats, out: _Bytes, n_threads: int, simd: Literal["auto", "generic"] = "auto"
) -> int:
    """Rounds the numbers x [n * block_size] to a block format, into out [n * block_bytes].

    Gives -1, or the first block that cannot be stored, behind which `out` is not defined. Arrays of
    another type or layout are a TypeError.
    """

def cpu_features() -> list[str]:
    """The CPU's instruction sets that matter here and that the system allows."""

def simd_levels() -> list[str]:
    """The kernels this CPU can run, slowest first."""

class machine:
    """What the machine itself can do; a submodule of functions."""

    @staticmethod
    def read_bandwidth(n_bytes: int, n_threads: int, n_passes: int) -> list[float]:
        """Bytes per second at which threads read n_bytes, each its part: one number per pass."""

    @staticmethod
    def peak_kinds() -> list[str]:
        """Arithmetic this CPU can do: "fp32_..." and "int8_..." kinds, the widest of each last."""

    @staticmethod
    def peak(kind: str, n_threads: int, n_passes: int) -> list[float]:
        """Operations per second from registers, one number per pass; multiply and add are two."""

def n_physical_threads() -> int:
    """Physical cores this process may use."""
