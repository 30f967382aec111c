"""An empty root with a read-only interpreter in it, and namespaces of its own for each run."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from codellama.sandbox import kernel
from codellama.sandbox.landlock import EXECUTE, READ, SCRATCH, WRITE_FILE

NOBODY = 65534
SCRATCH_DIR = "/tmp"
WORK_DIR = "/tmp/work"
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_OLD = "/.old"
_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
_RUN_FLAGS = (
    kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID | kernel.NEWNET
    | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWCGROUP
)  # fmt: skip


def interpreter_paths() -> list[str]:
    """What this interpreter reads while it runs: its program, its library, shared objects."""
    found = {sys.executable, str(Path(os.__file__).parent)}
    found |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    lines = Path("/proc/self/maps").read_text().splitlines()
    for path in {line.split(None, 5)[5] for line in lines if ".so" in line}:
        folder = str(Path(path).parent)
        # A folder of the system's libraries is taken whole: modules load more of them later.
        is_system = folder.startswith(("/lib", "/usr/lib"))
        found.add(folder if is_system else path)
    return sorted(path for path in found if Path(path).exists())


def drop_user() -> None:
    """From root to a user who owns nothing."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.set_dumpable()


def map_identity(proc: int, uid: int, gid: int) -> None:
    """In a new user namespace, this user is who they were and nobody else exists.

    `proc` is an open directory of /proc, which the root we run in does not have.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        file = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def enter_root(paths: list[str], proc: int) -> None:
    """Leaves the host's files behind for a root that holds `paths`, read-only, and /dev/null.

    As root this needs no user namespace; then the user is dropped. Otherwise one is made.

    Raises:
        OSError: the kernel does not let us.
    """
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        kernel.unshare(kernel.NEWNS)
    else:
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
        map_identity(proc, uid, gid)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    links, targets = _resolved(paths)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
    Path("/tmp" + _OLD).mkdir(0o700)
    kernel.pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    for path in targets:
        _bind(path)
    for link, target in links:
        if not os.path.lexists(link):
            Path(link).parent.mkdir(parents=True, exist_ok=True)
            Path(link).symlink_to(target)
        if not Path(target).exists():  # a folder of which only some parts are bound
            Path(target).mkdir(parents=True)
    _bind("/dev/null", read_only=False)
    Path(SCRATCH_DIR).mkdir(parents=True, exist_ok=True)
    kernel.unmount(_OLD)
    Path(_OLD).rmdir()
    kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)
    if uid == 0:
        drop_user()


def _resolved(paths: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Links to make, as (path, target), and real paths to bind, outer ones first."""
    links, targets = [], set()
    for system in ("/lib", "/lib64"):
        if Path(system).is_symlink():
            links.append((system, os.path.realpath(system)))
    for path in paths:
        real = os.path.realpath(path)
        targets.add(real)
        if real != path:
            links.append((path, real))
    for loader in filter(os.path.exists, LOADERS):
        targets.add(os.path.realpath(loader))
        links.append((loader, os.path.realpath(loader)))
    outer: list[str] = []
    for path in sorted(targets):
        if not any(path == one or path.startswith(one + "/") for one in outer):
            outer.append(path)
    return links, outer


def _bind(path: str, *, read_only: bool = True) -> None:
    source, target = _OLD + path, Path(path)
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(source, path, None, kernel.MS_BIND | kernel.MS_REC)
    if read_only:
        kernel.restrict_mount(path, _READ_ONLY)


def isolate(proc: int) -> None:
    """New namespaces of every kind for this process; the next child is the first of its own."""
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_RUN_FLAGS)
    map_identity(proc, uid, gid)


def mount_scratch(disk_bytes: int, n_files: int, *, may_execute: bool) -> None:
    """A place to write that is gone, with all in it, when the namespace ends."""
    kernel.mount(
        "tmpfs", SCRATCH_DIR, "tmpfs",
        kernel.MS_NOSUID | kernel.MS_NODEV | (0 if may_execute else kernel.MS_NOEXEC),
        f"size={disk_bytes},nr_inodes={n_files + 2},mode=700",
    )  # fmt: skip
    Path(WORK_DIR).mkdir()


def landlock_rules(
    paths: list[str],
    scratch: str | None,
    readable: str | None,
    *,
    may_execute: bool,
    programs: list[str],
) -> list[tuple[list[str], int]]:
    """The rights of a program: to read the interpreter, and its scratch directory."""
    rules = [(paths, READ), (["/dev/null"], READ | WRITE_FILE)]
    if may_execute:
        loaders = [loader for loader in LOADERS if Path(loader).exists()]
        own = [scratch] if programs and scratch is not None else []
        rules.append(([sys.executable, *loaders, *programs, *own], EXECUTE | READ))
    if scratch is not None:
        rules.append(([scratch], SCRATCH))
    if readable is not None:
        rules.append(([readable], READ))
    return rules
