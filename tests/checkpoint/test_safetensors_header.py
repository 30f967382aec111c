"""The safetensors header: whatever is wrong with it, a named error, and never other tensors."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors

from checkpoints_tiny import tiny_weights, write_hf
from codellama.checkpoint import safetensors as ours
from codellama.checkpoint.files import open_file
from codellama.checkpoint.safetensors import read_header
from codellama.errors import CheckpointError
from hostile import (
    SMALLEST,
    Contents,
    contents,
    flipped,
    outcome,
    safetensors_bytes,
    split_safetensors,
)

A, B = "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture(scope="module", params=["F32", "BF16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(
        tmp_path_factory.mktemp("smallest"), SMALLEST, dtype=request.param, tokenizer=False
    )


@pytest.fixture
def file(folder: Path) -> Any:
    """The weights' file, put back after the test."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Contents:
    found = contents(folder)
    assert len(found) == len(SMALLEST.tensor_shapes())
    return found


def test_the_library_s_files_are_read(folder: Path, expected: Contents) -> None:
    weights = tiny_weights(SMALLEST)
    by_library = dict(safetensors.deserialize((folder / "model.safetensors").read_bytes()))
    for name, (_, shape, data) in expected.items():
        entry = by_library[name if name.startswith("lm_head") else f"model.{name}"]
        assert (tuple(entry["shape"]), bytes(entry["data"])) == (shape, data)
        assert weights[name].shape == shape


def test_cut_anywhere_is_an_error(file: Path) -> None:
    for n in reversed(range(file.stat().st_size)):
        os.truncate(file, n)
        error = outcome(file.parent)
        assert isinstance(error, CheckpointError), f"cut to {n} bytes"
        assert file.name in str(error)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_any_header_bit_flipped_is_an_error_or_changes_nothing(
    file: Path, expected: Contents, step: int
) -> None:
    whole = file.read_bytes()
    n_header = 8 + int.from_bytes(whole[:8], "little")
    harmless = set()
    for bit in range(0, 8 * n_header, step):
        with flipped(file, bit):
            found = outcome(file.parent)
        if not isinstance(found, Exception):
            assert found == expected, f"bit {bit}"
            harmless.add(bit // 8)
    # Only the text inside `__metadata__`, which means nothing to the tensors, may take a flip.
    begin = whole.index(b"{", whole.index(b"__metadata__"))
    assert harmless <= set(range(begin, whole.index(b"}", begin)))


def test_a_data_bit_flipped_reaches_its_own_tensor_only(file: Path, expected: Contents) -> None:
    """The format has no checksum: the numbers differ, and nothing else may."""
    size = file.stat().st_size
    for at in range(8 + int.from_bytes(file.read_bytes()[:8], "little"), size):
        with flipped(file, 8 * at + 4):
            found = outcome(file.parent)
        assert not isinstance(found, Exception)
        changed = [name for name in expected if found[name] != expected[name]]
        assert len(changed) == 1
        assert found.keys() == expected.keys()


BIG = [2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 10**19]
NOT_COUNTS: list[Any] = [None, True, "2", 1.0, -1, [2], {}, -(2**63), 1e30]

# (which key of the first entry, the value that replaces it)
ENTRY_CASES = [
    *(("dtype", v) for v in ["", "f32", "F32 ", "F64", "I32", "U8", "F4", "F", None, 32, [], {}]),
    *(("shape", v) for v in [None, 6, "32", {}, [], [3], [3, 3], [2, 3, 1], [3, 2, 2], [0, 2]]),
    *(("shape", [n, 2]) for n in NOT_COUNTS + BIG),
    *(("shape", [2**32, 2**32]) for _ in "1"),
    *(("shape", [1] * 9 + [3, 2]) for _ in "1"),
    *(("data_offsets", v) for v in [None, 0, "0", {}, [], [0], [0, 24, 24], [24, 0], [0, 25]]),
    *(("data_offsets", [n, 24]) for n in NOT_COUNTS + BIG if n != 0),
    *(("data_offsets", [0, n]) for n in NOT_COUNTS + BIG),
    *(("data_offsets", [n - 24, n]) for n in BIG),
]
WHOLE_ENTRIES = [None, 1, "x", [], [1], {}, {"dtype": "F32"}, True, 1.5]


@pytest.fixture(scope="module")
def f32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("f32"), SMALLEST, tokenizer=False)


