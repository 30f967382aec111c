"""One `.pth` file: a zip archive that holds a pickle and the storages the pickle speaks of.

<root>/data.pkl          the dictionary of tensors
<root>/data/<key>        one storage: numbers, little endian
<root>/version, byteorder, .format_version, .storage_alignment, .data/serialization_id
                         which of these there are depends on the version of torch
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from codellama.checkpoint.files import SourceFile, quoted, what_is
from codellama.checkpoint.stored_zip import Member, read_members
from codellama.checkpoint.unpickle import MAX_PICKLE, Storage, View, read_pickle
from codellama.errors import CheckpointError
from codellama.quant.formats import Bytes, Format

_PICKLE = "/data.pkl"
_STORAGES = "data/"
_RECORDS = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment",
            ".data/serialization_id")  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a `.pth` file: `count` contiguous bytes from byte `offset` of `file`."""

    file: SourceFile
    format: Format
    shape: tuple[int, ...]
    offset: int
    count: int
    crc: int | None  # of these bytes, where the archive keeps one for exactly them

    def read(self) -> Bytes:
        """Its bytes, in fresh memory.

        Raises:
            CheckpointError: they cannot be read, or are not those the checksum was made of.
        """
        data = self.file.read(self.offset, self.count)
        if self.crc is not None and zlib.crc32(data.data) != self.crc:
            raise CheckpointError(
                f"{self.file.path}: bytes {self.offset} to {self.offset + self.count} are not "
                "those that were saved: the checksum differs",
                hint="copy or download the file again",
            )
        return data


def read_tensors(file: SourceFile) -> dict[str, StoredTensor]:
    """Every tensor of the file by its name. Only the archive's lists and the pickle are read.

    Raises:
        CheckpointError: the file is not a dictionary of contiguous F32, F16 or BF16 tensors in
            the zip form of torch.save, or is damaged; storages and tensors do not account for
            each other's bytes.
    """
    where = str(file.path)
    if not file.head().startswith(b"PK\x03\x04"):
        raise _not_an_archive(file)
    members = read_members(file)
    root = _root(where, members)
    records = {name.removeprefix(root): member for name, member in members.items()}
    storages = {
        name.removeprefix(_STORAGES): member
        for name, member in records.items()
        if name.startswith(_STORAGES)
    }
    for name in records:
        if name not in _RECORDS and not name.startswith(_STORAGES):
            raise CheckpointError(
                f"{where}: has the member {quoted(root + name)}, "
                "which torch.save does not write beside tensors"
            )
    _check_byte_order(file, records.get("byteorder"))
    views = read_pickle(_read_pickle(file, records["data.pkl"]), f"{where}: {root}data.pkl")
    _check_storages(where, storages, (view.storage for view in views.values()))
    tensors = {
        name: _place(f"{where}: {quoted(name)}", file, view, storages[view.storage.key])
        for name, view in views.items()
    }
    _check_overlaps(where, tensors)
    return tensors


def _root(where: str, members: Mapping[str, Member]) -> str:
    """The folder in the archive, with its slash. Its name means nothing."""
    roots = {name.split("/", 1)[0] for name in members}
    root = min(roots, default="")
    if len(roots) != 1 or root + _PICKLE not in members:
        raise CheckpointError(
            f"{where}: is a zip archive, but not one that torch.save wrote: "
            "there is no data.pkl in the one folder it should have"
        )
    return root + "/"


def _check_byte_order(file: SourceFile, member: Member | None) -> None:
    if member is None:  # written before torch 2.1, whose predecessors knew only the machine's own
        return
    found = file.read(member.offset, min(member.size, 16)).tobytes()
    if found != b"little":
        raise CheckpointError(
            f"{file.path}: its numbers are in the byte order {quoted(found)}, "
            "and only little endian is read",
            hint="save it again on a little-endian machine",
        )


def _read_pickle(file: SourceFile, member: Member) -> bytes:
    data = file.read(member.offset, min(member.size, MAX_PICKLE + 1)).tobytes()
    if member.size == len(data) and member.crc and zlib.crc32(data) != member.crc:
        raise CheckpointError(
            f"{file.path}: its pickle is not the one that was saved: the checksum differs",
            hint="copy or download the file again",
        )
    return data


def _check_storages(where: str, members: Mapping[str, Member], storages: Iterable[Storage]) -> None:
    """Each storage is in the archive, in its size; each one in the archive is asked for."""
    used = set()
    for storage in storages:
        member = members.get(storage.key)
        if member is None:
            raise CheckpointError(f"{where}: the storage {quoted(storage.key)} is missing")
        expected = storage.count * storage.format.block_bytes
        if member.size != expected:
            raise CheckpointError(
                f"{where}: the storage {quoted(storage.key)} has {member.size} bytes, and "
                f"{storage.count} {storage.format} numbers need {expected}"
            )
        used.add(storage.key)
    for key in members:
        if key not in used:
            raise CheckpointError(f"{where}: no tensor uses the storage {quoted(key)}")


def _place(where: str, file: SourceFile, view: View, member: Member) -> StoredTensor:
    if len(view.shape) != len(view.strides) or 0 in view.shape:
        raise CheckpointError(
            f"{where}: has the shape {list(view.shape)} with the strides {list(view.strides)}"
        )
    reach = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if view.offset + reach >= view.storage.count:
        raise CheckpointError(
            f"{where}: reaches number {view.offset + reach} of a storage "
            f"that has {view.storage.count}"
        )
    dense = 1
    for n, stride in zip(view.shape[::-1], view.strides[::-1], strict=True):
        if n > 1 and stride != dense:
            raise CheckpointError(
                f"{where}: is not contiguous (shape {list(view.shape)}, "
                f"strides {list(view.strides)})",
                hint="make its tensors contiguous with torch and save it again",
            )
        dense *= n
    width = view.storage.format.block_bytes
    count = math.prod(view.shape) * width
    crc = member.crc if member.crc and count == member.size else None
    at = member.offset + view.offset * width
    return StoredTensor(file, view.storage.format, view.shape, at, count, crc)


def _check_overlaps(where: str, tensors: Mapping[str, StoredTensor]) -> None:
    """No byte is given out twice: a small file cannot become a large model."""
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda pair: pair[1].offset):
        if tensor.offset < end:
            raise CheckpointError(
                f"{where}: the tensors {before} and {quoted(name)} share their memory"
            )
        end, before = tensor.offset + tensor.count, quoted(name)


def _not_an_archive(file: SourceFile) -> CheckpointError:
    head = file.head()
    mistake = what_is(head) or "is not a zip archive, which torch.save has written since 1.6"
    if head.startswith(b"PK"):
        mistake = "is an empty zip archive"
    if "pickle" in mistake or "tar" in mistake:
        return CheckpointError(
            f"{file.path}: {mistake}, the form torch.save wrote before version 1.6, "
            "and only the zip form is read",
            hint="if you trust the file, load it with torch and save it again",
        )
    return CheckpointError(f"{file.path}: {mistake}", hint="copy or download the file again")
