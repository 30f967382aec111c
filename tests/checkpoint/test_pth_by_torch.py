"""What `torch.save` writes: tables of tensors are read, all else is refused by name."""

from __future__ import annotations

import io
import pickle
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hostile_pth import read, refusal

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_what_torch_saves_is_what_is_read(tmp_path: Path, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (1, 4), (2, 3, 4), (), (1,)]
    state = {
        f"t{i}": torch.randn(shape, generator=generator).to(TORCH_DTYPES[dtype])
        for i, shape in enumerate(shapes)
    }
    path = tmp_path / "x.pth"
    torch.save(state, path)
    by_torch = torch.load(path, weights_only=True)
    found = read(path)
    assert list(found) == list(by_torch)
    for name, x in by_torch.items():
        assert (found[name].format, found[name].shape) == (dtype, tuple(x.shape))
        flat = x.contiguous().reshape(-1).view(torch.uint8)
        assert np.array_equal(found[name].read(), flat.numpy())


def test_parts_of_one_storage_are_read(tmp_path: Path) -> None:
    base = torch.arange(20.0)
    state = {"second": base[8:14].view(3, 2), "first": base[2:8], "last": base[19:]}
    path = tmp_path / "x.pth"
    torch.save(state, path)
    found = read(path)
    for name, x in state.items():
        assert found[name].read().view("<f4").tolist() == x.reshape(-1).tolist()
        assert found[name].crc is None  # the checksum is that of the whole storage


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": torch.zeros(2, 3).T}, "contiguous"),
        ({"a": torch.zeros(4)[::2]}, "contiguous"),
        ({"a": torch.zeros(1).expand(3)}, "contiguous"),
        ({"a": torch.zeros(3, dtype=torch.float64)}, "torch.DoubleStorage"),
        ({"a": torch.zeros(3, dtype=torch.int8)}, "torch.CharStorage"),
        ({"a": torch.zeros(3, dtype=torch.uint16)}, "_rebuild_tensor_v3"),
        ({"a": torch.zeros(3).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": torch.zeros(2, 0)}, "shape"),
        ({"a": (x := torch.zeros(3)), "b": x}, "share their memory"),
        ({"model": {"a": torch.zeros(3)}, "step": 4}, "a dictionary, not a tensor"),
        ([torch.zeros(3)], "opcode"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"a": torch.nn.Parameter(torch.zeros(3))}, "_rebuild_parameter"),
    ],
    ids=lambda v: str(v)[:30].replace("\n", " ") if isinstance(v, str) else "",
)
def test_what_else_torch_saves_is_named(tmp_path: Path, state: Any, words: str) -> None:
    out = io.BytesIO()
    torch.save(state, out)
    assert words in refusal(tmp_path, out.getvalue())


def test_older_forms_are_named(tmp_path: Path) -> None:
    out = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, out, _use_new_zipfile_serialization=False)
    assert "Python pickle" in refusal(tmp_path, out.getvalue())
    assert "Python pickle" in refusal(tmp_path, pickle.dumps({"a": 1}))
    assert "zip archive" in refusal(tmp_path, pickle.dumps({"a": 1}, 0))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            tar.addfile(tarfile.TarInfo(name))
    assert "tar archive" in refusal(tmp_path, out.getvalue())


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(4.0)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    found = read(tmp_path / "x.pth")["a"]
    assert found.crc is None
    assert found.read().view("<f4").tolist() == [0, 1, 2, 3]


def test_an_archive_beyond_32_bits_is_read(tmp_path: Path) -> None:
    """Offsets and one size need zip64. The file is full of holes and takes no room."""
    holes = tmp_path / "holes"
    sizes = {"a": 3 << 30, "b": 5, "c": (4 << 30) + 2, "d": 7}
    with holes.open("wb") as file:
        file.truncate(max(sizes.values()))
    state = {
        name: torch.from_file(str(holes), shared=False, size=n // 2, dtype=torch.bfloat16)
        for name, n in sizes.items()
    }
    path = tmp_path / "x.pth"
    with torch.serialization.skip_data():
        torch.save(state, path)
    assert path.stat().st_size > 7 << 30
    listed = zipfile.ZipFile(path)
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    for i, (name, n) in enumerate(sizes.items()):
        assert found[name].count == n // 2 * 2
        member = listed.getinfo(f"x/data/{i}")
        assert member.file_size == found[name].count
        assert member.header_offset < found[name].offset < member.header_offset + 256
