"""Several safetensors files and the index that ties them together."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import tiny_config, tiny_weights, write_hf, write_json
from codellama import checkpoint
from codellama.errors import CheckpointError
from hostile import SMALLEST, contents, flipped, outcome

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
A = "model.embed_tokens.weight"
DELETE = "(left out)"  # a word, so that the tests have the same names in every process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "sharded", SMALLEST, n_shards=2, tokenizer=False)


def refusal(folder: Path) -> str:
    error = outcome(folder)
    assert isinstance(error, CheckpointError), "this should have been refused"
    return str(error)


def change(folder: Path, **keys: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    for key, value in keys.items():
        index[key] = value
    write_json(folder / INDEX, {k: v for k, v in index.items() if v is not DELETE})


@pytest.mark.parametrize("n_shards", [2, 3, 5])
def test_sharded_is_single(tmp_path: Path, n_shards: int) -> None:
    single = write_hf(tmp_path / "single", dtype="BF16", tokenizer=False)
    sharded = write_hf(tmp_path / "sharded", dtype="BF16", n_shards=n_shards, tokenizer=False)
    assert contents(sharded) == contents(single)
    assert checkpoint.open(sharded).infos == checkpoint.open(single).infos


def test_a_single_file_comes_before_an_index(folder: Path) -> None:
    write_hf(folder, SMALLEST, tiny_weights(SMALLEST, seed=1), tokenizer=False)
    found = contents(folder)
    (folder / INDEX).write_text("{")
    assert contents(folder) == found


def test_an_index_cut_anywhere_is_an_error(folder: Path) -> None:
    for n in reversed(range((folder / INDEX).stat().st_size)):
        os.truncate(folder / INDEX, n)
        assert INDEX in refusal(folder)


def test_any_index_bit_flipped_is_an_error_or_changes_nothing(folder: Path) -> None:
    expected = contents(folder)
    for bit in range(0, 8 * (folder / INDEX).stat().st_size, 3):
        with flipped(folder / INDEX, bit):
            found = outcome(folder)
        assert isinstance(found, CheckpointError) or found == expected, f"bit {bit}"


@pytest.mark.parametrize(
    "value", [DELETE, None, 1, "x", [], [A], {}, True], ids=lambda v: str(v)[:9]
)
def test_weight_map_is_an_object(folder: Path, value: Any) -> None:
    change(folder, weight_map=value)
    assert "weight_map" in refusal(folder)


@pytest.mark.parametrize("value", [1, "x", [], True], ids=str)
def test_metadata_is_an_object(folder: Path, value: Any) -> None:
    change(folder, metadata=value)
    assert "metadata" in refusal(folder)


@pytest.mark.parametrize(
    "value", [0, -1, 1, 2**31, 2**63, 2**64 - 1, 1e30, 0.5, "160", None, [], {}, True], ids=str
)
def test_the_total_must_be_true(folder: Path, value: Any) -> None:
    change(folder, metadata={"total_size": value})
    assert "total_size" in refusal(folder)


@pytest.mark.parametrize("metadata", [DELETE, None, {}, {"total_parameters": 1}], ids=str)
def test_the_total_may_be_left_out(folder: Path, metadata: Any) -> None:
    expected = contents(folder)
    change(folder, metadata=metadata)
    assert contents(folder) == expected


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../model.safetensors", "../../etc/passwd", "/etc/passwd", "a/b", "./x",
        "sub/../x", "a\\b", "..\\x", "C:\\x", "a\0b", "\0", "a\nb", "a\x1b[31m", "\u202ex",
        "a" * 256, "\ud800", None, 1, True, 1.5, [], ["x"], {}, {"x": "y"},
    ],
    ids=ascii,
)  # fmt: skip
def test_a_shard_s_name_is_a_plain_file_name(folder: Path, name: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(folder, weight_map=index["weight_map"] | {A: name})
    assert "not a plain file name" in refusal(folder)


@pytest.mark.parametrize("name", ["absent.safetensors", FIRST.upper(), f" {FIRST}", f"{FIRST} "])
def test_a_shard_that_is_not_there_is_named(folder: Path, name: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(folder, weight_map=index["weight_map"] | {A: name})
    assert name in refusal(folder)


def test_swapped_shards(folder: Path) -> None:
    (folder / FIRST).rename(folder / "x")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "x").rename(folder / SECOND)
    assert "the index lists it in" in refusal(folder)


def test_one_shard_twice(folder: Path) -> None:
    shutil.copy(folder / FIRST, folder / SECOND)
    assert f"is in {SECOND}, and the index lists it in" in refusal(folder)


@pytest.mark.parametrize("changes", [{"dim": 4}, {"n_layers": 2}, {"vocab_size": 5}], ids=str)
def test_a_shard_of_another_model(folder: Path, tmp_path: Path, changes: dict[str, int]) -> None:
    config = tiny_config(**{**_sizes(), **changes})
    other = write_hf(tmp_path / "other", config, n_shards=2, tokenizer=False)
    shutil.copy(other / SECOND, folder / SECOND)
    refusal(folder)


def _sizes() -> dict[str, int]:
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size")
    return {name: getattr(SMALLEST, name) for name in names}


def test_a_tensor_in_the_file_that_the_index_lacks(folder: Path) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change(folder, weight_map={k: v for k, v in weight_map.items() if k != A})
    assert f"'{A}' is in {FIRST}, and the index lists it in nowhere" in refusal(folder)


def test_a_tensor_in_the_index_that_no_file_has(folder: Path) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change(folder, weight_map=weight_map | {"model.ghost": FIRST})
    assert "1 tensors are in none of the files, such as 'model.ghost'" in refusal(folder)


def test_a_tensor_listed_in_the_wrong_file(folder: Path) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change(folder, weight_map=weight_map | {A: SECOND})
    assert A in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / SECOND).unlink()
    assert f"1 of 2 files are missing, such as {SECOND}" in refusal(folder)


def test_neither_a_file_nor_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    assert f"holds neither model.safetensors nor {INDEX}" in refusal(folder)


def test_numbers_of_entries_are_bounded(folder: Path) -> None:
    change(folder, weight_map={f"t{i}": FIRST for i in range(1 << 14)} | {A: FIRST})
    assert "more than 16384" in refusal(folder)
    change(folder, weight_map={f"t{i}": f"{i}.safetensors" for i in range(257)})
    assert "names 257 files, more than 256" in refusal(folder)
    (folder / INDEX).write_text('{"weight_map":{' + ",".join(['"a":"b"'] * 1_000_000) + "}}")
    assert "more than 131072 values" in refusal(folder)
    (folder / INDEX).write_bytes(b" " * (16 << 20) + b"{}")
    assert "has 16777218 bytes, and at most 16777216" in refusal(folder)
