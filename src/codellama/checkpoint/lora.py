"""LoRA adapters as PEFT writes them, added to a checkpoint's matrices as they are read.

A folder holds adapter_config.json and adapter_model.safetensors; each adapted matrix W becomes
W + scale · B·A with A [r, in] and B [out, r]. What else PEFT can put there is refused, not ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama.checkpoint.files import Folder, quoted
from codellama.checkpoint.reader import Reader
from codellama.checkpoint.safetensors import Entry, read_header
from codellama.checkpoint.strict_json import parse_object
from codellama.errors import CheckpointError
from codellama.quant.formats import Format, Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."
_FORMATS = {"F32": Format.F32, "F16": Format.F16, "BF16": Format.BF16}
_OFF: dict[str, tuple[Any, ...]] = {  # settings that change the arithmetic, and what they must be
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
}


@dataclass(frozen=True)
class Adapter:
    """The two factors of each adapted matrix, by our name of it, and what they are scaled by."""

    path: Path
    scale: float
    factors: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

    def tensors(self, reader: Reader) -> Iterator[tuple[str, Tensor]]:
        """The checkpoint's tensors, those that the adapter changes in float32."""
        for name, tensor in reader.tensors():
            if name in self.factors:
                a, b = self.factors[name]
                merged = tensor.to_float32().reshape(tensor.shape) + self.scale * (b @ a)
                yield name, Tensor.from_float32(np.ascontiguousarray(merged, np.float32))
            else:
                yield name, tensor


def open_adapter(path: Path, reader: Reader) -> Adapter:
    """The adapter in the folder `path`, matched with the checkpoint it is for.

    Raises:
        CheckpointError: the folder holds no LoRA adapter, one with settings that are not honoured,
            or one for other matrices than the checkpoint has.
    """
    folder = Folder(path)
    for name in (CONFIG, WEIGHTS):
        if name not in folder.names:
            raise CheckpointError(
                f"{path}: holds no {name}", hint="give the folder that PEFT's save_pretrained made"
            )
    with folder.open(CONFIG) as file:
        config = parse_object(file.read_small(), str(file.path))
    rank, scale = _scale(config, f"{path / CONFIG}")
    with folder.open(WEIGHTS) as file:
        factors = _factors(read_header(file), rank, reader, str(file.path))
    return Adapter(path, scale, factors)


def _scale(config: dict[str, Any], where: str) -> tuple[int, float]:
    """The rank, and what the product of the factors is multiplied by."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where}: `peft_type` is not LORA")
    for name, allowed in _OFF.items():
        if config.get(name) not in allowed and name in config:
            raise CheckpointError(f"{where}: `{name}` is {quoted(repr(config[name]))}, "
                                  "which is not supported")  # fmt: skip
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 0 < rank <= 4096:
        raise CheckpointError(f"{where}: `r` is {quoted(repr(rank))}; expected a rank")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise CheckpointError(f"{where}: `lora_alpha` is {quoted(repr(alpha))}; expected a number")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank)


def _factors(
    entries: dict[str, Entry], rank: int, reader: Reader, where: str
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, entry in entries.items():
        stem, mark, kind = name.removeprefix(_PREFIX).partition(".lora_")
        matrix = f"{stem.removeprefix('model.')}.weight"
        if not mark or kind not in ("A.weight", "B.weight") or matrix not in reader.infos:
            raise CheckpointError(f"{where}: {quoted(name)} belongs to no matrix of the model")
        shape = reader.infos[matrix].shape
        if len(shape) != 2 or "embed_tokens" in matrix or "lm_head" in matrix:
            raise CheckpointError(f"{where}: {quoted(name)}: only projections are adapted")
        expected = (rank, shape[1]) if kind[0] == "A" else (shape[0], rank)
        if entry.shape != expected or entry.dtype not in _FORMATS:
            raise CheckpointError(
                f"{where}: {quoted(name)} is {entry.dtype} {list(entry.shape)}; expected a float "
                f"{list(expected)}"
            )
        raw = entry.file.read(entry.offset, entry.count)
        tensor = Tensor(_FORMATS[entry.dtype], entry.shape, raw)
        found.setdefault(matrix, {})[kind[0]] = tensor.to_float32().reshape(entry.shape)
    for matrix, pair in found.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{where}: {matrix} has one of its two factors only")
    if not found:
        raise CheckpointError(f"{where}: adapts nothing")
    return {matrix: (pair["A"], pair["B"]) for matrix, pair in found.items()}
