"""A model into a Hugging Face folder, whole or not at all.

Everything is written into a hidden folder beside the destination and synced to disk; a rename then
makes it visible. Tensors stream straight into the safetensors files: room for a header is kept at
the front of each, and spaces fill what it leaves, as the format allows.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from codellama.checkpoint.durable import sync_folder
from codellama.checkpoint.reader import ChatForm, GenerationDefaults, Ledger
from codellama.checkpoint.safetensors import INDEX, MAX_SHARDS, SINGLE
from codellama.checkpoint.tokenizer_files import tokenizer_files
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

Dtype = Literal["F32", "F16", "BF16"]

MAX_SHARD_BYTES = 5_000_000_000

_WORDS = {Format.F32: "float32", Format.F16: "float16", Format.BF16: "bfloat16"}
_REPLACEABLE = (
    "config.json", "generation_config.json", "model*.safetensors", INDEX,
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip


def save_hf(
    dst: str | Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Tokenizer,
    *,
    generation: GenerationDefaults,
    chat_form: ChatForm | None,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[str, ...]:
    """Writes a folder that `checkpoint.open`, `transformers` and vLLM read, and returns notes.

    Args:
        tensors: every parameter of `config` once, by our names, in any order. They are written as
            they come, one in memory at a time.
        chat_form: recorded in `tokenizer_config.json`, with the template that others need for it.
        dtype: the numbers' format; None keeps each tensor's own. Block formats become `dtype`, or
            BF16 when that is None, since safetensors has no blocks.
        overwrite: replace an existing checkpoint folder. The old one stays until the new one is
            complete; a crash between the two renames leaves it beside, as `.NAME.old-*`.
        max_shard_bytes: start another file when one would grow beyond this.

    Raises:
        CheckpointError: the destination exists (or, with `overwrite`, holds files that are no part
            of a checkpoint), tensors are missing, doubled or misshapen, a number is too large for
            `dtype`, or the disk refuses. Nothing is left behind.
    """
    dst = Path(dst).absolute()
    _check_destination(dst, overwrite)
    wanted = None if dtype is None else Format(dtype)
    vocabulary = tokenizer_files(tokenizer, config, chat_form)
    ledger = Ledger(str(dst), config, n_entries=config.n_layers)
    temporary = dst.with_name(f".{dst.name}.tmp-{secrets.token_hex(4)}")
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        converted: Counter[tuple[Format, Format]] = Counter()
        with _Writer(temporary, config, max_shard_bytes) as writer:
            for name, tensor in ledger.stream(tensors):
                target = wanted or (Format.BF16 if tensor.format.is_quantised else tensor.format)
                writer.add(name, _rounded(name, tensor, target))
                converted[tensor.format, target] += 1
            main_format = writer.finish()
        files = {
            "config.json": _config_json(config, generation, main_format),
            "generation_config.json": _generation_json(generation),
            **vocabulary,
        }
        for name, data in files.items():
            _write(temporary / name, data)
        sync_folder(temporary)
        _publish(temporary, dst)
    except OSError as error:
        raise CheckpointError(f"{dst}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tuple(
        f"{n} tensor{'s' if n > 1 else ''} {'dequantised' if old.is_quantised else 'rounded'} "
        f"from {old} to {new}"
        for (old, new), n in converted.items()
        if old is not new and (new is not Format.F32 or old.is_quantised)  # F32 holds F16 and BF16
    )


class _Writer:
    """Safetensors files in `folder`, opened one after another as they fill up."""

    def __init__(self, folder: Path, config: ModelConfig, max_shard_bytes: int) -> None:
        self._folder = folder
        self._shapes = config.tensor_shapes()
        self._max_shard_bytes = max_shard_bytes
        self._shards: list[dict[str, tuple[Format, int, int]]] = []  # name -> format, begin, end
        self._file: BinaryIO | None = None
        self._room = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, name: str, tensor: Tensor) -> None:
        end = self._end()
        if self._file is None or (end and end + tensor.n_bytes > self._max_shard_bytes):
            self._close_shard()
            self._open_shard()
            end = 0
        assert self._file is not None, "a shard was just opened"
        self._file.write(tensor.data.data)
        self._shards[-1][name] = (tensor.format, end, end + tensor.n_bytes)

    def finish(self) -> Format:
        """Closes the last file, gives all their names, and returns the format of most numbers."""
        self._close_shard()
        n = len(self._shards)
        if n > MAX_SHARDS:
            raise CheckpointError(
                f"{self._folder}: {n} files are more than the {MAX_SHARDS} that are read back",
                hint="allow larger files",
            )
        if n == 1:
            self._part(0).rename(self._folder / SINGLE)
        else:
            names = [f"model-{i + 1:05d}-of-{n:05d}.safetensors" for i in range(n)]
            for i, name in enumerate(names):
                self._part(i).rename(self._folder / name)
            _write(self._folder / INDEX, self._index(names))
        counts: Counter[Format] = Counter()
        for shard in self._shards:
            for name, (format, _, _) in shard.items():
                counts[format] += math.prod(self._shapes[name])
        return counts.most_common(1)[0][0]

    def _end(self) -> int:
        ends = [end for _, _, end in self._shards[-1].values()] if self._shards else []
        return ends[-1] if ends else 0

    def _part(self, i: int) -> Path:
        return self._folder / f"part-{i}"

    def _open_shard(self) -> None:
        written = {name for shard in self._shards for name in shard}
        rest = [name for name in self._shapes if name not in written]
        most = sum(4 * math.prod(self._shapes[name]) for name in rest)
        longest = {name: (Format.BF16, most, most) for name in rest}
        self._room = -(-(8 + len(self._header(longest))) // 64) * 64  # tensors begin aligned
        self._file = self._part(len(self._shards)).open("xb")
        self._file.seek(self._room)
        self._shards.append({})

    def _close_shard(self) -> None:
        if self._file is None:
            return
        header = self._header(self._shards[-1])
        room = self._room - 8
        assert len(header) <= room, "the room kept for a header fits any of these tensors"
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + header.ljust(room))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def _header(self, shard: dict[str, tuple[Format, int, int]]) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for name, (format, begin, end) in shard.items():
            header[_hf_name(name)] = {
                "dtype": format.value,
                "shape": self._shapes[name],
                "data_offsets": [begin, end],
            }
        return json.dumps(header, separators=(",", ":")).encode()

    def _index(self, files: Sequence[str]) -> bytes:
        total = sum(end - begin for shard in self._shards for _, begin, end in shard.values())
        weight_map = {
            _hf_name(name): file
            for shard, file in zip(self._shards, files, strict=True)
            for name in shard
        }
        return _json({"metadata": {"total_size": total}, "weight_map": weight_map})


def _hf_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _rounded(name: str, tensor: Tensor, format: Format) -> Tensor:
    try:
        return tensor.to(format)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}", hint=error.hint) from error


def _config_json(config: ModelConfig, generation: GenerationDefaults, format: Format) -> bytes:
    word = _WORDS[format]
    ids = {"bos_token_id": generation.bos_id, "eos_token_id": _one_or_all(generation.eos_ids)}
    # Versions of transformers look for the format under either name.
    return _json({**config.to_hf(), **ids, "dtype": word, "torch_dtype": word})


def _generation_json(generation: GenerationDefaults) -> bytes:
    ids = {"bos_token_id": generation.bos_id, "eos_token_id": _one_or_all(generation.eos_ids)}
    return _json({key: value for key, value in ids.items() if value is not None})


def _one_or_all(ids: Sequence[int]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _check_destination(dst: Path, overwrite: bool) -> None:
    if dst.is_symlink() or (dst.exists() and not dst.is_dir()):
        raise CheckpointError(f"{dst}: exists and is not a folder")
    names = [entry.name for entry in dst.iterdir()] if dst.exists() else []
    if names and not overwrite:
        raise CheckpointError(
            f"{dst}: exists and is not empty", hint="choose another folder, or ask to overwrite it"
        )
    foreign = [n for n in names if not any(Path(n).match(pattern) for pattern in _REPLACEABLE)]
    if foreign:
        raise CheckpointError(
            f"{dst}: holds {len(foreign)} files that are no part of a checkpoint and would be "
            f"lost, such as {sorted(foreign)[0]}",
            hint="choose another folder",
        )


def _publish(temporary: Path, dst: Path) -> None:
    """Makes the finished folder visible as `dst`, in place of an older one if there is one."""
    old = None
    if dst.exists() and any(dst.iterdir()):
        old = dst.with_name(f".{dst.name}.old-{secrets.token_hex(4)}")
        dst.rename(old)
    try:
        temporary.rename(dst)
    except BaseException:
        if old is not None:
            old.rename(dst)
        raise
    sync_folder(dst.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
