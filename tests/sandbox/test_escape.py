"""Every attempt is really made inside, and none gets through; without the layers many do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape_probes import ENDLESS, PROBES, program

from codellama.sandbox import Limits, Ran, Sandbox

LAYERS = frozenset(
    ("namespaces", "landlock", "seccomp", "rlimits", "capabilities", "environment", "descriptors")
)


@pytest.fixture
def bait() -> Iterator[dict[str, Any]]:
    """What a program could find outside: files anybody may read and write, and open doors."""
    # pytest's own directories are closed to other users, which would hide a leak
    with tempfile.TemporaryDirectory(prefix="codellama-bait-") as folder:
        Path(folder).chmod(0o777)
        yield from laid_out(Path(folder))


def laid_out(tmp_path: Path) -> Iterator[dict[str, Any]]:
    for name in ("secret", "shared", "victim"):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o666)
    name = f"codellama-probe-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as local,
    ):
        tcp.listen(16)
        abstract.bind(f"\0{name}")
        abstract.listen(16)
        local.bind(str(tmp_path / "local"))
        (tmp_path / "local").chmod(0o777)
        local.listen(16)
        yield {
            "folder": str(tmp_path),
            **{one: str(tmp_path / one) for one in ("secret", "shared", "victim", "local")},
            "variable": "CODELLAMA_PROBE",
            "port": tcp.getsockname()[1],
            "abstract": name,
            "pid": os.getpid(),
        }


def given(bait: dict[str, Any], limits: Limits, box: Sandbox) -> str:
    return json.dumps(
        bait
        | {
            "memory": limits.memory_bytes,
            "disk": limits.disk_bytes,
            "files": limits.files,
            "open_files": limits.open_files,
            "threads": limits.threads,
            "launcher": box._launching._process.pid,
        }
    )


def survivors(box: Sandbox) -> list[int]:
    """Processes that came from the launcher and are still there."""
    launcher = box._launching._process.pid
    command = Path(f"/proc/{launcher}/cmdline").read_bytes()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != launcher:
            try:
                if (entry / "cmdline").read_bytes() == command:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def all_gone(box: Sandbox) -> bool:
    until = time.monotonic() + 5
    while survivors(box):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def won(ran: Ran) -> bool:
    return "WON" in ran.stdout


def test_there_are_enough_attempts() -> None:
    assert len(PROBES) + len(ENDLESS) >= 60


def test_nothing_gets_out(box: Sandbox, bait: dict[str, Any]) -> None:
    got = [
        n
        for n, body in PROBES.items()
        if won(box.run(program(body), stdin=given(bait, box.limits, box)))
    ]
    assert got == []
    assert all_gone(box)
    folder = Path(bait["folder"])
    assert {p.name for p in folder.iterdir()} == {"secret", "shared", "victim", "local"}
    assert all((folder / name).read_text() == "secret" for name in ("secret", "shared", "victim"))


@pytest.mark.parametrize("name", ENDLESS)
def test_nothing_runs_on(hasty: Sandbox, name: str) -> None:
    limits = hasty.limits
    ran = hasty.run(ENDLESS[name])
    assert ran.status in ("timeout", "killed", "memory", "error")
    assert ran.cpu_s <= limits.cpu_s + 1.5
    assert ran.wall_s <= limits.wall_s + 2
    assert max(len(ran.stdout), len(ran.stderr)) <= limits.output_bytes
    assert all_gone(hasty)


def test_the_attempts_bite(
    box: Sandbox, bait: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every layer left out, at least a quarter of them succeeds."""
    monkeypatch.setenv(bait["variable"], "secret")
    limits = replace(box.limits, wall_s=2)
    with Sandbox._open(limits, 1, (), (box.level,), LAYERS) as bare:
        got = [
            name
            for name, body in PROBES.items()
            if won(bare.run(program(body), stdin=given(bait, limits, bare)))
        ]
        daemons = survivors(bare)
        for pid in daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
    assert len(got) >= len(PROBES) / 4, got
    assert daemons
