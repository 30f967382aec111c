"""A sandbox for tests; where this machine cannot isolate programs they are skipped, saying why."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from codellama.sandbox import Limits, Sandbox, SandboxUnavailable

SMALL = Limits(
    cpu_s=2,
    wall_s=20,
    memory_bytes=256 << 20,
    disk_bytes=4 << 20,
    files=64,
    output_bytes=64 << 10,
    threads=8,
)


def opened(limits: Limits, packages: Sequence[str] = ()) -> Sandbox:
    try:
        return Sandbox.open(limits=limits, n_workers=2, packages=packages)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    with opened(SMALL) as found:
        yield found


@pytest.fixture(scope="session")
def hasty() -> Iterator[Sandbox]:
    """One that ends programs soon, for those that do not end by themselves."""
    with opened(replace(SMALL, cpu_s=0.3, wall_s=2)) as found:
        yield found


@pytest.fixture(scope="session")
def with_pytest() -> Iterator[Sandbox]:
    with opened(SMALL, [sysconfig.get_path("purelib")]) as found:
        yield found