def refusal(folder: Path, raw: bytes) -> str:
    """Writes the weights' file anew; our error's text. The library may not accept less than us."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(raw)
        error = outcome(folder)
    finally:
        path.write_bytes(whole)
    assert isinstance(error, CheckpointError), "this should have been refused"
    assert "safetensors" in str(error) or str(folder) in str(error)
    return str(error)


@pytest.mark.parametrize(("key", "value"), ENTRY_CASES, ids=lambda v: str(v)[:24])
def test_a_field_that_cannot_be_is_named(f32_folder: Path, key: str, value: Any) -> None:
    header, data = split_safetensors((f32_folder / "model.safetensors").read_bytes())
    header[A][key] = value
    assert "embed_tokens" in refusal(f32_folder, safetensors_bytes(header, data))


@pytest.mark.parametrize("value", WHOLE_ENTRIES, ids=str)
def test_an_entry_of_the_wrong_kind_is_named(f32_folder: Path, value: Any) -> None:
    header, data = split_safetensors((f32_folder / "model.safetensors").read_bytes())
    assert A in refusal(f32_folder, safetensors_bytes(header | {A: value}, data))


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_an_entry_has_three_keys(f32_folder: Path, key: str) -> None:
    header, data = split_safetensors((f32_folder / "model.safetensors").read_bytes())
    less = {k: v for k, v in header[A].items() if k != key}
    for entry in (less, header[A] | {"extra": 1}, less | {key.upper(): 1}):
        assert A in refusal(f32_folder, safetensors_bytes(header | {A: entry}, data))


@pytest.mark.parametrize(
    "metadata", [None, 1, "x", [], {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": ["b"]}], ids=str
)
def test_metadata_is_an_object_of_strings(f32_folder: Path, metadata: Any) -> None:
    header, data = split_safetensors((f32_folder / "model.safetensors").read_bytes())
    text = refusal(f32_folder, safetensors_bytes(header | {"__metadata__": metadata}, data))
    assert "__metadata__" in text


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, *BIG[:-1]])
def test_a_header_length_that_cannot_be(f32_folder: Path, length: int) -> None:
    raw = (f32_folder / "model.safetensors").read_bytes()
    refusal(f32_folder, length.to_bytes(8, "little") + raw[8:])


def spans(*pairs: tuple[int, int]) -> dict[str, Any]:
    return {
        f"t{i}": {"dtype": "U8", "shape": [max(0, end - begin)], "data_offsets": [begin, end]}
        for i, (begin, end) in enumerate(pairs)
    }


@pytest.mark.parametrize(
    ("pairs", "size", "words"),
    [
        ([(0, 4), (2, 6)], 6, "overlap"),
        ([(0, 4), (0, 4)], 4, "overlap"),
        ([(0, 4), (0, 8)], 8, "overlap"),
        ([(0, 4), (5, 8)], 8, "gap"),
        ([(1, 4)], 4, "gap"),
        ([(0, 0), (1, 4)], 4, "gap"),
        ([(0, 4)], 5, "promises"),
        ([(0, 4), (4, 8)], 7, "ends at byte"),
        ([], 1, "promises"),
    ],
)
def test_spans_fill_the_file(
    tmp_path: Path, pairs: list[tuple[int, int]], size: int, words: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(spans(*pairs), bytes(size)))
    with open_file(path) as file, pytest.raises(CheckpointError, match=words):
        read_header(file)


def test_spans_in_any_order_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(spans((4, 8), (0, 4), (0, 0), (8, 9)), bytes(9)))
    with open_file(path) as file:
        assert [entry.count for entry in read_header(file).values()] == [0, 4, 4, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not safetensors"),
        (b"[]", "not safetensors"),
        (b'"x"', "not safetensors"),
        (b"null", "not safetensors"),
        (b" {}", "not safetensors"),
        (b"\xef\xbb\xbf{}", "not safetensors"),
        ("{}".encode("utf-16-le"), "not JSON"),
        (b'{"\xff": 1}', "UTF-8"),
        (b'{"\xc0\x80": 1}', "UTF-8"),
        (b'{"\xed\xa0\x80": 1}', "UTF-8"),
        (b"{", "not safetensors"),
        (b"{}x", "not JSON"),
        (b"{}\x00", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": -Infinity}', "not finite"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "too long"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": {"dtype": 1, "dtype": 1}}', "twice"),
        (b'{"a": 1, "\\u0061": 1}', "twice"),
        (b'{"__metadata__": {}, "__metadata__": {}}', "twice"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "deeper"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper"),
        (b'{"a":' + b"[" * 100_000, "deeper"),
        (b'{"a":[' + b"1," * (1 << 19) + b"1]}", "more than 131072 values"),
        (b'{"a":"' + b"[" * 50 + b'"}', "expected an object"),
        (b'{"a":"\\"' + b"[" * 50 + b'"}', "expected an object"),
    ],
    ids=lambda v: str(v)[:24],
)
def test_a_header_that_is_not_strict_json(f32_folder: Path, text: bytes, words: str) -> None:
    assert words in refusal(f32_folder, safetensors_bytes(text, bytes(8)))


def test_the_number_of_tensors_is_bounded(
    f32_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "MAX_TENSORS", 11)
    raw = (f32_folder / "model.safetensors").read_bytes()
    assert "lists 12 tensors, more than 11" in refusal(f32_folder, raw)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[' + b"0," * (1 << 17) + b"0]}",
        b"{" + b",".join(b'"%d":{}' % i for i in range(1 << 17)) + b"}",
        b'{"a":"' + b"\\u1234" * (2 << 20) + b'"}',
        b"{" + b" " * ((16 << 20) - 3) + b"}",
        b'{"a":' + b"[" * ((16 << 20) - 6),
        b"{" + b'"' * ((16 << 20) - 1),
    ],
    ids=["numbers", "objects", "escapes", "spaces", "brackets", "quotes"],
)
def test_a_hostile_header_takes_little_memory(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(text, b"x"))
    tracemalloc.start()
    try:
        with open_file(path) as file, pytest.raises(CheckpointError):
            read_header(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = path.stat().st_size + (64 << 20)
    assert peak <= allowed


def library_refuses(raw: bytes) -> bool:
    try:
        safetensors.deserialize(raw)
    except safetensors.SafetensorError:
        return True
    return False


def test_what_the_library_refuses_we_refuse(file: Path) -> None:
    """Never looser: over a sample of flipped bits, header fields and lengths."""
    whole = file.read_bytes()
    n_header = 8 + int.from_bytes(whole[:8], "little")
    header, data = split_safetensors(whole)
    variants = [
        whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(n_header)
    ]
    for key, value in ENTRY_CASES:
        changed = json.loads(json.dumps(header))
        changed[B][key] = value
        variants.append(safetensors_bytes(changed, data))
    refused = [raw for raw in variants if library_refuses(raw)]
    assert len(refused) > len(variants) // 2
    for raw in refused:
        file.write_bytes(raw)
        assert isinstance(outcome(file.parent), CheckpointError)


def test_there_are_at_least_120_hand_made_cases() -> None:
    cases = [ENTRY_CASES, WHOLE_ENTRIES]
    assert sum(map(len, cases)) >= 80  # and some 90 more in the tests above and of the index
