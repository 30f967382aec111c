"""A model into a GGUF file that this package and llama.cpp read, whole or not at all.

Shapes and formats are known before the first tensor comes, so the header is written first and each
tensor to its own place in the file, whatever the order they come in; memory holds the tensor being
written and a few million of its numbers. The file grows under a hidden name beside the destination,
is synced, and a rename makes it visible.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from codellama.checkpoint.durable import sync_folder
from codellama.checkpoint.gguf_metadata import ALIGNMENT, Metadata, gguf_name, header
from codellama.checkpoint.reader import Ledger
from codellama.checkpoint.rotary import is_turned, neighbours_from_halves
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant import native
from codellama.quant.formats import Format, Tensor, dequantise, n_bytes, row_bytes

if TYPE_CHECKING:
    from codellama.quant.formats import Bytes

_AT_ONCE = 1 << 22  # numbers rounded at once


def save_gguf(
    dst: str | Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    formats: Mapping[str, Format],
    metadata: Metadata,
    *,
    overwrite: bool = False,
    n_threads: int | None = None,
) -> tuple[str, ...]:
    """Writes a GGUF file and returns a note for each change of format.

    Args:
        tensors: every parameter of `config` once, by our names, in any order and any format.
        formats: what each is stored as.
        overwrite: replace a file that exists. The old one stays until the new one is complete.
        n_threads: threads that round; None takes one per physical core.

    Raises:
        CheckpointError: the destination exists, tensors are missing, doubled or misshapen, a number
            is too large for its format, or the disk refuses or is full. Nothing is left behind.
    """
    dst = Path(dst).absolute()
    check_destination(dst, overwrite)
    shapes = config.tensor_shapes()
    start, places = header(config, metadata, {name: formats[name] for name in shapes})
    size = max(offset + n_bytes(formats[name], shapes[name]) for name, offset in places.items())
    ledger = Ledger(str(dst), config, n_entries=config.n_layers)
    temporary = dst.with_name(f".{dst.name}.tmp-{secrets.token_hex(4)}")
    changes: Counter[tuple[Format, Format]] = Counter()
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            # A disk that cannot hold the file says so now and not in an hour.
            os.posix_fallocate(file.fileno(), 0, -(-size // ALIGNMENT) * ALIGNMENT)
            file.write(start)
            for name, tensor in ledger.stream(tensors):
                changes[tensor.format, formats[name]] += 1
                if is_turned(name):
                    tensor = neighbours_from_halves(tensor, config.head_dim)
                _write(file, places[name], name, tensor, formats[name], n_threads)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(dst)
        sync_folder(dst.parent)
    except OSError as error:
        problem = f"{dst}: cannot be written: {error.strerror or error}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = f"the file takes {size:,} bytes; free some space or write elsewhere"
        raise CheckpointError(problem, hint=hint if full else None) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return tuple(
        f"{n} tensor{'s' if n > 1 else ''} from {old} to {new}"
        for (old, new), n in sorted(changes.items())
        if old is not new
    )


def check_destination(dst: Path, overwrite: bool) -> None:
    """Raises CheckpointError when `dst` may not be written."""
    if dst.is_dir():
        raise CheckpointError(f"{dst}: is a folder", hint="give the path of a .gguf file")
    if (dst.exists() or dst.is_symlink()) and not (overwrite and dst.is_file()):
        raise CheckpointError(f"{dst}: exists", hint="choose another name, or ask to overwrite it")


def _write(
    file: BinaryIO, offset: int, name: str, tensor: Tensor, format: Format, n_threads: int | None
) -> None:
    file.seek(offset)
    if tensor.format is format:
        file.write(tensor.data.data)
        return
    n_cols = tensor.shape[-1]
    rows = tensor.data.reshape(-1, row_bytes(tensor.format, n_cols))
    step = max(1, _AT_ONCE // n_cols)
    for at in range(0, len(rows), step):
        file.write(_rounded(name, tensor.format, rows[at : at + step], format, n_threads).data)


def _rounded(name: str, old: Format, rows: Bytes, new: Format, n_threads: int | None) -> Bytes:
    try:
        return native.quantise(new, dequantise(old, rows), n_threads=n_threads).reshape(-1)
    except CheckpointError as error:
        raise CheckpointError(f"{gguf_name(name)}: {error}", hint=error.hint) from error
