"""Checkpoints that several processes wrote: any block of them is read back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.train.pieces import Block, SavedTensors, header


def _save(folder: Path, tensors: dict[str, Tensor], n: int) -> list[Path]:
    """Cuts matrices by rows and then by columns for `n` writers, as sharding does."""
    paths = []
    for rank in range(n):
        blocks = {}
        for name, tensor in tensors.items():
            side = 0 if tensor.dim() == 1 or name.endswith("rows") else 1
            parts = torch.chunk(tensor, n, side)
            if rank < len(parts):
                offset = [0] * tensor.dim()
                offset[side] = sum(part.shape[side] for part in parts[:rank])
                blocks[name] = Block(parts[rank], tuple(offset), tuple(tensor.shape))
        path = folder / f"part-{rank}-of-{n}.safetensors"
        save_file({k: b.values.contiguous() for k, b in blocks.items()}, path, header(blocks))
        paths.append(path)
    return paths


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n=st.integers(1, 4))
def test_any_block_is_read_from_any_number_of_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n: int
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    tensors = {
        "by rows": torch.arange(shape[0] * shape[1], dtype=torch.float32).view(shape),
        "by columns": torch.randn(shape),
        "vector": torch.randn(shape[0]),
    }
    saved = SavedTensors(_save(tmp_path_factory.mktemp("parts"), tensors, n))
    assert set(saved) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(saved[name], tensor)
        low = [data.draw(st.integers(0, size - 1)) for size in tensor.shape]
        size = [data.draw(st.integers(1, s - a)) for s, a in zip(tensor.shape, low, strict=True)]
        cut = tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))
        assert torch.equal(saved.read(name, tuple(low), tuple(size)), tensor[cut])


def test_a_missing_or_doubled_part_is_refused(tmp_path: Path) -> None:
    paths = _save(tmp_path, {"w": torch.randn(6, 6)}, 3)
    with pytest.raises(CheckpointError, match="of the 36 numbers of w"):
        SavedTensors(paths[:2])
    with pytest.raises(CheckpointError, match="numbers of w"):
        SavedTensors([paths[0], paths[0], paths[1]])
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CheckpointError, match="another shape in another file"):
        SavedTensors([paths[0], *_save(other, {"w": torch.randn(5, 4)}, 2)])
    (tmp_path / "torn").write_bytes(paths[0].read_bytes()[:40])
    with pytest.raises(CheckpointError, match="torn cannot be read"):
        SavedTensors([tmp_path / "torn"])
