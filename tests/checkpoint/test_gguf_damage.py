"""GGUF files that were cut, flipped and overwritten: an error, or the same tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from checkpoints_tiny import tiny_config, write_gguf
from codellama.checkpoint.files import open_file
from codellama.checkpoint.gguf_header import Header
from codellama.errors import CheckpointError, CodeLlamaError
from hostile import Contents, flipped, outcome, put
from hostile_gguf import model


def test_cut_anywhere_is_an_error(hand_made: Path) -> None:
    for n in reversed(range(hand_made.stat().st_size)):
        os.truncate(hand_made, n)
        error = outcome(hand_made)
        # The last bytes are padding, which files may lack.
        padding = len(model().to_bytes()) - n < 32 and not isinstance(error, Exception)
        assert padding or isinstance(error, CheckpointError), f"cut to {n} bytes"
        assert padding or str(hand_made) in str(error)


def test_a_file_with_a_vocabulary_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_config(n_layers=1, dim=16, head_dim=4, ffn_dim=8))
    size = path.stat().st_size
    n_header = min(entry.offset for entry in Header(open_file(path)).entries.values())
    cuts = [*range(0, n_header, 7), *range(n_header, size - 32, 4096), size - 32]
    for n in reversed(cuts):
        os.truncate(path, n)
        assert isinstance(outcome(path), CheckpointError), f"cut to {n} bytes"


def check_flips(path: Path, expected: Contents, step: int) -> None:
    """There is no checksum. A flip is an error, or gives the same tensors: same names, formats,
    shapes and bytes. It may change a number of the configuration, such as norm_eps."""
    n_header = len(model().header())
    survived = 0
    for bit in range(0, 8 * n_header, step):
        with flipped(path, bit):
            found = outcome(path)
        if not isinstance(found, CodeLlamaError):
            assert found == expected, f"bit {bit}"
            survived += 1
    assert 0 < survived < 8 * n_header / step / 3


def test_a_flipped_header_bit_is_an_error_or_changes_nothing(
    hand_made: Path, expected: Contents
) -> None:
    check_flips(hand_made, expected, 7)


@pytest.mark.slow
def test_any_flipped_header_bit_is_an_error_or_changes_nothing(
    hand_made: Path, expected: Contents
) -> None:
    check_flips(hand_made, expected, 1)


def test_a_data_bit_flipped_reaches_its_own_tensor_only(
    hand_made: Path, expected: Contents
) -> None:
    entries = Header(open_file(hand_made)).entries.values()
    inside = {at for e in entries for at in range(e.offset, e.offset + e.count)}
    for at in range(len(model().header()), hand_made.stat().st_size):
        with flipped(hand_made, 8 * at + at % 8):
            found = outcome(hand_made)
        if at in inside:
            assert not isinstance(found, Exception)
            assert len([name for name in expected if found[name] != expected[name]]) == 1
        else:
            assert "there should be only zeros" in str(found)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_ends_in_an_error_or_a_model(hand_made: Path, seed: int) -> None:
    """Changed, doubled, dropped and zeroed stretches of the header."""
    rng = np.random.default_rng(seed)
    whole, n_header = hand_made.read_bytes(), len(model().header())
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        a = int(rng.integers(0, n_header))
        b = min(n_header, a + int(rng.choice([1, 2, 8, 40])))
        match rng.integers(5):
            case 0:
                data[a:b] = rng.bytes(b - a)
            case 1:
                data[a:b] = data[a:b] * 2
            case 2:
                del data[a:b]
            case 3:
                data[a:b] = bytes(b - a)
            case 4:
                data[a:b] = b"\xff" * (b - a)
        put(hand_made, data)
        refused += isinstance(outcome(hand_made), CodeLlamaError)
    assert refused > 200
