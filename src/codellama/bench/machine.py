"""The machine and the software that figures were measured on, and who else was using it."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from codellama import _native


def describe() -> dict[str, Any]:
    """CPU model and features, cores, memory, kernel, versions and the date, as one object."""
    return {
        "cpu": cpu_name(),
        "features": _native.cpu_features(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), "codellama": _version("codellama")},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as the system gives it, or its architecture."""
    try:
        lines = info.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class OtherPrograms:
    """How much of the processors others use from now on; a virtual machine's stolen time too.

    Figures say little when that is much: an engine whose threads wait for each other loses more
    than its share.
    """

    def __init__(self) -> None:
        self._before = _busy_and_all()
        self._own_before = 0.0

    def start(self, pids: Iterable[int]) -> None:
        """Begins anew; `pids` are processes that are ours besides this one."""
        self._pids = (os.getpid(), *pids)
        self._before = _busy_and_all()
        self._own_before = sum(map(_used, self._pids))

    def share(self) -> float | None:
        """From 0 to 1; None where the system does not tell."""
        now = _busy_and_all()
        if now is None or self._before is None or now[1] <= self._before[1]:
            return None
        own = sum(map(_used, self._pids)) - self._own_before
        busy = now[0] - self._before[0] - own
        return max(0.0, min(1.0, busy / (now[1] - self._before[1])))


def _busy_and_all() -> tuple[float, float] | None:
    """Ticks of all processors since the start, at work and in total."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
        ticks = [int(word) for word in first.split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _used(pid: int) -> float:
    """Ticks that a process and its children that ended have used; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))
    except (OSError, ValueError, IndexError):
        return 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
