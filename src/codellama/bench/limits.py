"""What this machine can do at most, measured: reading memory and multiplying."""

from __future__ import annotations

from dataclasses import dataclass, field

from codellama import _native

_DRAM_BYTES = 1 << 30
_SMALLEST = 1 << 22
_READ_PASSES = 4
_PEAK_PASSES = 48


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
