"""The safetensors format: one file's header, and the index that ties several files together.

    8 bytes   the header's length n, little endian
    n bytes   a JSON object: tensor name -> {"dtype", "shape", "data_offsets": [begin, end]},
              and `__metadata__`, an object of strings; spaces may follow
    the rest  the tensors' bytes, little endian; offsets count from here

Format: https://github.com/huggingface/safetensors. The rules kept here are its own, with the
header bounded at 16 MiB and 16,384 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codellama.checkpoint.files import Folder, SourceFile, check_base_name, quoted, what_is
from codellama.checkpoint.strict_json import parse_object
from codellama.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

MAX_HEADER = 16 << 20
MAX_TENSORS = 1 << 14
MAX_SHARDS = 256  # each stays open, so that what was checked is what is read

_WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: `count` bytes from byte `offset` of `file`."""

    file: SourceFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    count: int


def read_header(file: SourceFile) -> dict[str, Entry]:
    """Every tensor of the file by its name there, in the order of their bytes.

    Raises:
        CheckpointError: the file is not safetensors, or its header is not one that the format
            allows: sizes that disagree, gaps, overlaps, bytes beyond the end or left over.
    """
    where = str(file.path)
    length = int.from_bytes(file.read(0, 8).tobytes(), "little") if file.size >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER, file.size - 8) or file.read(8, 1)[0] != ord("{"):
        raise _not_safetensors(file, length)
    raw = parse_object(file.read(8, length).tobytes(), where, max_depth=8)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: `__metadata__` is not an object of strings")
    if len(raw) > MAX_TENSORS:
        raise CheckpointError(f"{where}: lists {len(raw)} tensors, more than {MAX_TENSORS}")
    start = 8 + length
    entries = {
        name: _entry(item, f"{where}: {quoted(name)}", file, start) for name, item in raw.items()
    }
    entries = dict(sorted(entries.items(), key=lambda pair: (pair[1].offset, pair[1].count)))
    end, before = start, "the header"
    for name, entry in entries.items():
        if entry.offset != end:
            what = "overlap" if entry.offset < end else "leave a gap"
            raise CheckpointError(f"{where}: {before} and {quoted(name)} {what}")
        end, before = entry.offset + entry.count, quoted(name)
    if end != file.size:
        raise CheckpointError(
            f"{where}: the header promises {end} bytes and the file has {file.size}",
            hint="copy or download the file again",
        )
    return entries


def read_entries(folder: Folder) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors file or files, by its name there.

    `model.safetensors` comes before an index, as in `transformers`.

    Raises:
        CheckpointError: there is neither, a file is damaged, or the index and the files disagree.
    """
    if SINGLE in folder.names:
        return read_header(folder.open(SINGLE))
    if INDEX not in folder.names:
        raise CheckpointError(
            f"{folder.path}: holds neither {SINGLE} nor {INDEX}",
            hint="download the index as well, or rename the file if it is the only one",
        )
    with folder.open(INDEX) as file:
        where = str(file.path)
        index = parse_object(file.read_small(), where)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: `weight_map` is not an object that names files")
    if len(weight_map) > MAX_TENSORS:
        raise CheckpointError(f"{where}: lists {len(weight_map)} tensors, more than {MAX_TENSORS}")
    shards = sorted({check_base_name(name, where) for name in weight_map.values()})
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{where}: names {len(shards)} files, more than {MAX_SHARDS}")
    absent = [name for name in shards if name not in folder.names]
    if absent:
        raise CheckpointError(
            f"{where}: {len(absent)} of {len(shards)} files are missing, such as {absent[0]}",
            hint="the download has not finished, or a file was moved",
        )
    entries: dict[str, Entry] = {}
    for shard in shards:
        found = read_header(folder.open(shard))
        _match_shard(where, shard, found, weight_map)
        entries |= found
    lost = [name for name in weight_map if name not in entries]
    if lost:
        raise CheckpointError(
            f"{where}: {len(lost)} tensors are in none of the files, such as {quoted(lost[0])}"
        )
    _match_total(where, index.get("metadata"), sum(entry.count for entry in entries.values()))
    return entries


def _entry(item: Any, where: str, file: SourceFile, start: int) -> Entry:
    if not isinstance(item, dict) or item.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: is {quoted(item)}, expected an object of dtype, shape and data_offsets"
        )
    dtype, shape, span = item["dtype"], item["shape"], item["data_offsets"]
    width = _WIDTHS.get(dtype) if isinstance(dtype, str) else None
    if width is None:
        raise CheckpointError(f"{where}: has the unknown dtype {quoted(dtype)}")
    if not _are_counts(shape) or len(shape) > 8:
        raise CheckpointError(f"{where}: has the shape {quoted(shape)}")
    if not _are_counts(span) or len(span) != 2 or span[0] > span[1]:
        raise CheckpointError(f"{where}: has the data_offsets {quoted(span)}")
    begin, end = span
    if math.prod(shape) * width != end - begin:
        raise CheckpointError(
            f"{where}: {dtype} of shape {shape} has {math.prod(shape) * width} bytes, "
            f"and its data_offsets span {end - begin}"
        )
    if start + end > file.size:
        raise CheckpointError(
            f"{where}: ends at byte {start + end} and the file has {file.size}",
            hint="copy or download the file again",
        )
    return Entry(file, dtype, tuple(shape), start + begin, end - begin)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _not_safetensors(file: SourceFile, length: int) -> CheckpointError:
    mistake = what_is(file.head())
    if mistake is not None:
        return CheckpointError(f"{file.path}: {mistake}, not safetensors")
    if length > MAX_HEADER:
        return CheckpointError(
            f"{file.path}: is not safetensors, or its header of {length} bytes is larger than "
            f"{MAX_HEADER}"
        )
    return CheckpointError(
        f"{file.path}: is not safetensors, or is cut short: the header promises {length} bytes "
        f"and {file.size} are there in all",
        hint="copy or download the file again",
    )


def _match_shard(
    where: str, shard: str, found: Mapping[str, Entry], weight_map: Mapping[str, Any]
) -> None:
    for name in found:
        listed = weight_map.get(name)
        if listed != shard:
            place = "nowhere" if listed is None else quoted(listed)
            raise CheckpointError(
                f"{where}: {quoted(name)} is in {shard}, and the index lists it in {place}"
            )


def _match_total(where: str, metadata: Any, total: int) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{where}: `metadata` is not an object")
    promised = metadata.get("total_size", total)
    if type(promised) not in (int, float) or promised != total:
        raise CheckpointError(
            f"{where}: `total_size` is {quoted(promised)}, and the tensors have {total} bytes"
        )
