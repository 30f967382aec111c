"""The launcher: a process that is ready to become a program, over and over.

Started once for each `Sandbox`. It goes into the empty root, gives up the user it came as, and then
forks for each run:

    zygote ── supervisor ── init ── program
              new namespaces; clock, output     first process of its pid namespace;
              and the end of everything         scratch directory, CPU time

Only the last one runs foreign code, after it has closed all descriptors and lowered itself for
good. Forking spares each run the start of an interpreter.

`off` leaves single layers out. It is for tests, which must see that their probes bite; nothing in
the package sets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from codellama.sandbox import inside, kernel, landlock, namespaces, seccomp
from codellama.sandbox.framing import Ended, read_message, write_message

_CPU_POLL_MS = 20


def main(control: int) -> None:
    """Serves one `Sandbox` over the socket `control` until it is closed."""
    socket_ = socket.socket(fileno=control)
    setup = read_message(control)
    del sys.path[0]  # this package's own place, which programs have no business with
    sys.path += setup["packages"]
    inside.preload(["pytest"] if setup["packages"] else [])
    try:
        launcher = Launcher(setup)
    except OSError as error:
        write_message(control, {"ok": False, "error": str(error)})
        os._exit(0)
    write_message(control, {"ok": True})
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, fds, _, _ = socket.recv_fds(socket_, 1, 2, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            os._exit(0)
        if os.fork() == 0:
            os.close(socket_.detach())
            launcher.supervise(fds[0], fds[1] if len(fds) > 1 else None)
        for fd in fds:
            os.close(fd)


class Launcher:
    """What all runs of one sandbox have in common."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.off = frozenset(setup["off"])
        self.is_full = setup["level"] == "full"
        self.programs: list[str] = setup["programs"]
        self.paths: list[str] = namespaces.interpreter_paths() + setup["packages"] + self.programs
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Its own end comes when `control` is closed. To ask the kernel for it would end it with the
        # thread that opened the sandbox, not with the process.
        if self.is_full and "namespaces" not in self.off:
            namespaces.enter_root(self.paths, self.proc)
        elif os.getuid() == 0:
            namespaces.drop_user()

    def supervise(self, channel: int, link: int | None) -> NoReturn:
        """Runs one job to its end and reports; then this process is over."""
        kernel.die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            job = read_message(channel)
            try:
                report = self._run(job, channel, link)
            except Exception as error:
                report = {"failed": f"{type(error).__name__}: {error}"}
            write_message(channel, report)
        except Ended:
            pass
        os._exit(0)

    def _run(self, job: dict[str, Any], channel: int, link: int | None) -> dict[str, Any]:
        started = time.monotonic()
        limits = job["limits"]
        if self.is_full and "namespaces" not in self.off:
            namespaces.isolate(self.proc)
        pipes = {name: os.pipe() for name in ("stdout", "stderr", "note", "end")}
        parent = os.getpid()
        init = os.fork()
        if init == 0:
            try:
                self._init(job, pipes, link, parent)
            except BaseException as error:
                os.write(pipes["end"][1], f"!{type(error).__name__}: {error}\n".encode())
                os._exit(1)
        for _, writing in pipes.values():
            os.close(writing)
        if link is not None:
            os.close(link)
        read = _Reader(pipes, limits["output_bytes"])
        why = read.until_end(started + limits["wall_s"], channel)
        with contextlib.suppress(ProcessLookupError):
            os.kill(init, signal.SIGKILL)  # and with the first process, its whole namespace
        os.waitpid(init, 0)
        return read.report(why, time.monotonic() - started)

    def _init(
        self, job: dict[str, Any], pipes: dict[str, tuple[int, int]], link: int | None, parent: int
    ) -> NoReturn:
        """The first process of the namespace: prepares, starts the program, waits for it."""
        kernel.die_with_parent()
        if "namespaces" in self.off or not self.is_full:
            if os.getppid() != parent:
                os._exit(1)
        else:
            namespaces.mount_scratch(
                job["limits"]["disk_bytes"],
                job["limits"]["files"],
                may_execute=bool(self.programs),
            )
            inside.write_files(namespaces.WORK_DIR, job["files"])
        os.setsid()  # else a signal to group 0 would reach the supervisor
        stdin = os.memfd_create("stdin")
        os.write(stdin, job["stdin"].encode("utf-8", "surrogatepass"))
        os.lseek(stdin, 0, os.SEEK_SET)
        program = os.fork()
        if program == 0:
            descriptors = [stdin, pipes["stdout"][1], pipes["stderr"][1], pipes["note"][1]]
            descriptors += [] if link is None else [link]
            complaints = len(descriptors)  # open until nothing can go wrong any more
            try:
                self._lower(job, [*descriptors, pipes["end"][1]])
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.write(complaints, f"!{type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os.close(complaints)
            inside.main(job)
        for name in ("stdout", "stderr", "note"):
            os.close(pipes[name][1])
        if link is not None:
            os.close(link)
        status, is_over = self._wait(program, job["limits"]["cpu_s"])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = used.ru_utime + used.ru_stime
        os.write(pipes["end"][1], f"{status} {cpu_s:.6f} {int(is_over)}".encode())
        os._exit(0)

    def _wait(self, program: int, cpu_s: float) -> tuple[int, bool]:
        """Waits for the program, and ends it when its CPU time is over.

        Returns its exit code, negative for a signal, and whether its time was over.
        """
        clock = (~program << 3) | 2  # the CPU clock of another process (linux/posix-timers.h)
        handle = os.pidfd_open(program)
        is_over = False
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        while not waiting.poll(_CPU_POLL_MS):
            if not is_over and time.clock_gettime(clock) >= cpu_s:
                is_over = True
                os.kill(program, signal.SIGKILL)
        _, status = os.waitpid(program, 0)
        code = os.waitstatus_to_exitcode(status)
        return code, is_over or code == -signal.SIGXCPU

    def _lower(self, job: dict[str, Any], wanted: list[int]) -> None:
        """Leaves this process what a foreign program may have, and nothing else, for good.

        The `wanted` descriptors become 0, 1 and so on.
        """
        limits = job["limits"]
        kernel.die_with_parent()
        for fd, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in wanted]):
            os.dup2(source, fd)
        if "descriptors" not in self.off:
            kernel.close_from(len(wanted))
        if "environment" not in self.off:
            os.environ.clear()
            os.environ["PATH"] = "/usr/bin:/bin"
        full = self.is_full and "namespaces" not in self.off
        os.umask(0o077)
        os.chdir(namespaces.WORK_DIR if full else job["folder"])
        kernel.no_new_privileges()
        if "rlimits" not in self.off:
            _limit(limits, is_full=self.is_full)
        if "landlock" not in self.off:
            landlock.restrict(
                namespaces.landlock_rules(
                    self.paths,
                    namespaces.SCRATCH_DIR if full else None,
                    None if full else job["folder"],
                    may_execute=limits["processes"] > 1,
                    programs=self.programs,
                )
            )
        if "capabilities" not in self.off:
            kernel.drop_capabilities()
        if "seccomp" not in self.off:
            seccomp.install(
                seccomp.program(
                    pid=os.getpid(),
                    many_processes=limits["processes"] > 1 and self.is_full,
                    has_scratch=full,
                    has_programs=bool(self.programs),
                )
            )


