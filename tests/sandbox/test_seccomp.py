"""The filter of system calls, interpreted here as the kernel does, for both machines."""

from __future__ import annotations

import errno
import struct

import pytest

from codellama.sandbox import kernel, seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4711


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What classic BPF returns for `struct seccomp_data`."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *padded)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = loaded = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
        elif operation == 0x15:
            at += yes if loaded == value else no
        elif operation == 0x45:
            at += yes if loaded & value else no
        else:
            assert operation == 0x06
            return value


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(kernel, "MACHINE", request.param)
    return str(request.param)


def made(*, many: bool = False, scratch: bool = True) -> bytes:
    return seccomp.program(pid=PID, many_processes=many, has_scratch=scratch)


# Numbers by hand from the kernel's tables: x86-64, ARM64.
WANTED = {"read": (0, 63), "write": (1, 64), "mmap": (9, 222), "openat": (257, 56),
          "futex": (202, 98), "exit_group": (231, 94), "getrandom": (318, 278),
          "clock_gettime": (228, 113), "newfstatat": (262, 79),
          "rt_sigreturn": (15, 139)}  # fmt: skip
REFUSED = {"socket": (41, 198), "connect": (42, 203), "socketpair": (53, 199),
           "sendmsg": (46, 211),
           "ptrace": (101, 117), "process_vm_readv": (310, 270), "unshare": (272, 97),
           "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
           "chroot": (161, 51), "bpf": (321, 280), "io_uring_setup": (425, 425),
           "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
           "userfaultfd": (323, 282), "memfd_create": (319, 279), "shmget": (29, 194),
           "mq_open": (240, 180), "init_module": (175, 105), "kexec_load": (246, 104),
           "setuid": (105, 146), "capset": (126, 91), "setrlimit": (160, 164),
           "seccomp": (317, 277), "open_by_handle_at": (304, 265), "personality": (135, 92),
           "mknodat": (259, 33), "setxattr": (188, 5), "landlock_create_ruleset": (444, 444),
           "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "execve": (59, 221),
           "execveat": (322, 281), "setsid": (112, 157), "fchownat": (260, 54)}  # fmt: skip


def test_calls_by_name(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    for numbers in WANTED.values():
        assert verdict(made(), ARCHITECTURES[machine], numbers[column]) == ALLOW
    for name, numbers in REFUSED.items():
        found = verdict(made(), ARCHITECTURES[machine], numbers[column])
        assert found == ERRNO | errno.EPERM, name


def test_no_other_call_is_let_through(machine: str) -> None:
    """Of all numbers there are, x32's included, fewer than 150 are allowed without a look."""
    program, architecture = made(), ARCHITECTURES[machine]
    allowed = [n for n in range(1024) if verdict(program, architecture, n) == ALLOW]
    assert len(allowed) < 150
    assert not any(verdict(program, architecture, n | 0x40000000) == ALLOW for n in range(1024))
    assert all(verdict(program, 0x40000003, n) == KILL for n in (0, 1, 59, 1023)), "32-bit calls"


def test_threads_and_processes(machine: str) -> None:
    clone, architecture = {"x86_64": 56, "aarch64": 220}[machine], ARCHITECTURES[machine]
    thread, process, namespace = 0x003D0F00, 17, 0x10000000
    assert verdict(made(), architecture, clone, thread) == ALLOW
    assert verdict(made(), architecture, clone, process) == ERRNO | errno.EPERM
    assert verdict(made(), architecture, clone, thread | namespace) == ERRNO | errno.EPERM
    assert verdict(made(many=True), architecture, clone, process) == ALLOW
    assert verdict(made(many=True), architecture, clone, process | namespace) != ALLOW
    for program in (made(), made(many=True)):
        assert verdict(program, architecture, 435) == ERRNO | errno.ENOSYS


def test_signals_go_to_itself_only(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    for call in {"x86_64": (62, 234), "aarch64": (129, 131)}[machine]:
        assert verdict(made(), architecture, call, PID) == ALLOW
        for other in (0, 1, PID + 1, (1 << 64) - 1, (1 << 64) - PID):
            assert verdict(made(), architecture, call, other) == ERRNO | errno.EPERM


def test_arguments(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    ioctl, prctl, prlimit, fcntl = {
        "x86_64": (16, 157, 302, 72), "aarch64": (29, 167, 261, 25)
    }[machine]  # fmt: skip
    program = made()
    assert verdict(program, architecture, ioctl, 1, 0x5401) == ALLOW
    assert verdict(program, architecture, ioctl, 1, 0x5412) == ERRNO | errno.ENOTTY
    assert verdict(program, architecture, prctl, 15) == ALLOW
    for option in (1, 4, 8, 22, 24, 38, 47):
        assert verdict(program, architecture, prctl, option) == ERRNO | errno.EPERM
    assert verdict(program, architecture, prlimit, 0, 7, 0, 1) == ALLOW
    assert verdict(program, architecture, prlimit, 0, 7, 1 << 32) == ERRNO | errno.EPERM
    assert verdict(program, architecture, prlimit, 0, 7, 1) == ERRNO | errno.EPERM
    assert verdict(program, architecture, prlimit, 5, 7, 0) == ERRNO | errno.EPERM
    assert verdict(program, architecture, fcntl, 0, 3) == ALLOW
    assert verdict(program, architecture, fcntl, 0, 8) == ERRNO | errno.EPERM


def test_pairs_of_local_sockets_for_programs_of_the_system(machine: str) -> None:
    pair, architecture = {"x86_64": 53, "aarch64": 199}[machine], ARCHITECTURES[machine]
    local, internet = 1, 2
    assert verdict(made(many=True), architecture, pair, local) == ERRNO | errno.EPERM
    with_programs = seccomp.program(
        pid=PID, many_processes=True, has_scratch=True, has_programs=True
    )
    assert verdict(with_programs, architecture, pair, local) == ALLOW
    assert verdict(with_programs, architecture, pair, internet) == ERRNO | errno.EPERM
    sockets = {"x86_64": (41, 42, 44, 46, 47), "aarch64": (198, 203, 206, 211, 212)}[machine]
    for call in sockets:  # socket, connect, sendto, sendmsg, recvmsg
        assert verdict(with_programs, architecture, call) == ERRNO | errno.EPERM


def test_without_a_place_to_write_modes_stay(machine: str) -> None:
    fchmod, architecture = {"x86_64": 91, "aarch64": 52}[machine], ARCHITECTURES[machine]
    assert verdict(made(), architecture, fchmod) == ALLOW
    assert verdict(made(scratch=False), architecture, fchmod) == ERRNO | errno.EPERM
