"""Twelve attempts to break out, made each time a sandbox opens."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codellama.sandbox.box import Sandbox

_PROGRAM = """
import ctypes, json, mmap, os, signal, socket
import wave  # not loaded yet: the library has to be there
GIVEN = json.loads(input())
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def environment():
    if set(os.environ) - {"PATH", "LC_CTYPE"}:
        return
    raise OSError("nothing there")

def descriptors():
    for fd in range(4, 256):
        try:
            os.fstat(fd)
            return
        except OSError:
            pass
    raise OSError("none open")

def fork():
    if os.fork() == 0:
        os._exit(0)

PROBES = {
    "reads a file of the machine": lambda: open(GIVEN["secret"]).read(),
    "writes outside its directory": lambda: open(GIVEN["folder"] + "/mark", "w").write("x"),
    "sees the environment": environment,
    "has inherited descriptors": descriptors,
    "sees /proc": lambda: open("/proc/self/status").read(),
    "makes a network socket": lambda: socket.socket(socket.AF_INET),
    "makes a local socket": lambda: socket.socket(socket.AF_UNIX),
    "signals another process": lambda: os.kill(GIVEN["pid"], 0),
    "makes a namespace": lambda: checked(libc.unshare(0x10000000)),
    "takes more memory than its limit": lambda: mmap.mmap(-1, GIVEN["memory"]),
    "starts a process": fork,
    "runs another program": lambda: os.execv("/bin/sh", ["sh", "-c", "exit 9"]),
}
won = []
for name, probe in PROBES.items():
    try:
        probe()
    except (OSError, MemoryError):
        continue
    won.append(name)
print(json.dumps(won))
"""


def leaks(box: Sandbox) -> tuple[str, ...]:
    """What succeeded that must not; also says when programs do not run at all."""
    with tempfile.TemporaryDirectory(prefix="codellama-probe-") as folder:
        Path(folder).chmod(0o777)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o644)
        given = {
            "secret": str(secret),
            "folder": folder,
            "pid": os.getpid(),
            "memory": box.limits.memory_bytes,
        }
        programs = _PROGRAM
        if box.limits.processes > 1:  # these two are allowed then
            programs = "\n".join(
                line
                for line in _PROGRAM.splitlines()
                if "starts a process" not in line and "runs another" not in line
            )
        ran = box.run(programs, stdin=json.dumps(given))
        if ran.status != "ok":
            last = ran.stderr.strip().splitlines()[-1:] or [ran.reason]
            return (f"a program of the standard library does not run ({last[0]})",)
        return tuple(json.loads(ran.stdout))
