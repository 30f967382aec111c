"""What this machine can do at most, measured: reading memory and multiplying."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from codellama import _native

if TYPE_CHECKING:
    from codellama.bench.cost import Cost

_DRAM_BYTES = 1 << 30
_SMALLEST = 1 << 22
_READ_PASSES = 4
_PEAK_PASSES = 48


class Roof(Protocol):
    """What can be done at most: `read` bytes a second, and operations."""

    read: float

    def ops(self, cost: Cost) -> float:
        """Operations a second in the numbers that a model multiplies in."""
        ...

    def measure(self) -> None:
        """One more round of everything, a second or two."""
        ...

    def to_json(self) -> dict[str, Any]:
        """In 10^9 bytes or operations per second; None where there is no such limit."""
        ...


@dataclass(kw_only=True)
class Limits:
    """The best passes of all calls of `measure`: nothing else on the machine can make one better.

    `read` is measured over as many bytes as a token of the model reads, again and again as decoding
    does, since a small model lives in the processor's caches; `dram` over more than caches hold.
    `int8_kind` is None where the CPU has no arithmetic for it.
    """

    n_threads: int
    read_bytes: int
    read: float = 0.0  # bytes per second
    dram: float = 0.0
    int8: float = 0.0  # operations per second
    fp32: float = 0.0
    int8_kind: str | None = field(init=False, default=None)
    fp32_kind: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.read_bytes = min(max(self.read_bytes, _SMALLEST), _DRAM_BYTES)

    def measure(self) -> None:
        """One more round of everything, a second or two."""
        machine = _native.machine
        rates = machine.read_bandwidth(self.read_bytes, self.n_threads, _READ_PASSES)
        self.read = max(self.read, *rates)
        if self.read_bytes < _DRAM_BYTES:
            rates = machine.read_bandwidth(_DRAM_BYTES, self.n_threads, _READ_PASSES)
        self.dram = max(self.dram, *rates)
        for kind in machine.peak_kinds():
            rate = max(machine.peak(kind, self.n_threads, _PEAK_PASSES))
            if kind.startswith("int8") and rate > self.int8:
                self.int8, self.int8_kind = rate, kind
            elif kind.startswith("fp32") and rate > self.fp32:
                self.fp32, self.fp32_kind = rate, kind

    def ops(self, cost: Cost) -> float:
        """Of int8 for blocks and of float32 for others."""
        return self.int8 if cost.is_quantised else self.fp32

    def to_json(self) -> dict[str, Any]:
        """See `Roof`."""
        return {
            "read_gb_s": self.read / 1e9,
            "read_bytes": self.read_bytes,
            "dram_gb_s": self.dram / 1e9,
            "int8_gop_s": self.int8 / 1e9 if self.int8_kind else None,
            "int8_kind": self.int8_kind,
            "fp32_gflop_s": self.fp32 / 1e9 if self.fp32_kind else None,
            "fp32_kind": self.fp32_kind,
            "product_gflop_s": None,
            "product_kind": None,
        }


class Measures(Protocol):
    """An engine that measures its own device; see `process.EngineProcess`."""

    def limits(self) -> dict[str, float]: ...


@dataclass(kw_only=True)
class DeviceLimits:
    """Those of PyTorch's device, which the engine measures between its repetitions.

    Copies stand for reading, which none can be quicker at, and products of large matrices of the
    activations' type, `kind`, for arithmetic.
    """

    engine: Measures
    kind: str
    read: float = 0.0
    product: float = 0.0

    def measure(self) -> None:
        """See `Roof`; as there, the best of all rounds counts."""
        found = self.engine.limits()
        self.read = max(self.read, found["read"])
        self.product = max(self.product, found["product"])

    def ops(self, cost: Cost) -> float:
        """See `Roof`; whatever the weights are kept in, they are multiplied as activations are."""
        return self.product

    def to_json(self) -> dict[str, Any]:
        """See `Roof`."""
        nothing = dict.fromkeys(
            ("read_bytes", "dram_gb_s", "int8_gop_s", "int8_kind", "fp32_gflop_s", "fp32_kind")
        )
        return {
            "read_gb_s": self.read / 1e9,
            **nothing,
            "product_gflop_s": self.product / 1e9,
            "product_kind": self.kind,
        }
