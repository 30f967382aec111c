"""The GGUF format: what lies before the tensors' bytes.

    4 bytes      "GGUF"
    u32          version, 2 or 3
    u64, u64     number of tensors, number of metadata entries
    entries      key, type, value
    tensors      name, dimensions (fastest first), type, offset from the data's start
    padding      up to a multiple of `general.alignment`, then the data

Numbers are little endian; a string is a u64 length and UTF-8. Format: `docs/gguf.md` of
github.com/ggml-org/ggml. Limits are ours, several times what real files have.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from codellama.checkpoint.files import SourceFile, quoted
from codellama.errors import CheckpointError
from codellama.quant.formats import Format, n_bytes

MAX_HEADER = 16 << 20
MAX_ENTRIES = 1 << 14  # of metadata
MAX_TENSORS = 1 << 14
MAX_ARRAY = 1 << 20
MAX_STRINGS = 1 << 20  # in all arrays together
MAX_TEXT = 8 << 20  # bytes of strings made at once; some take four times as much as text
MAX_NAME = 64  # of a tensor; the format's own limit
MAX_KEY = 1 << 16  # the format's own limit

_SMALLEST_ENTRY = 8 + 1 + 4 + 1
_SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8
_FIRST_WINDOW = 1 << 20

_UINT8, _BOOL, _STRING, _ARRAY, _FLOAT32 = 0, 7, 8, 9, 6
_NUMBERS = {
    _UINT8: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", _FLOAT32: "<f4",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
FORMATS = {
    0: Format.F32, 1: Format.F16, 30: Format.BF16, 8: Format.Q8_0, 2: Format.Q4_0, 3: Format.Q4_1,
    6: Format.Q5_0, 7: Format.Q5_1, 10: Format.Q2_K, 11: Format.Q3_K, 12: Format.Q4_K,
    13: Format.Q5_K, 14: Format.Q6_K,
}  # fmt: skip
_OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class Array:
    """Where in the header an array of `count` items lies, and what they are."""

    type: int
    count: int
    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One tensor: `count` bytes from byte `offset` of the file. The last dimension is fastest."""

    format: Format
    shape: tuple[int, ...]
    offset: int
    count: int


Value = bool | int | float | str | Array


