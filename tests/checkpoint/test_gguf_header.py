"""The GGUF header: whatever is wrong with it, a named error, and never other tensors."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from checkpoints_tiny import write_gguf
from codellama import checkpoint
from codellama.checkpoint import gguf_header
from codellama.checkpoint.files import open_file
from codellama.checkpoint.gguf_header import Array, Header
from codellama.errors import CheckpointError, CodeLlamaError, ConfigError
from hostile import Contents, contents, outcome, put, watch
from hostile_gguf import ARRAY, F32, F64, STRING, U32, Pair, array, model
from hostile_gguf_files import CASES, EMBD, METADATA, UP, extra, llama


def refusal(path: Path, data: bytes) -> str:
    """Our error for a file of these bytes; nothing but the file may be touched."""
    put(path, data)
    with watch() as watched:
        error = outcome(path)
    assert isinstance(error, CodeLlamaError), "this should have been refused"
    assert watched.others == []
    assert {Path(name) for name in watched.opened} <= {path}
    assert str(path) in str(error)
    assert len(str(error)) < 2000
    return str(error)


def test_the_hand_made_file_is_read(hand_made: Path, expected: Contents) -> None:
    """The other tests change one thing in it. The gguf package reads the same."""
    theirs = gguf.GGUFReader(hand_made)
    listed = {t.name: t for t in theirs.tensors}
    assert len(expected) == len(listed) == 12
    for ours, name in (("embed_tokens", EMBD), ("layers.0.mlp.up_proj", UP)):
        format, shape, data = expected[f"{ours}.weight"]
        assert format == listed[name].tensor_type.name
        assert shape == tuple(int(n) for n in listed[name].shape[::-1])
        assert data == listed[name].data.tobytes()
    header = Header(open_file(hand_made))
    for key, value in header.metadata.items():
        assert theirs.fields[key].contents() == pytest.approx(value)


def test_version_2_is_read(hand_made: Path, expected: Contents) -> None:
    put(hand_made, replace(model(), version=2).to_bytes())
    assert contents(hand_made) == expected


@pytest.mark.parametrize("alignment", [8, 64, 1 << 16])
def test_other_alignments_are_read(hand_made: Path, expected: Contents, alignment: int) -> None:
    file = replace(
        model().with_pair(Pair("general.alignment", U32, alignment)), alignment=alignment
    )
    put(hand_made, file.to_bytes())
    assert contents(hand_made) == expected


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    """Written by the gguf package."""
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {
        "uint8": 250, "int8": -100, "uint16": 60_000, "int16": -30_000, "uint32": 4_000_000_000,
        "int32": -2_000_000_000, "float32": 1e-5, "uint64": 2**63, "int64": -(2**62),
        "float64": 0.1,
    }  # fmt: skip
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", "naïve ☃")
    writer.add_array("strings", ["a", "", "▁☃"])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("ints", [1, -2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = Header(open_file(path))
    assert {key: header.metadata[key] for key in numbers} == numbers
    assert (header.metadata["yes"], header.metadata["no"]) == (True, False)
    assert header.metadata["text"] == "naïve ☃"
    assert header.strings("strings") == ["a", "", "▁☃"]
    assert header.numbers("floats").tolist() == [0.5, 1.5]
    assert header.numbers("ints").tolist() == [1, -2, 3]
    for key in ("ints", "text", "nothing"):
        with pytest.raises(CheckpointError, match=key):
            header.strings(key)
    for key in ("strings", "float32", "nothing"):
        with pytest.raises(CheckpointError, match=key):
            header.numbers(key)


@pytest.mark.parametrize("what", CASES)
def test_a_file_with_one_thing_wrong_is_refused(hand_made: Path, what: str) -> None:
    file, words = CASES[what]
    assert words in refusal(hand_made, file.to_bytes())


def test_tensors_may_lie_in_any_order(hand_made: Path, expected: Contents) -> None:
    file, at = model(), 0
    offsets = {}
    for t in reversed(file.tensors):
        offsets[t.name] = at
        at += len(t.data) + -len(t.data) % 32
    tensors = [replace(t, offset=offsets[t.name]) for t in file.tensors]
    whole = file.to_bytes()
    body = b"".join(t.data + bytes(-len(t.data) % 32) for t in reversed(file.tensors))
    put(hand_made, replace(file, tensors=tensors).to_bytes()[: len(whole) - len(body)] + body)
    assert contents(hand_made) == expected


@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_cannot_be_honoured_is_refused(hand_made: Path, what: str) -> None:
    file, words = METADATA[what]
    assert words in refusal(hand_made, file.to_bytes())


@pytest.mark.parametrize(
    "pair",
    [
        llama("expert_count", U32, 0),
        llama("rope.scaling.type", STRING, "none"),
        llama("rope.scaling.factor", F32, 1.0),
        llama("rope.scaling.original_context_length", U32, 4096),
        llama("tensor_data_layout", STRING, "Meta AI original pth"),
        llama("attention.key_length", U32, 2),
        Pair("split.count", U32, 0),
        Pair("general.file_type", U32, 0),
        Pair("general.tags", raw=array(STRING, ["code", "llama"])),
        Pair("mistral.block_count", U32, 99),
        Pair("tokenizer.chat_template", STRING, "{{ 1/0 }}"),
    ],
    ids=lambda pair: str(pair.key),
)
def test_metadata_that_changes_nothing_is_allowed(
    hand_made: Path, expected: Contents, pair: Pair
) -> None:
    put(hand_made, extra(pair).to_bytes())
    assert contents(hand_made) == expected


def test_a_missing_rotary_base_says_what_the_bases_are(hand_made: Path) -> None:
    put(hand_made, model().without("llama.rope.freq_base").to_bytes())
    error = outcome(hand_made)
    assert isinstance(error, ConfigError)
    assert "1000000" in str(error.hint)


def test_there_are_at_least_120_hand_made_cases() -> None:
    assert len(CASES) + len(METADATA) >= 280


# --- limits


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "strings of nothing": lambda n: array(STRING, [], n) + bytes(8 * n),
    "strings of one letter": lambda n: array(STRING, [], n) + (struct.pack("<Q", 1) + b"a") * n,
    "one long string": lambda n: struct.pack("<IQ", STRING, 8 * n) + b"x" * (8 * n),
    "wide letters": lambda n: struct.pack("<IQ", STRING, 8 * n) + "𝄞".encode() + b"a" * (8 * n - 4),
    "one long array": lambda n: array(F64, [], n) + bytes(8 * n),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_ends_in_an_error(hand_made: Path, what: str) -> None:
    """Each is as large as the limits allow; what comes behind it is damaged."""
    put(
        hand_made,
        extra(Pair("a", raw=HOSTILE[what](1 << 20)), Pair("b", raw=b"\xff" * 4)).to_bytes(),
    )
    assert isinstance(outcome(hand_made), CheckpointError)


@pytest.mark.parametrize(("what", "n"), [
    ("strings of nothing", 1 << 16), ("strings of one letter", 1 << 16),
    ("one long string", 1 << 20), ("wide letters", 1 << 20), ("one long array", 1 << 20),
])  # fmt: skip
def test_a_hostile_header_takes_little_memory(hand_made: Path, what: str, n: int) -> None:
    data = extra(Pair("a", raw=HOSTILE[what](n)), Pair("b", raw=b"\xff" * 4)).to_bytes()
    put(hand_made, data)
    tracemalloc.start()
    try:
        assert isinstance(outcome(hand_made), CheckpointError)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) + 4 * n + (56 << 20) * n // (1 << 20) + (4 << 20)


def test_the_strings_of_all_arrays_are_counted_together(hand_made: Path) -> None:
    half = array(STRING, [], (1 << 19) + 1) + bytes(8 * ((1 << 19) + 1))
    text = refusal(hand_made, extra(Pair("a", raw=half), Pair("b", raw=half)).to_bytes())
    assert "more than 1048576 strings" in text


def test_the_header_is_bounded(hand_made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "MAX_HEADER", 400)
    assert "does not end within 400 bytes" in refusal(hand_made, model().to_bytes())


def test_a_vocabulary_is_bounded_when_it_is_made(
    hand_made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hand_made, extra(Pair("a", raw=array(STRING, ["abc"] * 10))).to_bytes())
    header = Header(open_file(hand_made))
    array_there = header.metadata["a"]
    assert isinstance(array_there, Array)
    assert array_there.size == 110
    monkeypatch.setattr(gguf_header, "MAX_TEXT", 109)
    with pytest.raises(CheckpointError, match="more than 109"):
        header.strings("a")


def test_headers_longer_than_a_window_are_read(hand_made: Path, expected: Contents) -> None:
    """Strings and arrays lie across the places where more is read."""
    pieces = [f"piece {i}" * (i % 7) for i in range(60_000)]
    file = extra(
        Pair("a", raw=array(STRING, pieces)),
        Pair("b", raw=array(F64, [0.5] * 200_000)),
        Pair("c", STRING, "x" * 3_000_000),
        Pair("d", raw=array(STRING, pieces)),
    )
    put(hand_made, file.to_bytes())
    assert contents(hand_made) == expected
    header = Header(open_file(hand_made))
    assert header.strings("a") == header.strings("d") == pieces
    assert header.numbers("b").sum() == 100_000
    assert header.metadata["c"] == "x" * 3_000_000


# --- the reference


def library_refuses(path: Path) -> bool:
    """Whether the gguf package cannot make sense of a file."""
    try:
        reader = gguf.GGUFReader(path)
        for tensor in reader.tensors:
            gguf.dequantize(tensor.data, tensor.tensor_type)
    except Exception:
        return True
    return False


def test_what_the_library_refuses_we_refuse(hand_made: Path) -> None:
    """Never looser, over all files made here whose sizes the package can be asked about safely."""
    refused = 0
    for file, _ in (*CASES.values(), *METADATA.values()):
        data = file.to_bytes()
        if len(data) > 1 << 20 or any(n and n > 1 << 14 for n in (file.n_tensors, file.n_pairs)):
            continue
        if any(p.raw and p.raw[:4] == struct.pack("<I", ARRAY) for p in file.pairs):
            continue
        put(hand_made, data)
        if library_refuses(hand_made):
            refused += 1
            assert isinstance(outcome(hand_made), CodeLlamaError)
    assert refused > 20


def test_the_library_s_files_are_read(tmp_path: Path) -> None:
    for dtype in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
        path = write_gguf(tmp_path / f"{dtype}.gguf", dtype=dtype)
        by_library = {t.name: t for t in gguf.GGUFReader(path).tensors}
        found = dict(checkpoint.open(path).tensors())
        for ours, theirs in (("embed_tokens", EMBD), ("layers.0.mlp.up_proj", UP)):
            tensor = found[f"{ours}.weight"]
            assert tensor.format == by_library[theirs].tensor_type.name
            assert tensor.data.tobytes() == by_library[theirs].data.tobytes()
