"""What tests of damaged and hostile checkpoints share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints_tiny import tiny_config
from codellama import checkpoint
from codellama.errors import CheckpointError, CodeLlamaError

# As small as a model can be, so that a sweep over every bit of its header is quick.
SMALLEST = tiny_config(
    dim=2, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2, ffn_dim=2, vocab_size=3
)

Contents = dict[str, tuple[str, tuple[int, ...], bytes]]


def contents(path: Path) -> Contents:
    """Every tensor of a checkpoint: its format, shape and bytes."""
    return {
        name: (str(tensor.format), tensor.shape, tensor.data.tobytes())
        for name, tensor in checkpoint.open(path).tensors()
    }


def outcome(path: Path) -> CodeLlamaError | Contents:
    """The error that reading a checkpoint ends in, or what it holds; other errors pass through."""
    try:
        return contents(path)
    except CodeLlamaError as error:
        return error


def refusal(path: Path, kind: type[CodeLlamaError] = CheckpointError) -> str:
    """The text of the error that reading a checkpoint ends in; it names the checkpoint."""
    error = outcome(path)
    assert isinstance(error, kind), "this should have been refused"
    assert str(path) in str(error)
    return str(error)


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A safetensors file, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def split_safetensors(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    n = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def put(path: Path, data: bytes | bytearray) -> None:
    """The file's new contents, without emptying it first: some disks then flush at every close."""
    path.touch()
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def rewrite(path: Path) -> None:
    put(path, path.read_bytes()[::-1])


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """One bit of a file turned over for a while, in place: quicker than writing it anew."""
    with path.open("r+b", buffering=0) as file:

        def turn() -> None:
            file.seek(bit // 8)
            byte = file.read(1)[0] ^ 1 << bit % 8
            file.seek(bit // 8)
            file.write(bytes([byte]))

        turn()
        try:
            yield
        finally:
            turn()


@dataclass
class Watched:
    opened: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


_watching: list[Watched] = []
_FORBIDDEN = ("import", "exec", "compile", "pickle.", "socket.", "subprocess.", "os.system",
              "os.exec", "os.fork", "os.spawn", "ctypes.", "urllib.", "marshal.")  # fmt: skip


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watching:
        if event == "open":
            _watching[-1].opened.append(str(args[0]))
        elif event.startswith(_FORBIDDEN):
            _watching[-1].others.append(f"{event} {args[:1]}")


sys.addaudithook(_hook)


@contextmanager
def watch() -> Iterator[Watched]:
    """Notes every file opened in the block, and everything that could run code or reach out."""
    watched = Watched()
    _watching.append(watched)
    try:
        yield watched
    finally:
        _watching.remove(watched)