def _limit(limits: dict[str, Any], *, is_full: bool) -> None:
    tasks = limits["processes"] + limits["threads"] - 1
    bounds = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: math.ceil(limits["cpu_s"]) + 1,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if is_full:  # the user namespace counts its own tasks: supervisor, init and these
        bounds[resource.RLIMIT_NPROC] = tasks + 2
    for what, bound in bounds.items():
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            bound = min(bound, hard)
        resource.setrlimit(what, (bound, bound))


class _Reader:
    """Collects what a run writes, until it ends or must be ended."""

    def __init__(self, pipes: dict[str, tuple[int, int]], output_bytes: int) -> None:
        self.names = {pipes[name][0]: name for name in pipes}
        self.texts = {name: bytearray() for name in pipes}
        self.output_bytes = output_bytes

    def until_end(self, deadline: float, channel: int) -> str:
        """Why it ended: "end", "wall", "output", "left" (nobody waits for it any more)."""
        waiting = select.poll()
        for fd in self.names:
            waiting.register(fd, select.POLLIN)
        waiting.register(channel, select.POLLIN)
        open_ = set(self.names)
        while open_:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return "wall"
            for fd, _ in waiting.poll(left_s * 1000 + 1):
                if fd == channel:
                    return "left"
                name = self.names[fd]
                piece = os.read(fd, 1 << 16)
                self.texts[name] += piece
                if len(self.texts[name]) > self.output_bytes:
                    del self.texts[name][self.output_bytes :]
                    return "output"
                if not piece:
                    waiting.unregister(fd)
                    open_.discard(fd)
                    if name == "end":
                        self._drain(open_)
                        return "end"
        return "end"

    def _drain(self, fds: set[int]) -> None:
        """Takes what is left in the pipes; who still holds them will write no more."""
        for fd in fds:
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while len(self.texts[self.names[fd]]) <= self.output_bytes:
                    piece = os.read(fd, 1 << 16)
                    if not piece:
                        break
                    self.texts[self.names[fd]] += piece
            del self.texts[self.names[fd]][self.output_bytes :]

    def report(self, why: str, wall_s: float) -> dict[str, Any]:
        """The message for the host; `end` is "exit code, CPU seconds, whether they were over"."""
        return {
            "why": why,
            "wall_s": wall_s,
            **{name: text.decode("utf-8", "replace") for name, text in self.texts.items()},
        }
