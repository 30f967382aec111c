"""A filter of system calls: what an interpreter needs is allowed, everything else is refused.

The program is classic BPF over `struct seccomp_data` (Documentation/userspace-api/seccomp_filter).
Numbers are those of arch/x86/entry/syscalls/syscall_64.tbl and of asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from codellama.sandbox import kernel

# name: (number on x86_64, number on aarch64); None where a machine has no such call
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files: Landlock and the mounts say which
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "sendfile": (40, 71),
    "copy_file_range": (326, 285), "open": (2, None), "openat": (257, 56), "creat": (85, None),
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "getdents64": (217, 61),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "readlink": (89, None),
    "readlinkat": (267, 78), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36), "umask": (95, 166),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47), "fadvise64": (221, 223),
    "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "msync": (26, 227), "madvise": (28, 233), "brk": (12, 214), "membarrier": (324, 283),
    # signals and time
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "pause": (34, None), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    "restart_syscall": (219, 128),
    # the process itself
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getrlimit": (97, 163), "getrusage": (98, 165),
    "uname": (63, 160), "sysinfo": (99, 179), "getrandom": (318, 278), "getcpu": (309, 168),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "futex": (202, 98),
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94),
    "wait4": (61, 260), "waitid": (247, 95),
}  # fmt: skip
_WITH_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "kill": (62, 129),
    "tgkill": (234, 131), "setsid": (112, 157), "setpgid": (109, 154), "pidfd_open": (434, 434),
}  # fmt: skip
_WITH_SCRATCH: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "utimensat": (280, 88),
    "utimes": (235, None), "utime": (132, None), "link": (86, None), "linkat": (265, 37),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), 435
_KILL, _TGKILL = (62, 129), (234, 131)
_SOCKETPAIR = (53, 199)
_IOCTL, _PRCTL, _PRLIMIT, _FCNTL = (16, 29), (157, 167), (302, 261), (72, 25)

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_AF_UNIX = 1
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000 | 0x80
# TCGETS, FIONREAD, FIONCLEX, FIOCLEX, FIONBIO, TIOCGWINSZ
_IOCTLS = (0x5401, 0x541B, 0x5450, 0x5451, 0x5421, 0x5413)
_PRCTLS = (15, 16, 0x53564D41)  # a thread's name; a name for memory
_FCNTLS_REFUSED = (8, 10, 15, 1024, 1026)  # who gets a file's signals; leases; notices

_LD_W_ABS, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def _statement(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _return(action: int) -> bytes:
    return _statement(_RET, action)


def _refuse(number: int) -> bytes:
    return _return(_ERRNO | number)


def _argument(index: int, *, high: bool = False) -> bytes:
    return _statement(_LD_W_ABS, 16 + 8 * index + (4 if high else 0))


def _for_call(number: int, body: list[bytes]) -> list[bytes]:
    """`body`, which ends in a return, for one call; other calls jump over it."""
    return [_statement(_JEQ, number, 0, len(body)), *body]


def _only(index: int, values: tuple[int, ...], refusal: int) -> list[bytes]:
    """Allows a call whose argument is one of `values`."""
    tests = [_statement(_JEQ, value, len(values) - i, 0) for i, value in enumerate(values)]
    return [_argument(index), *tests, _refuse(refusal), _return(_ALLOW)]


def _but(index: int, values: tuple[int, ...]) -> list[bytes]:
    """Allows a call whose argument is none of `values`."""
    tests = [_statement(_JEQ, value, len(values) - i, 0) for i, value in enumerate(values)]
    return [_argument(index), *tests, _return(_ALLOW), _refuse(errno.EPERM)]


def program(
    *, pid: int, many_processes: bool, has_scratch: bool, has_programs: bool = False
) -> bytes:
    """The filter for process `pid` as instructions of 8 bytes each.

    Without `many_processes` it may start threads only, and signal itself only. With `has_programs`
    it may make a pair of sockets that lead to each other, as Java does when it first opens a file;
    they can be read and written like pipes, and nothing can be sent to an address.
    """
    column = kernel.MACHINES.index(kernel.MACHINE)
    found = [
        _statement(_LD_W_ABS, 4),
        _statement(_JEQ, _ARCHITECTURE[kernel.MACHINE], 1, 0),
        _return(_KILL_PROCESS),
        _statement(_LD_W_ABS, 0),
    ]
    allowed = dict(_ALLOWED)
    if many_processes:
        allowed |= _WITH_PROCESSES
    if has_scratch:
        allowed |= _WITH_SCRATCH
    for numbers in allowed.values():
        number = numbers[column]
        if number is not None:
            found += _for_call(number, [_return(_ALLOW)])
    if many_processes:
        clone = [
            _argument(0),
            _statement(_JSET, _CLONE_NAMESPACES, 0, 1),
            _refuse(errno.EPERM),
            _return(_ALLOW),
        ]
    else:
        clone = [
            _argument(0),
            _statement(_JSET, _CLONE_NAMESPACES, 1, 0),
            _statement(_JSET, _CLONE_THREAD, 1, 0),
            _refuse(errno.EPERM),
            _return(_ALLOW),
        ]
        found += _for_call(_KILL[column], _only(0, (pid,), errno.EPERM))
        found += _for_call(_TGKILL[column], _only(0, (pid,), errno.EPERM))
    found += _for_call(_CLONE[column], clone)
    if has_programs:
        found += _for_call(_SOCKETPAIR[column], _only(0, (_AF_UNIX,), errno.EPERM))
    # glibc falls back to clone, whose flags a filter can read, when clone3 is not there
    found += _for_call(_CLONE3, [_refuse(errno.ENOSYS)])
    found += _for_call(_IOCTL[column], _only(1, _IOCTLS, errno.ENOTTY))
    found += _for_call(_PRCTL[column], _only(0, _PRCTLS, errno.EPERM))
    found += _for_call(_FCNTL[column], _but(1, _FCNTLS_REFUSED))
    reads_its_own = [
        _argument(0),
        _statement(_JEQ, 0, 0, 4),
        _argument(2),
        _statement(_JEQ, 0, 0, 2),
        _argument(2, high=True),
        _statement(_JEQ, 0, 1, 0),
        _refuse(errno.EPERM),
        _return(_ALLOW),
    ]
    found += _for_call(_PRLIMIT[column], reads_its_own)
    found.append(_refuse(errno.EPERM))
    return b"".join(found)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(instructions: bytes) -> None:
    """Puts the filter over this process, for good. Needs `no_new_privileges`."""
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = _Filter(length=len(instructions) // 8, instructions=instructions)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
