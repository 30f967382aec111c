"""Devices as numbers: memory, what they read and multiply in a second, watts, price, carbon.

Makers' data sheets give memory, bandwidth and peaks (dense, not with sparsity). The shares of them
that an engine reaches are measured for our CPU engine (docs/performance.md) and assumed for GPUs;
prices are assumptions too, of renting by the hour. `--hardware FILE` replaces any of it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codellama.errors import ConfigError

Kind = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """`count` equal devices, up to `per_node` of them in one machine.

    Sizes in bytes, rates per second, power in watts, prices in dollars an hour and device.
    `peak` is arithmetic in the weights' precision: 16-bit floats of a GPU, 8-bit whole numbers of a
    CPU, whose float32 peak is `peak_fp32`. `read_share` and `peak_share` are what of bandwidth
    and peak an engine reaches.
    """

    name: str
    kind: Kind
    count: int = 1
    per_node: int = 8
    memory: float
    bandwidth: float
    peak: float
    peak_fp32: float = 0.0
    link: float = 0.0  # from one device of a machine to another
    read_share: float = 0.6
    peak_share: float = 0.4
    watts: float
    price: float = 0.0
    kg_co2_per_kwh: float = 0.408  # what makes the paper's 228.55 t of its hours
    is_measured: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("cpu", "gpu"):
            raise ConfigError(f"hardware: kind is {self.kind!r}; expected cpu or gpu")
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in ("name", "kind", "is_measured"):
                continue
            least_is_0 = item.name in ("peak_fp32", "link", "price", "kg_co2_per_kwh")
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not (value >= 0 if least_is_0 else value > 0):
                raise ConfigError(f"hardware: {item.name} is {value!r}; expected a positive number")

    @property
    def n_nodes(self) -> int:
        return -(-self.count // self.per_node)

    @property
    def total_memory(self) -> float:
        return self.count * self.memory


def _gpu(name: str, memory_gb: float, bandwidth_tb: float, peak_tflops: float, watts: float,
         price: float, link_gb: float = 32, per_node: int = 8) -> Hardware:  # fmt: skip
    return Hardware(
        name=name, kind="gpu", memory=memory_gb * 1e9, bandwidth=bandwidth_tb * 1e12,
        peak=peak_tflops * 1e12, link=link_gb * 1e9, watts=watts, price=price, per_node=per_node,
    )  # fmt: skip


GPUS = {
    gpu.name: gpu
    for gpu in (
        #    name      GB   TB/s  TFLOP/s  W    $/h   GB/s between
        _gpu("rtx4090", 24, 1.008, 165.2, 450, 0.5, 32),
        _gpu("l4", 24, 0.300, 121.0, 72, 0.7, 32),
        _gpu("l40s", 48, 0.864, 362.0, 350, 1.2, 32),
        _gpu("a100-40", 40, 1.555, 312.0, 400, 1.3, 300),
        _gpu("a100", 80, 2.039, 312.0, 400, 1.8, 300),
        _gpu("h100", 80, 3.350, 989.0, 700, 3.0, 450),
        _gpu("h200", 141, 4.800, 989.0, 700, 3.8, 450),
        _gpu("b200", 180, 8.000, 2250.0, 1000, 5.5, 900),
        _gpu("mi300x", 192, 5.300, 1307.0, 750, 3.0, 448),
    )
}
"""By the name that --gpu takes."""

LAPTOP = Hardware(
    name="a laptop of 8 cores", kind="cpu", per_node=1, memory=16e9, bandwidth=60e9, peak=2e12,
    peak_fp32=0.5e12, read_share=1.0, peak_share=0.6, watts=45,
)  # fmt: skip


def gpus(name: str, count: int) -> Hardware:
    """So many GPUs of a kind.

    Raises:
        ConfigError: there is no such kind, or no GPU.
    """
    found = GPUS.get(name.lower())
    if found is None:
        raise ConfigError(
            f"there are no figures of a GPU {name!r}",
            hint=f"there are {', '.join(GPUS)}; give others by --hardware FILE",
        )
    if count < 1:
        raise ConfigError(f"--count is {count}; expected 1 or more")
    return dataclasses.replace(found, count=count)


def read(path: Path) -> Hardware:
    """A TOML file with the fields of `Hardware`; `base` takes the others from a GPU we know.

    Raises:
        ConfigError: it is not TOML, or a key is unknown, missing or no such number.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    known = {item.name for item in dataclasses.fields(Hardware)}
    for key in raw:
        if key != "base" and key not in known:
            raise ConfigError(
                f"{path}: unknown key `{key}`", hint=f"there are base, {', '.join(sorted(known))}"
            )
    if "base" in raw:
        base = gpus(str(raw.pop("base")), 1)
        return dataclasses.replace(base, **raw)
    missing = [name for name in ("name", "kind", "memory", "bandwidth", "peak", "watts")
               if name not in raw]  # fmt: skip
    if missing:
        raise ConfigError(f"{path}: `{missing[0]}` is missing")
    return Hardware(**raw)


def this_machine(read_bytes: int, *, n_threads: int, memory: int | None) -> Hardware:
    """This machine's CPU, measured in a second or two.

    Args:
        read_bytes: what a token reads, which decides whether caches help.
        n_threads: threads of the engine.
        memory: bytes that may be used; None where the system does not say.
    """
    from codellama.bench import machine
    from codellama.bench.limits import Limits

    limits = Limits(n_threads=n_threads, read_bytes=read_bytes)
    limits.measure()
    return dataclasses.replace(
        LAPTOP,
        name=f"this machine, {machine.cpu_name()}, {n_threads} threads",
        memory=float(memory or 1 << 34),
        bandwidth=limits.read,
        peak=limits.int8 or limits.fp32,
        peak_fp32=limits.fp32,
        is_measured=True,
    )
