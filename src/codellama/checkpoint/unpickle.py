"""The pickle inside a `.pth` file, read as the description of tensors that it is.

A pickle is a program for a stack machine that may call anything importable. This module knows the
26 opcodes with which `torch.save` writes a dictionary of tensors, and five names, each of them a
symbol with a meaning given here. Nothing is imported, nothing is called, no object is made but
strings, numbers, tuples, dictionaries and the two classes below.

Opcodes: protocol 2 as described in CPython's `pickletools`. Persistent ids and arguments: what
`torch.save` (torch 1.6 to 2.13) writes, found by taking its files apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, TypeGuard

from codellama.checkpoint.files import quoted
from codellama.errors import CheckpointError
from codellama.quant.formats import Format

MAX_PICKLE = 256 << 10  # the largest model of the family needs 120 KiB


@dataclass(frozen=True)
class Storage:
    """`count` numbers in the archive member named by `key`."""

    format: Format
    key: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: where in a storage its numbers lie, counted in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Symbol(Enum):
    ORDERED_DICT = "collections.OrderedDict"
    REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"


_SYMBOLS: dict[str, object] = {
    "collections.OrderedDict": _Symbol.ORDERED_DICT,
    "torch._utils._rebuild_tensor_v2": _Symbol.REBUILD_TENSOR,
    "torch.FloatStorage": Format.F32,
    "torch.HalfStorage": Format.F16,
    "torch.BFloat16Storage": Format.BF16,
}


def read_pickle(data: bytes, where: str) -> dict[str, View]:
    """The tensors by name that a pickle describes.

    Raises:
        CheckpointError: the pickle is damaged, or is anything but a dictionary of tensors of
            F32, F16 or BF16 numbers.
    """
    if len(data) > MAX_PICKLE:
        raise CheckpointError(
            f"{where}: has {len(data)} bytes, more than the {MAX_PICKLE} a table of tensors needs"
        )
    machine = _Machine(data, where)
    table = machine.run()
    if not isinstance(table, dict):
        machine.fail(f"holds {_kind(table)}, not a dictionary of tensors")
    views = {}
    for name, value in table.items():
        if not isinstance(value, View):
            machine.fail(f"{quoted(name)} is {_kind(value)}, not a tensor")
        views[name] = value
    return views


class _Machine:
    """The stack machine. Operands end up on `_stack`; `_marks` are heights of it."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._at = 0
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._storages: dict[str, Storage] = {}

    def fail(self, problem: str, hint: str | None = None) -> NoReturn:
        raise CheckpointError(f"{self._where}: {problem} (at byte {self._at})", hint=hint)

    def run(self) -> object:
        data = self._data
        if data[:1] != b"\x80":
            self.fail("is not a pickle of protocol 2")
        if data[1:2] != b"\x02":
            self.fail(
                f"is a pickle of protocol {data[1] if len(data) > 1 else '?'}, not 2",
                hint="save it again with torch.save and its default protocol",
            )
        self._at = 2
        while True:
            code = self._take(1)
            if code == b".":
                return self._result()
            operation = _OPERATIONS.get(code)
            if operation is None:
                self.fail(
                    f"has the opcode {code!r}, with which no table of tensors is written",
                    hint="this may be an attempt to run code; get the file from its makers",
                )
            operation(self)

    def _result(self) -> object:
        if self._at != len(self._data) or len(self._stack) != 1 or self._marks:
            self.fail("does not end with exactly one value")
        return self._stack[0]

    # Bytes and stack

    def _take(self, n: int) -> bytes:
        taken = self._data[self._at : self._at + n]
        if len(taken) != n:
            self.fail("ends before it is complete")
        self._at += n
        return taken

    def _unsigned(self, n: int) -> int:
        return int.from_bytes(self._take(n), "little")

    def _floor(self) -> int:
        """How far down values may be taken."""
        return self._marks[-1] if self._marks else 0

    def _pop(self) -> object:
        if len(self._stack) <= self._floor():
            self.fail("takes a value that is not there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        if not self._marks:
            self.fail("goes back to a mark that is not there")
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    # Operations

    def push(self, value: object) -> None:
        self._stack.append(value)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def tuple_of(self, n: int) -> None:
        if len(self._stack) - n < self._floor():
            self.fail("takes a value that is not there")
        self._stack[-n:] = [tuple(self._stack[-n:])]

    def tuple_from_mark(self) -> None:
        self.push(tuple(self._pop_to_mark()))

    def text(self) -> None:
        raw = self._take(self._unsigned(4))
        try:
            self.push(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self.fail("has a string that is not UTF-8")

    def unsigned(self, n: int) -> None:
        self.push(self._unsigned(n))

    def signed(self, n: int) -> None:
        self.push(int.from_bytes(self._take(n), "little", signed=True))

    def long(self) -> None:
        n = self._unsigned(1)
        if n > 8:
            self.fail(f"has a whole number of {n} bytes")
        self.signed(n)

    def put(self, n: int) -> None:
        at = self._unsigned(n)
        value = self._pop()
        self._memo[at] = value
        self.push(value)

    def get(self, n: int) -> None:
        at = self._unsigned(n)
        if at not in self._memo:
            self.fail(f"takes up value {at}, which was never put by")
        self.push(self._memo[at])

    def name(self) -> None:
        parts = []
        for _ in range(2):
            end = self._data.find(b"\n", self._at, self._at + 256)
            if end < 0:
                self.fail("has a name that does not end")
            parts.append(self._take(end - self._at).decode("latin-1"))
            self._at += 1
        name = ".".join(parts)
        symbol = _SYMBOLS.get(name)
        if symbol is None:
            known = ", ".join(f.value for f in _SYMBOLS.values() if isinstance(f, Format))
            self.fail(
                f"asks for {quoted(name)}, and only dictionaries of plain {known} tensors are read",
                hint="if you trust the file, load it with torch and save its tensors alone; "
                "if not, this may be an attempt to run code",
            )
        self.push(symbol)

    def reduce(self) -> None:
        arguments, symbol = self._pop(), self._pop()
        if symbol is _Symbol.ORDERED_DICT and arguments == ():
            self.push({})
        elif symbol is _Symbol.REBUILD_TENSOR and isinstance(arguments, tuple):
            self.push(self._view(arguments))
        else:
            self.fail(f"makes something of {_kind(symbol)} that is not a tensor")

    def build(self) -> None:
        """The attributes of a module's state dictionary: its version numbers, which we drop."""
        state, target = self._pop(), self._pop()
        if not isinstance(target, dict) or not isinstance(state, dict):
            self.fail(f"gives attributes to {_kind(target)}")
        if state.keys() - {"_metadata"}:
            self.fail(f"gives a dictionary the attributes {quoted(sorted(state))}")
        self.push(target)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set(key, value)

    def set_items(self) -> None:
        values = self._pop_to_mark()
        if len(values) % 2:
            self.fail("has a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(key, value)

    def storage(self) -> None:
        found = self._pop()
        if not isinstance(found, tuple) or len(found) != 5 or found[0] != "storage":
            self.fail(f"refers to {_kind(found)} outside the pickle, which is not a storage")
        _, format, key, location, count = found
        if (
            not isinstance(format, Format)
            or not isinstance(key, str)
            or not isinstance(location, str)
            or not _is_count(count)
        ):
            kinds = ", ".join(_kind(value) for value in found)
            self.fail(f"refers to a storage by {kinds}")
        new = Storage(format, key, count)
        old = self._storages.setdefault(key, new)
        if old != new:
            self.fail(f"describes the storage {quoted(key)} in two ways")
        self.push(old)

    def _set(self, key: object, value: object) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, dict):
            self.fail(f"puts an item into {_kind(target)}")
        if not isinstance(key, str):  # anything else could take for ever to hash
            self.fail(f"has {_kind(key)} as a key")
        if key in target:
            self.fail(f"has the key {quoted(key)} twice")
        target[key] = value

    def _view(self, arguments: tuple[object, ...]) -> View:
        kinds = ", ".join(_kind(value) for value in arguments[:8])
        if len(arguments) != 6:
            self.fail(f"describes a tensor by {len(arguments)} values ({kinds})")
        storage, offset, shape, strides, requires_grad, hooks = arguments
        if (
            not isinstance(storage, Storage)
            or not _is_count(offset)
            or not _are_counts(shape)
            or not _are_counts(strides)
            or type(requires_grad) is not bool
            or hooks != {}
        ):
            self.fail(f"describes a tensor by {kinds}, or by sizes that no tensor has")
        return View(storage, offset, shape, strides)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _are_counts(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and len(value) <= 4 and all(_is_count(n) for n in value)


def _kind(value: object) -> str:
    """What a value is, in a few words: its contents may be without end."""
    if isinstance(value, _Symbol):
        return value.value
    if isinstance(value, Format):
        return f"the storage type {value.value}"
    names = {str: "a string", int: "a number", bool: "a flag", tuple: "a tuple",
             dict: "a dictionary", Storage: "a storage", View: "a tensor"}  # fmt: skip
    return names.get(type(value), "nothing")


_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"(": _Machine.mark,
    b")": lambda m: m.push(()),
    b"}": lambda m: m.push({}),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": _Machine.tuple_from_mark,
    b"X": _Machine.text,
    b"K": lambda m: m.unsigned(1),
    b"M": lambda m: m.unsigned(2),
    b"J": lambda m: m.signed(4),
    b"\x8a": _Machine.long,
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"q": lambda m: m.put(1),
    b"r": lambda m: m.put(4),
    b"h": lambda m: m.get(1),
    b"j": lambda m: m.get(4),
    b"c": _Machine.name,
    b"Q": _Machine.storage,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"s": _Machine.set_item,
    b"u": _Machine.set_items,
}
