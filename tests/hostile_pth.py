"""`.pth` files made by hand, however wrong: archives field by field, pickles opcode by opcode."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import write_meta
from codellama.checkpoint.files import open_file
from codellama.checkpoint.pth import StoredTensor, read_tensors
from codellama.errors import CheckpointError
from hostile import SMALLEST, put, watch

State = dict[str, Any]  # torch's tensors by Meta's names


@dataclass
class Part:
    """A member of an archive. What is None follows from the rest."""

    name: str
    data: bytes = b""
    method: int = 0
    flags: int = 0
    crc: int | None = None
    stored: int | None = None
    size: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    local_method: int | None = None
    local_extra: bytes = b""
    offset: int | None = None
    extra: bytes = b""
    comment: bytes = b""
    disk: int = 0


@dataclass
class Archive:
    """A zip archive; `end` overrides fields of its end record by their index."""

    parts: Sequence[Part] = ()
    end: dict[int, int] = field(default_factory=dict)
    end_64: dict[int, int] | None = None
    locator: dict[int, int] = field(default_factory=dict)
    comment: bytes = b""
    before_end: bytes = b""
    prefix: bytes = b""

    def to_bytes(self) -> bytes:
        out, directory = bytearray(self.prefix), bytearray()
        for part in self.parts:
            at = len(out) if part.offset is None else part.offset
            crc = zlib.crc32(part.data) if part.crc is None else part.crc
            size = len(part.data) if part.size is None else part.size
            stored = size if part.stored is None else part.stored
            local = (part.local_name or part.name).encode()
            local_size = stored if part.local_size is None else part.local_size
            method = part.method if part.local_method is None else part.local_method
            out += struct.pack(
                "<4sHHHHHIIIHH", b"PK\x03\x04", 0, part.flags, method, 0, 0, crc,
                min(local_size, 0xFFFFFFFF), min(local_size, 0xFFFFFFFF), len(local),
                len(part.local_extra),
            )  # fmt: skip
            out += local + part.local_extra + part.data
            name = part.name.encode()
            directory += struct.pack(
                "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 0, 0, part.flags, part.method, 0, 0, crc,
                stored, size, len(name), len(part.extra), len(part.comment), part.disk, 0, 0, at,
            )  # fmt: skip
            directory += name + part.extra + part.comment
        start = len(out)
        out += directory
        n = len(self.parts)
        if self.end_64 is not None:
            record: list[Any] = [b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, len(directory), start]
            for i, value in self.end_64.items():
                record[i] = value
            at = len(out)
            out += struct.pack("<4sQHHIIQQQQ", *record)
            locator: list[Any] = [b"PK\x06\x07", 0, at, 1]
            for i, value in self.locator.items():
                locator[i] = value
            out += struct.pack("<4sIQI", *locator)
        end: list[Any] = [b"PK\x05\x06", 0, 0, n, n, len(directory), start, len(self.comment)]
        for i, value in self.end.items():
            end[i] = value
        return bytes(out) + self.before_end + struct.pack("<4sHHHHIIH", *end) + self.comment


def pth_bytes(pickle: bytes, storages: dict[str, bytes], **changes: Any) -> bytes:
    """A `.pth` file of this pickle and these storages."""
    parts = [Part("x/data.pkl", pickle), Part("x/byteorder", b"little"), Part("x/version", b"3\n")]
    parts += [Part(f"x/data/{key}", data) for key, data in storages.items()]
    return Archive(parts, **changes).to_bytes()


# Opcodes of the pickles that torch.save writes, as functions of their arguments.


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(n: int) -> bytes:
    if 0 <= n < 256:
        return b"K" + bytes([n])
    if -(1 << 31) <= n < 1 << 31:
        return b"J" + struct.pack("<i", n)
    raw = n.to_bytes((n.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def symbol(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def storage_id(
    kind: bytes | None = None, key: bytes | None = None, count: bytes | None = None
) -> bytes:
    return tuple_of(
        text("storage"),
        symbol("torch.FloatStorage") if kind is None else kind,
        text("0") if key is None else key,
        text("cpu"),
        number(6) if count is None else count,
    )


def tensor(
    storage: bytes | None = None,
    offset: bytes | None = None,
    shape: bytes | None = None,
    strides: bytes | None = None,
    grad: bytes = b"\x89",
    hooks: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """A tensor [3, 2] over storage "0"."""
    return (
        symbol("torch._utils._rebuild_tensor_v2")
        + tuple_of(
            storage_id() + b"Q" if storage is None else storage,
            number(0) if offset is None else offset,
            tuple_of(number(3), number(2)) if shape is None else shape,
            tuple_of(number(2), number(1)) if strides is None else strides,
            grad,
            symbol("collections.OrderedDict") + b")R" if hooks is None else hooks,
            more,
        )
        + b"R"
    )


def table(**tensors: bytes) -> bytes:
    """The pickle of a dictionary."""
    items = b"".join(text(name) + value for name, value in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def read(path: Path) -> dict[str, StoredTensor]:
    return read_tensors(open_file(path))


def refusal(tmp_path: Path, data: bytes) -> str:
    """Our error for a `.pth` file of these bytes; nothing but the file may be touched."""
    path = tmp_path / "x.pth"
    put(path, data)
    with watch() as watched, pytest.raises(CheckpointError) as caught:
        read(path)
    assert watched.others == []
    assert {Path(name) for name in watched.opened} <= {path}
    assert str(path) in str(caught.value)
    return str(caught.value)


def change_state(folder: Path, change: Callable[[State], object], shard: int = 0) -> None:
    """Changes the tensors of one of Meta's files."""
    import torch

    path = folder / f"consolidated.{shard:02d}.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    out = io.BytesIO()
    torch.save(state, out)
    put(path, out.getvalue())


def smallest(folder: Path, **kwargs: Any) -> Path:
    """The smallest model in one `.pth` file, by torch.save; the file's path."""
    write_meta(folder, SMALLEST, tokenizer=False, **kwargs)
    return folder / "consolidated.00.pth"
