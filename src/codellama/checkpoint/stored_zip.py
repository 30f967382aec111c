"""Zip archives whose members are stored as they are, as `torch.save` writes them.

    local header, name, extra field, the member's bytes, often a data descriptor   (each member)
    central directory: one record for each member
    zip64 end record and its locator, where 32 bits are too few
    end record, the last 22 bytes

Format: PKWARE's APPNOTE 6.3. Only the plainest archives pass: one disk, nothing encrypted or
compressed, no comment at the end, no name twice, no two members over the same bytes. A local
header must repeat the name that the directory gives, so no two readers see different archives.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from codellama.checkpoint.files import SourceFile, quoted
from codellama.errors import CheckpointError

MAX_MEMBERS = 1 << 14
MAX_DIRECTORY = 4 << 20

_END = struct.Struct("<4sHHHHIIH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_RECORD = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_ZIP64 = 1  # the extra field that holds what 32 bits cannot
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_KNOWN_FLAGS = 1 << 3 | 1 << 11  # a data descriptor follows; the name is UTF-8


@dataclass(frozen=True)
class Member:
    """`size` bytes from byte `offset` of the file; `crc` is 0 where the writer left it out."""

    offset: int
    size: int
    crc: int


def read_members(file: SourceFile) -> dict[str, Member]:
    """Every member by its name, in the order of their bytes.

    Raises:
        CheckpointError: the file is not such an archive, or is cut short or damaged.
    """
    n_members, start, size = _read_end(file)
    where = str(file.path)
    if n_members > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise CheckpointError(
            f"{where}: lists {n_members} members in {size} bytes, "
            f"more than {MAX_MEMBERS} in {MAX_DIRECTORY}"
        )
    records = _read_directory(where, file.read(start, size).tobytes(), n_members)
    total = sum(record.size for record in records)
    if total > file.size:
        raise CheckpointError(
            f"{where}: its members have {total} bytes, and the file has {file.size}"
        )
    members: dict[str, Member] = {}
    end, before = 0, "the start"
    for record in sorted(records, key=lambda r: r.offset):
        name = quoted(record.name)
        if record.name in members:
            raise CheckpointError(f"{where}: has the member {name} twice")
        if record.offset < end:
            raise CheckpointError(f"{where}: the members {before} and {name} overlap")
        data = _data_offset(file, record, start)
        end, before = data + record.size, name
        if end > start:
            raise CheckpointError(f"{where}: the member {name} runs into the directory")
        members[record.name] = Member(data, record.size, record.crc)
    return members


@dataclass(frozen=True)
class _Record:
    """What the central directory says of a member; `offset` is that of its local header."""

    name: str
    raw_name: bytes
    offset: int
    size: int
    crc: int


def _read_end(file: SourceFile) -> tuple[int, int, int]:
    """How many members there are, and where the central directory begins and how long it is."""
    where = str(file.path)
    at = file.size - _END.size
    end = _END.unpack(file.read(at, _END.size).tobytes()) if at >= 0 else (b"",)
    if end[0] != b"PK\x05\x06" or end[-1] != 0:
        raise CheckpointError(
            f"{where}: does not end as a zip archive does",
            hint="the file is cut short: copy or download it again",
        )
    _, disk, directory_disk, n_here, n_members, size, start, _ = end
    found: tuple[int, ...] = (disk, directory_disk, n_here, n_members, size, start)
    if at >= _LOCATOR.size:
        raw = file.read(at - _LOCATOR.size, _LOCATOR.size).tobytes()
        signature, record_disk, record_at, n_disks = _LOCATOR.unpack(raw)
        if signature == b"PK\x06\x07":
            at -= _LOCATOR.size
            if (record_disk, n_disks) != (0, 1) or record_at + _END_64.size != at:
                raise CheckpointError(f"{where}: the zip64 locator is not one this format has")
            at = record_at
            found = _merge_end_64(where, file.read(at, _END_64.size).tobytes(), found)
    disk, directory_disk, n_here, n_members, size, start = found
    if disk or directory_disk or n_here != n_members:
        raise CheckpointError(f"{where}: is one part of a zip archive over several files")
    if start + size != at or n_members * _RECORD.size > size:
        raise CheckpointError(
            f"{where}: {n_members} members are listed in {size} bytes from byte {start}, "
            f"and the list should end at byte {at}",
            hint="copy or download the file again",
        )
    return n_members, start, size


def _merge_end_64(where: str, raw: bytes, short: tuple[int, ...]) -> tuple[int, ...]:
    """The fields of the end record, from zip64's where the short ones say nothing."""
    signature, length, _, _, *long = _END_64.unpack(raw)
    full = (_FULL_16, _FULL_16, _FULL_16, _FULL_16, _FULL_32, _FULL_32)
    agree = all(s in (f, n) for s, f, n in zip(short, full, long, strict=True))
    if signature != b"PK\x06\x06" or length != _END_64.size - 12 or not agree:
        raise CheckpointError(f"{where}: the two end records of the zip archive disagree")
    return tuple(long)


