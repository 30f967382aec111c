"""Landlock: a process gives up, for good, the files, ports and signals it will not need.

The interface is the kernel's (Documentation/userspace-api/landlock.rst).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from codellama.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
TRUNCATE = 1 << 14
READ = READ_FILE | READ_DIR
SCRATCH = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE

_ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_BIND_AND_CONNECT_TCP = 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("directory", ctypes.c_int32))


def version() -> int:
    """The interface's version in this kernel; 0 where there is none."""
    try:
        return kernel.syscall("landlock", _CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[Sequence[str], int]]) -> None:
    """Leaves this process, and all it starts, the rights of `rules` and nothing else.

    Each rule is paths and the rights on them and on what lies below. Needs `no_new_privileges`.

    Raises:
        OSError: the kernel refused, or a path is not there.
    """
    newest = version()
    handled = _ALL_FILE_RIGHTS[max(known for known in _ALL_FILE_RIGHTS if known <= newest)]
    ruleset = _Ruleset(files=handled)
    size = 8
    if newest >= 4:
        ruleset.network = _BIND_AND_CONNECT_TCP
        size = 16
    if newest >= 6:
        ruleset.scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS
        size = 24
    handle = kernel.syscall("landlock", _CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for paths, rights in rules:
            for path in paths:
                _allow(handle, path, rights & handled)
        kernel.syscall("landlock", _RESTRICT_SELF, handle, 0)
    finally:
        os.close(handle)


def _allow(handle: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not Path(path).is_dir():
            rights &= _OF_A_FILE
        rule = _PathBeneath(allowed=rights, directory=opened)
        kernel.syscall("landlock", _ADD_RULE, handle, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)
