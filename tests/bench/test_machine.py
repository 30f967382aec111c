"""What is said about the machine, and about who else uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from codellama.bench import machine


def test_the_machine_is_described() -> None:
    found = machine.describe()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["memory_gb"] > 0
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["date"].endswith("+00:00")


def test_a_cpu_is_called_what_the_system_calls_it(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A CPU: the best\nmodel name\t: Another\n")
    assert machine.cpu_name(info) == "A CPU: the best"
    info.write_text("processor\t: 0\n")
    assert machine.cpu_name(info) == os.uname().machine
    assert machine.cpu_name(tmp_path / "missing") == os.uname().machine


BUSY = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_what_others_use_is_told_from_what_we_use() -> None:
    """Half a second of work counts for others unless it is one of ours."""
    meter = machine.OtherPrograms()
    ticks = os.sysconf("SC_CLK_TCK")
    meter.start([])
    with subprocess.Popen([sys.executable, "-c", BUSY]) as child:
        own = machine._used(os.getpid())
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert machine._used(child.pid) >= 0.4 * ticks
        assert machine._used(os.getpid()) - own < 0.4 * ticks
    assert machine._used(os.getpid()) - own >= 0.4 * ticks  # a child that ended is ours
    share = meter.share()
    assert share is None or 0 <= share <= 1
