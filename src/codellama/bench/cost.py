"""What a token costs: the bytes that must be read for it and the operations that must be done."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from codellama.checkpoint.reader import Reader
from codellama.runners import (
    EngineName,
    KVFormat,
    WeightKind,
    activation_format,
    kv_bytes_per_token,
    natural_kv_cache,
    weight_bytes,
)

_EMBEDDINGS = "embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What computes, on which device, and in which numbers; see `runners.load_runner`."""

    engine: EngineName = "cpu"
    device: str | None = None
    weights: WeightKind | None = None
    kv_cache: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one model in the numbers that it runs in. Only products with weights count as operations.

    `weight_bytes` is every weight a decoded token reads: all but the embeddings, of which it needs
    a row, unless they are the output matrix as well. A prompt's tokens need `body_macs`
    multiplications each, the rows that get logits `head_macs` more.
    """

    weight_bytes: int
    kv_bytes_per_position: int
    body_macs: int
    head_macs: int
    is_quantised: bool

    def decode_bytes(self, n: int, n_streams: int) -> float:
        """Bytes that n steps of n_streams sequences from an empty cache read."""
        positions = n * (n + 1) / 2
        return n * self.weight_bytes + n_streams * positions * self.kv_bytes_per_position

    def prefill_ops(self, n: int) -> float:
        """Operations (a multiplication and an addition are two) of reading n tokens."""
        return 2.0 * (n * self.body_macs + self.head_macs)

    def to_json(self) -> dict[str, int | bool]:
        return asdict(self)


def cost_of(reader: Reader, choice: Choice | None = None) -> Cost:
    """The cost of an open checkpoint's tokens, from its headers; by the native core where no
    choice is given."""
    choice = Choice() if choice is None else choice
    config, how = reader.config, (choice.engine, choice.device, choice.weights)
    head = _EMBEDDINGS if config.tie_embeddings else _HEAD
    read = {name: info for name, info in reader.infos.items() if name in (head,) or
            name != _EMBEDDINGS}  # fmt: skip
    matrices = {name: math.prod(info.shape) for name, info in read.items() if len(info.shape) == 2}
    # The precision that counts is the one most multiplications are done in.
    quantised = sum(n for name, n in matrices.items() if read[name].format.is_quantised)
    if choice.kv_cache is None:
        kept = natural_kv_cache(reader, *how)
    else:
        kept = KVFormat(choice.kv_cache.upper())
    if choice.engine == "cpu":
        n_bytes = sum(info.n_bytes for info in read.values())
    else:
        n_bytes = weight_bytes(reader, *how)
        if _EMBEDDINGS not in read:
            plain = activation_format(reader, choice.device, choice.weights)
            n_bytes -= math.prod(reader.infos[_EMBEDDINGS].shape) * plain.block_bytes
    return Cost(
        weight_bytes=n_bytes,
        kv_bytes_per_position=kv_bytes_per_token(config, kept),
        body_macs=sum(n for name, n in matrices.items() if name != head),
        head_macs=matrices[head],
        is_quantised=choice.engine == "cpu" and 2 * quantised > sum(matrices.values()),
    )
