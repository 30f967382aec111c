"""Rounding of whole tensors: `formats.quantise`, bit for bit, by the native core's threads."""

from __future__ import annotations

import math

import numpy as np

from codellama import _native
from codellama.quant import formats
from codellama.quant.formats import Bytes, Floats, Format, row_bytes


def quantise(format: Format, x: Floats, *, n_threads: int | None = None) -> Bytes:
    """`x` [..., n_cols] rounded to `format`, as bytes [..., row_bytes].

    `n_threads` None takes one per physical core. Raises as `formats.quantise` does.
    """
    if format not in formats.WRITTEN_BLOCKS:
        return formats.quantise(format, x)
    x = np.asarray(x, dtype=np.float32)
    shape = (*x.shape[:-1], row_bytes(format, x.shape[-1]))
    flat = np.require(x, requirements=["C", "A"]).reshape(-1)
    out = np.empty(math.prod(shape), dtype=np.uint8)
    n_threads = _native.n_physical_threads() if n_threads is None else n_threads
    failed = _native.quantise(str(format), flat, out, n_threads)
    if failed >= 0:
        block = flat[failed * format.block_size :][: format.block_size]
        formats.quantise(format, block)
        raise AssertionError("the two ways of rounding agree on what cannot be stored")
    return out.reshape(shape)