class Header:
    """A file's metadata and tensors, by their names there; tensors in the order of their bytes.

    Raises:
        CheckpointError: the file is not GGUF of a version that is read, is cut short, or breaks
            a rule of the format.
    """

    def __init__(self, file: SourceFile) -> None:
        self.where = str(file.path)
        cursor = _Cursor(file)
        self.version = _read_version(cursor)
        n_tensors, n_entries = cursor.u64(), cursor.u64()
        self._check_count("tensors", n_tensors, MAX_TENSORS, _SMALLEST_TENSOR, file.size)
        self._check_count("metadata entries", n_entries, MAX_ENTRIES, _SMALLEST_ENTRY, file.size)
        self.metadata = self._read_metadata(cursor, n_entries)
        listed = self._read_tensors(cursor, n_tensors)
        alignment = self._alignment()
        start = -(-cursor.at // alignment) * alignment
        self.entries = _place(self.where, listed, start, alignment, file.size)
        _check_padding(file, cursor.at, self.entries.values())
        self._data = cursor.taken()

    def strings(self, key: str) -> list[str]:
        """The array of strings under `key`. Raises CheckpointError when there is none."""
        array = self._array(key, (_STRING,), "strings")
        if array.size > MAX_TEXT:
            raise CheckpointError(
                f"{self.where}: {key} has {array.size} bytes of strings, more than {MAX_TEXT}"
            )
        found = []
        at = array.offset
        for i in range(array.count):
            end = at + 8 + int.from_bytes(self._data[at : at + 8], "little")
            try:
                found.append(self._data[at + 8 : end].decode("utf-8"))
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{self.where}: item {i} of {key} is not UTF-8") from error
            at = end
        return found

    def numbers(self, key: str) -> NDArray[np.generic]:
        """The array of numbers under `key`. Raises CheckpointError when there is none."""
        array = self._array(key, tuple(_NUMBERS), "numbers")
        dtype = np.dtype(_NUMBERS[array.type])
        return np.frombuffer(self._data, dtype, array.count, array.offset)

    def _array(self, key: str, types: tuple[int, ...], what: str) -> Array:
        value = self.metadata.get(key)
        if not isinstance(value, Array) or value.type not in types:
            found = "is missing" if value is None else f"is not an array of {what}"
            raise CheckpointError(f"{self.where}: {key} {found}")
        return value

    def _check_count(self, what: str, n: int, most: int, smallest: int, size: int) -> None:
        if n > most or n * smallest > size:
            raise CheckpointError(
                f"{self.where}: promises {n} {what}, more than {min(most, size // smallest)}, "
                f"the most that a file of {size} bytes may have here"
            )

    def _read_metadata(self, cursor: _Cursor, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for i in range(count):
            key = cursor.string(f"key {i} of the metadata", MAX_KEY)
            if not key or key in metadata:
                cursor.fail(f"has the metadata key {quoted(key)} {'twice' if key else ''}".rstrip())
            metadata[key] = cursor.value(quoted(key))
        return metadata

    def _read_tensors(self, cursor: _Cursor, count: int) -> dict[str, _Listed]:
        listed: dict[str, _Listed] = {}
        for i in range(count):
            name = cursor.string(f"the name of tensor {i}", MAX_NAME)
            if not name or name in listed:
                cursor.fail(f"has the tensor {quoted(name)} {'twice' if name else ''}".rstrip())
            n_dims = cursor.u32()
            if not 1 <= n_dims <= 4:
                cursor.fail(f"{quoted(name)} has {n_dims} dimensions, expected 1 to 4")
            dims = tuple(cursor.u64() for _ in range(n_dims))
            listed[name] = _Listed(dims[::-1], cursor.u32(), cursor.u64())
        return listed

    def _alignment(self) -> int:
        found = self.metadata.get("general.alignment", 32)
        if type(found) is not int or not 8 <= found <= 1 << 16 or found & (found - 1):
            raise CheckpointError(
                f"{self.where}: `general.alignment` is {quoted(found)}, "
                "expected a power of two from 8 to 65536"
            )
        return found


@dataclass(frozen=True)
class _Listed:
    """A tensor as the header lists it; `offset` counts from the start of the data."""

    shape: tuple[int, ...]
    type: int
    offset: int


class _Cursor:
    """Reads the header from the front, a window at a time."""

    def __init__(self, file: SourceFile) -> None:
        self.at = 0
        self._file = file
        self._data = b""
        self._n_strings = 0
        self._n_text = 0

    def fail(self, problem: str, hint: str | None = None) -> NoReturn:
        raise CheckpointError(f"{self._file.path}: {problem} (at byte {self.at})", hint=hint)

    def taken(self) -> bytes:
        """What has been read so far."""
        return self._data[: self.at]

    def take(self, n: int) -> bytes:
        start, self.at = self.at, self.at + n
        if self.at > len(self._data):
            self._grow()
        return self._data[start : self.at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self, what: str, most: int = MAX_TEXT) -> str:
        length = self.u64()
        if length > most:
            self.fail(f"{what} has {length} bytes, more than {most}")
        self._n_text += length
        if self._n_text > MAX_TEXT:
            self.fail(f"has more than {MAX_TEXT} bytes of text in its metadata")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._file.path}: {what} is not UTF-8") from error

    def value(self, key: str) -> Value:
        kind = self.u32()
        if kind == _ARRAY:
            return self._array(key)
        if kind == _STRING:
            return self.string(key)
        if kind == _BOOL:
            found = self.take(1)[0]
            if found > 1:
                self.fail(f"{key} is neither true nor false but {found}")
            return found == 1
        if kind not in _NUMBERS:
            self.fail(f"{key} has the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        number = np.frombuffer(self.take(dtype.itemsize), dtype)[0]
        # The decimal that a float32 was written for: 1e-05 and not 9.999999747378752e-06.
        return float(str(number)) if kind == _FLOAT32 else number.item()

    def _array(self, key: str) -> Array:
        kind, count = self.u32(), self.u64()
        width = 1 if kind == _BOOL else 8
        if kind in _NUMBERS:
            width = np.dtype(_NUMBERS[kind]).itemsize
        elif kind not in (_BOOL, _STRING):
            problem = "holds arrays" if kind == _ARRAY else f"has items of the unknown type {kind}"
            self.fail(f"the array {key} {problem}")
        if count > MAX_ARRAY or self.at + count * width > self._file.size:
            self.fail(
                f"the array {key} promises {count} items, more than {MAX_ARRAY} "
                "or than there are bytes for"
            )
        start = self.at
        if kind == _STRING:
            self._skip_strings(key, count)
        else:
            self.take(count * width)
        return Array(kind, count, start, self.at - start)

    def _skip_strings(self, key: str, count: int) -> None:
        self._n_strings += count
        if self._n_strings > MAX_STRINGS:
            self.fail(f"has more than {MAX_STRINGS} strings in arrays, counting {key}")
        read_length = struct.Struct("<Q").unpack_from
        for _ in range(count):  # tens of thousands, so without a call for each
            at = self.at + 8
            if at > len(self._data):
                self.take(8)
                self.at -= 8
            (length,) = read_length(self._data, self.at)
            self.at = at + length
        self.take(0)

    def _grow(self) -> None:
        if self.at > min(self._file.size, MAX_HEADER):
            problem = f"its header does not end within {MAX_HEADER} bytes"
            if self._file.size <= MAX_HEADER:
                problem = f"ends at byte {self._file.size}, in the middle of its header"
            self.fail(problem, hint="copy or download the file again")
        end = max(2 * len(self._data), self.at, _FIRST_WINDOW)
        end = min(end, self._file.size, MAX_HEADER)
        have = len(self._data)
        self._data += self._file.read(have, end - have).tobytes()


def _read_version(cursor: _Cursor) -> int:
    if cursor.take(4) != b"GGUF":
        cursor.fail("is not a GGUF file")
    version = cursor.u32()
    if version in (2 << 24, 3 << 24):
        cursor.fail(
            "is a big-endian GGUF file, and only little endian is read",
            hint="get the little-endian file of this model",
        )
    if version not in (2, 3):
        cursor.fail(
            f"is a GGUF file of version {version}, and only versions 2 and 3 are read",
            hint="get a newer file of this model" if version < 2 else None,
        )
    return version


def _place(
    where: str, listed: Mapping[str, _Listed], start: int, alignment: int, file_size: int
) -> dict[str, Entry]:
    """Where each tensor lies, having checked that together they fill the file."""
    entries = {
        name: _entry(f"{where}: {quoted(name)}", item, start, alignment)
        for name, item in listed.items()
    }
    entries = dict(sorted(entries.items(), key=lambda pair: pair[1].offset))
    end, before = start, "the header"
    for name, entry in entries.items():
        expected = -(-end // alignment) * alignment
        if entry.offset != expected:
            what = "overlap" if entry.offset < expected else "leave a gap"
            raise CheckpointError(f"{where}: {before} and {quoted(name)} {what}")
        end, before = entry.offset + entry.count, quoted(name)
    if not end <= file_size < end + alignment:
        raise CheckpointError(
            f"{where}: the header promises {end} bytes and the file has {file_size}",
            hint="copy or download the file again, and compare its checksum",
        )
    return entries


def _check_padding(file: SourceFile, header_end: int, entries: Collection[Entry]) -> None:
    """Only zeros lie between tensors: anything else was meant to belong to one of them."""
    ends = [header_end, *(entry.offset + entry.count for entry in entries)]
    begins = [*(entry.offset for entry in entries), file.size]
    for end, begin in zip(ends, begins, strict=True):
        if end < begin and file.read(end, begin - end).any():
            raise CheckpointError(
                f"{file.path}: bytes {end} to {begin} belong to no tensor, "
                "and there should be only zeros",
                hint="copy or download the file again",
            )


def _entry(where: str, item: _Listed, start: int, alignment: int) -> Entry:
    format = FORMATS.get(item.type)
    if format is None:
        named = _OTHER_TYPES.get(item.type, f"the unknown type {item.type}")
        raise CheckpointError(
            f"{where} is stored as {named}, and only {', '.join(FORMATS.values())} are read",
            hint="take another file of this model, such as Q4_K_M, Q8_0 or F16",
        )
    shape = item.shape
    if 0 in shape:
        raise CheckpointError(f"{where} has the shape {list(shape)}")
    if shape[-1] % format.block_size:
        raise CheckpointError(
            f"{where} has rows of {shape[-1]} numbers, "
            f"which are no whole number of {format} blocks of {format.block_size}"
        )
    if item.offset % alignment:
        raise CheckpointError(
            f"{where} begins at byte {item.offset} of the data, no multiple of {alignment}"
        )
    return Entry(format, shape, start + item.offset, n_bytes(format, shape))
