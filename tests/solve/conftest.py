"""A sandbox for tests that run candidates; skipped where this machine cannot isolate programs."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator

import pytest

from codellama.sandbox import Limits, Sandbox, SandboxUnavailable


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    limits = Limits(cpu_s=5, wall_s=30)
    try:
        opened = Sandbox.open(limits=limits, n_workers=2, packages=[sysconfig.get_path("purelib")])
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with opened:
        yield opened
