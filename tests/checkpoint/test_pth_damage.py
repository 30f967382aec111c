"""`.pth` files that were cut, flipped and overwritten: an error, or the same tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from codellama.errors import CheckpointError
from hostile import SMALLEST, Contents, contents, flipped, outcome, put
from hostile_pth import read, smallest


@pytest.fixture(scope="module", params=["with checksums", "without"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model, by torch."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(request.param == "with checksums")
    try:
        return smallest(tmp_path_factory.mktemp("smallest"))
    finally:
        torch.serialization.set_crc32_options(before)


@pytest.fixture(scope="module")
def expected(file: Path) -> Contents:
    found = contents(file.parent)
    assert len(found) == len(SMALLEST.tensor_shapes())
    return found


def test_cut_anywhere_is_an_error(file: Path) -> None:
    whole = file.read_bytes()
    try:
        for n in reversed(range(len(whole))):
            os.truncate(file, n)
            error = outcome(file.parent)
            assert isinstance(error, CheckpointError), f"cut to {n} bytes"
            assert file.name in str(error)
    finally:
        file.write_bytes(whole)


def flips_that_matter(file: Path, expected: Contents, bits: range) -> list[int]:
    """Flips bits one by one; those after which the model is another one without an error."""
    changed = []
    for bit in bits:
        with flipped(file, bit):
            found = outcome(file.parent)
        if not isinstance(found, CheckpointError) and found != expected:
            changed.append(bit)
    assert contents(file.parent) == expected
    return changed


def data_bytes(file: Path) -> set[int]:
    return {i for t in read(file).values() for i in range(t.offset, t.offset + t.count)}


def check_flips(file: Path, expected: Contents, step: int) -> None:
    """Errors, or the same tensors. Without checksums, the numbers themselves are not guarded."""
    unguarded = set() if any(t.crc for t in read(file).values()) else data_bytes(file)
    bits = range(0, 8 * file.stat().st_size, step)
    changed = flips_that_matter(file, expected, bits)
    assert {bit // 8 for bit in changed} <= unguarded
    assert changed or not unguarded  # such a flip does change a number


def test_a_flipped_bit_is_an_error_or_changes_nothing(file: Path, expected: Contents) -> None:
    check_flips(file, expected, 31)


@pytest.mark.slow
def test_any_flipped_bit_is_an_error_or_changes_nothing(file: Path, expected: Contents) -> None:
    check_flips(file, expected, 1)


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_is_found_by_the_checksums(tmp_path: Path, seed: int) -> None:
    """Zeroed, doubled, swapped and changed stretches: an error, or the very same tensors."""
    file = smallest(tmp_path)
    expected, whole = contents(tmp_path), file.read_bytes()
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(250):
        data = bytearray(whole)
        a, b = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
        b = min(b, a + int(rng.choice([1, 4, 64, 4096])))
        match rng.integers(5):
            case 0:
                data[a:b] = bytes(b - a)
            case 1:
                data[a:b] = data[a:b] * 2
            case 2:
                del data[a:b]
            case 3:
                data[a:b] = rng.bytes(b - a)
            case 4:
                data[a:b] = data[a:b][::-1]
        put(file, data)
        found = outcome(tmp_path)
        if isinstance(found, CheckpointError):
            refused += 1
        else:
            assert found == expected
    assert refused > 100


def test_a_changed_number_is_found(tmp_path: Path) -> None:
    file = smallest(tmp_path)
    for at in sorted(data_bytes(file)):
        with flipped(file, 8 * at + 5):
            error = outcome(tmp_path)
        assert isinstance(error, CheckpointError)
        assert "checksum" in str(error)
