"""Rotary pairs: neighbours in a file, halves of a head in this package.

Meta's model turns rows 2i and 2i + 1 of a query or key head together; ours, like Hugging Face's,
turns rows i and i + head_dim / 2. Meta's files and GGUF's keep the first order. Whole rows move,
so quantised blocks, which run along a row, stay as they are. The rule is that of the conversion
script for Llama weights in `transformers`.
"""

from __future__ import annotations

import re

import numpy as np

from codellama.quant.formats import Bytes, Tensor

_TURNED = re.compile(r"layers\.\d+\.self_attn\.[qk]_proj\.weight")


def is_turned(name: str) -> bool:
    """Whether our parameter `name` makes vectors that rotary positions turn."""
    return _TURNED.fullmatch(name) is not None


def halves_from_neighbours(tensor: Tensor, head_dim: int) -> Tensor:
    """A query or key matrix [heads * head_dim, dim] with the rows of each head put in our order."""
    rows = tensor.shape[0]
    neighbours = tensor.data.reshape(rows // head_dim, head_dim // 2, 2, -1)
    halves: Bytes = np.ascontiguousarray(neighbours.swapaxes(1, 2)).reshape(-1)
    halves.flags.writeable = False
    return Tensor(tensor.format, tensor.shape, halves)


def neighbours_from_halves(tensor: Tensor, head_dim: int) -> Tensor:
    """The other way round: our order to that of Meta's and GGUF's files."""
    rows = tensor.shape[0]
    halves = tensor.data.reshape(rows // head_dim, 2, head_dim // 2, -1)
    neighbours: Bytes = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(-1)
    neighbours.flags.writeable = False
    return Tensor(tensor.format, tensor.shape, neighbours)