def _read_directory(where: str, raw: bytes, n_members: int) -> list[_Record]:
    records = []
    at = 0
    for i in range(n_members):
        if at + _RECORD.size > len(raw):
            raise CheckpointError(f"{where}: the list of members ends before member {i}")
        (signature, _, _, flags, method, _, _, crc, stored, size,
         n_name, n_extra, n_comment, disk, _, _, offset) = _RECORD.unpack_from(raw, at)  # fmt: skip
        at += _RECORD.size
        raw_name = raw[at : at + n_name]
        extra = raw[at + n_name : at + n_name + n_extra]
        at += n_name + n_extra + n_comment
        if signature != b"PK\x01\x02" or at > len(raw):
            raise CheckpointError(f"{where}: the list of members is damaged at member {i}")
        try:
            name = raw_name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{where}: the name of member {i} is not UTF-8") from error
        if method != 0:
            raise CheckpointError(
                f"{where}: the member {quoted(name)} is compressed, which torch.save never does"
            )
        if flags & ~_KNOWN_FLAGS:
            raise CheckpointError(
                f"{where}: the member {quoted(name)} is encrypted or has other flags ({flags:#x})"
            )
        size, stored, offset = _widen(where, name, extra, size, stored, offset)
        if stored != size or disk != 0:
            raise CheckpointError(
                f"{where}: the member {quoted(name)} has {size} bytes, and {stored} are stored"
            )
        records.append(_Record(name, raw_name, offset, size, crc))
    if at != len(raw):
        raise CheckpointError(f"{where}: the list of members has {len(raw) - at} bytes too many")
    return records


def _widen(where: str, name: str, extra: bytes, *values: int) -> tuple[int, int, int]:
    """Sizes and offset, read from the zip64 extra field where 32 bits were too few."""
    wide = _extra_fields(f"{where}: the extra field of {quoted(name)}", extra).get(_ZIP64, b"")
    n_wide = values.count(_FULL_32)
    if len(wide) != 8 * n_wide:
        raise CheckpointError(f"{where}: the zip64 sizes of {quoted(name)} are damaged")
    numbers = iter(struct.unpack(f"<{n_wide}Q", wide))
    size, stored, offset = (next(numbers) if v == _FULL_32 else v for v in values)
    return size, stored, offset


def _extra_fields(where: str, extra: bytes) -> dict[int, bytes]:
    """The parts of an extra field by their kind. Raises CheckpointError unless they fill it."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4].ljust(4, b"\xff"))
        at += 4 + length
        if at > len(extra) or kind in fields:
            raise CheckpointError(f"{where} is damaged")
        fields[kind] = extra[at - length : at]
    return fields


def _data_offset(file: SourceFile, record: _Record, directory: int) -> int:
    """Where a member's bytes begin: the local header's own lengths decide."""
    n_name = len(record.raw_name)
    name = f"{file.path}: the local header of {quoted(record.name)}"
    if record.offset + _LOCAL.size + n_name > directory:
        raise CheckpointError(f"{name} is not inside the file")
    raw = file.read(record.offset, _LOCAL.size + n_name).tobytes()
    (signature, _, _, method, _, _, _, stored, size, n_here, n_extra) = _LOCAL.unpack_from(raw)
    if signature != b"PK\x03\x04" or n_here != n_name or raw[_LOCAL.size :] != record.raw_name:
        raise CheckpointError(f"{name} is damaged")
    # Writers that stream leave the sizes to a data descriptor, and to zip64 what is too large.
    allowed = (0, _FULL_32, record.size)
    if method != 0 or stored not in allowed or size not in allowed:
        raise CheckpointError(f"{name} disagrees with the list of members")
    at = record.offset + len(raw)
    if at + n_extra > directory:
        raise CheckpointError(f"{name} is not inside the file")
    # Nothing in it is needed, but its length decides where the data begins.
    _extra_fields(name, file.read(at, n_extra).tobytes())
    return at + int(n_extra)
