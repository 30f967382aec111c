"""The GGUF header: whatever is wrong with it, a named error, and never other tensors."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from checkpoints_tiny import tiny_config, write_gguf
from codellama import checkpoint
from codellama.checkpoint import gguf_header
from codellama.checkpoint.files import open_file
from codellama.checkpoint.gguf_header import Array, Header
from codellama.errors import CheckpointError, CodeLlamaError, ConfigError
from codellama.quant.formats import Format
from hostile import Contents, contents, flipped, outcome, watch
from hostile_gguf import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    I64,
    STRING,
    U8,
    U32,
    U64,
    File,
    Listed,
    Pair,
    array,
    model,
)
from hostile_pth import put

EMBD, Q, UP = "token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"
BIG = [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(model().to_bytes())
    return path


@pytest.fixture
def expected(path: Path) -> Contents:
    return contents(path)


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


def test_the_hand_made_file_is_read(path: Path, expected: Contents) -> None:
    """The other tests change one thing in it. The gguf package reads the same."""
    theirs = gguf.GGUFReader(path)
    listed = {t.name: t for t in theirs.tensors}
    assert len(expected) == len(listed) == 12
    for ours, name in (("embed_tokens", EMBD), ("layers.0.mlp.up_proj", UP)):
        format, shape, data = expected[f"{ours}.weight"]
        assert format == listed[name].tensor_type.name
        assert shape == tuple(int(n) for n in listed[name].shape[::-1])
        assert data == listed[name].data.tobytes()
    header = Header(open_file(path))
    for key, value in header.metadata.items():
        assert theirs.fields[key].contents() == pytest.approx(value)


def test_version_2_is_read(path: Path, expected: Contents) -> None:
    put(path, replace(model(), version=2).to_bytes())
    assert contents(path) == expected


@pytest.mark.parametrize("alignment", [8, 64, 1 << 16])
def test_other_alignments_are_read(path: Path, expected: Contents, alignment: int) -> None:
    file = replace(
        model().with_pair(Pair("general.alignment", U32, alignment)), alignment=alignment
    )
    put(path, file.to_bytes())
    assert contents(path) == expected


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


# --- damage


def test_cut_anywhere_is_an_error(path: Path) -> None:
    for n in reversed(range(path.stat().st_size)):
        os.truncate(path, n)
        error = outcome(path)
        # The last bytes are padding, which files may lack.
        padding = len(model().to_bytes()) - n < 32 and not isinstance(error, Exception)
        assert padding or isinstance(error, CheckpointError), f"cut to {n} bytes"
        assert padding or str(path) in str(error)


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
    path: Path, expected: Contents
) -> None:
    check_flips(path, expected, 7)


@pytest.mark.slow
def test_any_flipped_header_bit_is_an_error_or_changes_nothing(
    path: Path, expected: Contents
) -> None:
    check_flips(path, expected, 1)


def test_a_data_bit_flipped_reaches_its_own_tensor_only(path: Path, expected: Contents) -> None:
    entries = Header(open_file(path)).entries.values()
    inside = {at for e in entries for at in range(e.offset, e.offset + e.count)}
    for at in range(len(model().header()), path.stat().st_size):
        with flipped(path, 8 * at + at % 8):
            found = outcome(path)
        if at in inside:
            assert not isinstance(found, Exception)
            assert len([name for name in expected if found[name] != expected[name]]) == 1
        else:
            assert "there should be only zeros" in str(found)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_ends_in_an_error_or_a_model(path: Path, seed: int) -> None:
    """Changed, doubled, dropped and zeroed stretches of the header."""
    rng = np.random.default_rng(seed)
    whole, n_header = path.read_bytes(), len(model().header())
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
        put(path, data)
        refused += isinstance(outcome(path), CodeLlamaError)
    assert refused > 200


# --- files by hand


def long_name(n: int) -> str:
    return "x" * n


def same_tensors(*changes: tuple[str, dict[str, Any]]) -> File:
    file = model()
    for name, change in changes:
        file = file.with_tensor(name, **change)
    return file


def extra(*pairs: Pair) -> File:
    file = model()
    return replace(file, pairs=[*file.pairs, *pairs])


def more(*tensors: Listed) -> File:
    file = model()
    return replace(file, tensors=[*file.tensors, *tensors])


X = Listed("x", (1,), 0, bytes(4))
CASES: dict[str, tuple[File, str]] = {
    # the first fields
    "no magic": (replace(model(), magic=b"GGUE"), "not a model file"),
    "the old magic": (replace(model(), magic=b"ggjt"), "not a model file"),
    "big endian": (replace(model(), version=3 << 24), "big-endian"),
    "big endian, version 2": (replace(model(), version=2 << 24), "big-endian"),
    **{f"version {n}": (replace(model(), version=n), f"version {n}")
       for n in (0, 1, 4, 5, 2**31, 2**32 - 1)},
    **{f"{n} tensors": (replace(model(), n_tensors=n), "tensors") for n in (1 << 14, *BIG)},
    **{f"{n} entries": (replace(model(), n_pairs=n), "entries") for n in (1 << 14, *BIG)},
    "one tensor more": (replace(model(), n_tensors=13), ""),
    "one tensor fewer": (replace(model(), n_tensors=11), ""),
    "one entry more": (replace(model(), n_pairs=13), ""),
    "one entry fewer": (replace(model(), n_pairs=11), ""),
    "no tensors": (replace(model(), tensors=[]), "no matrix token_embd.weight"),
    "no entries": (replace(model(), pairs=[]), "general.architecture"),
    # keys
    "a key twice": (extra(Pair("a"), Pair("a")), "'a' twice"),
    "a key twice, of two kinds": (extra(Pair("llama.block_count", F32, 1.0)), "twice"),
    "an empty key": (extra(Pair("")), "key ''"),
    "a key that is not UTF-8": (extra(Pair(b"\xff\xfe")), "UTF-8"),
    "a key too long": (extra(Pair("k" * ((1 << 16) + 1))), "bytes, more than"),
    # values
    **{f"type {n}": (extra(Pair("a", raw=struct.pack("<IQ", n, 0))), "unknown type")
       for n in (13, 14, 255, 2**31, 2**32 - 1)},
    **{f"a flag of {n}": (extra(Pair("a", raw=struct.pack("<IB", BOOL, n))), "neither true")
       for n in (2, 128, 255)},
    **{f"a string of {n} bytes": (extra(Pair("a", raw=struct.pack("<IQ", STRING, n) + b"abc")), "")
       for n in (1 << 20, 1 << 23, (1 << 23) + 1, *BIG)},
    "a string that is not UTF-8": (extra(Pair("a", STRING, b"\xc0\x80")), "UTF-8"),
    "half a surrogate pair": (extra(Pair("a", STRING, b"\xed\xa0\x80")), "UTF-8"),
    "more text than there may be": (
        extra(*(Pair(f"a{i}", STRING, "x" * (1 << 20)) for i in range(9))), "bytes of text"),
    # arrays
    "an array of arrays": (extra(Pair("a", raw=struct.pack("<IIQ", ARRAY, ARRAY, 0))), "arrays"),
    **{f"an array of type {n}": (extra(Pair("a", raw=struct.pack("<IIQ", ARRAY, n, 0))), "unknown")
       for n in (13, 255, 2**32 - 1)},
    **{f"an array of {n} {kind}": (extra(Pair("a", raw=array(kind, [], n))), "promises")
       for n in ((1 << 20) + 1, *BIG) for kind in (U8, F64, STRING, BOOL)},
    "an array past the end": (extra(Pair("a", raw=array(U64, [], 1000))), "promises"),
    "strings past the end": (
        extra(Pair("a", raw=array(STRING, [], 1) + struct.pack("<Q", 1 << 30))), "ends at byte"),
    "a string that wraps": (
        extra(Pair("a", raw=array(STRING, [], 2) + struct.pack("<QQ", 2**64 - 8, 1))), "ends at"),
    # alignment
    **{f"alignment {n}": (extra(Pair("general.alignment", U32, n)), "general.alignment")
       for n in (0, 1, 2, 4, 7, 12, 33, 48, 1 << 17, 1 << 31, 2**32 - 1)},
    "alignment as a 64-bit number": (
        extra(Pair("general.alignment", U64, 1 << 40)), "general.alignment"),
    "a negative alignment": (extra(Pair("general.alignment", I32, -32)), "general.alignment"),
    "alignment as a fraction": (extra(Pair("general.alignment", F32, 32.0)), "general.alignment"),
    "alignment as a flag": (extra(Pair("general.alignment", BOOL, 1)), "general.alignment"),
    "alignment as text": (extra(Pair("general.alignment", STRING, "32")), "general.alignment"),
    "alignment as an array": (
        extra(Pair("general.alignment", raw=array(U32, [32]))), "general.alignment"),
    "another alignment than there is": (extra(Pair("general.alignment", U32, 64)), ""),
    # tensors: names
    "a tensor twice": (more(model().tensors[0]), "twice"),
    "a tensor without a name": (more(replace(X, name="")), "tensor ''"),
    "a tensor's name too long": (more(replace(X, name=long_name(65))), "65 bytes"),
    "a name that is not UTF-8": (more(replace(X, name=b"\xff")), "UTF-8"),
    "a name with NUL": (more(replace(X, name="output.weight\0")), "\\x00"),
    "a path": (more(replace(X, name="../../etc/passwd")), "../../etc/passwd"),
    "an absolute path": (more(replace(X, name="/etc/passwd")), "/etc/passwd"),
    "an unknown tensor": (more(X), "has 1 tensor that"),
    "a bias": (more(replace(X, name="blk.0.attn_q.bias")), "attn_q.bias"),
    "an expert": (more(replace(X, name="blk.0.ffn_up.0.weight")), "ffn_up.0.weight"),
    "a layer too many": (more(replace(X, name="blk.1.attn_norm.weight")), "blk.1"),
    "a layer with a zero in front": (more(replace(X, name="blk.00.attn_norm.weight")), "blk.00"),
    "an Arabic layer": (more(replace(X, name="blk.٠.attn_norm.weight")), "has 1 tensor that"),
    "a Hugging Face name": (
        more(replace(X, name="layers.0.input_layernorm.weight")), "input_layernorm"),
    "another name": (same_tensors((Q, {"name": "blk.0.attn_x.weight"})), "q_proj"),
    "another case": (same_tensors((Q, {"name": Q.upper()})), "q_proj"),
    "two swapped names": (same_tensors((Q, {"name": "t"}), (EMBD, {"name": Q}),
                                       ("t", {"name": EMBD})), "have 2 rows"),
    # tensors: dimensions
    **{f"{n} dimensions": (same_tensors((Q, {"n_dims": n})), "dimensions")
       for n in (0, 5, 255, 2**31, 2**32 - 1)},
    "a dimension fewer": (same_tensors((Q, {"dims": (4,)})), "wrong shape"),
    "a dimension more": (same_tensors((Q, {"dims": (2, 2, 1)})), "wrong shape"),
    "four dimensions": (same_tensors((Q, {"dims": (2, 2, 1, 1)})), "wrong shape"),
    "a dimension of zero": (same_tensors((Q, {"dims": (0, 2)})), "shape"),
    "all dimensions zero": (same_tensors((Q, {"dims": (0, 0)})), "shape"),
    "turned round": (same_tensors((EMBD, {"dims": (3, 2)})), ""),
    **{f"a dimension of {n}": (same_tensors((Q, {"dims": (n, 2)})), "attn_q") for n in BIG},
    **{f"another dimension of {n}": (same_tensors((Q, {"dims": (2, n)})), "attn_q") for n in BIG},
    "dimensions whose product wraps to 4": (
        same_tensors((Q, {"dims": ((1 << 62) + 1, 4)})), "attn_q"),
    "dimensions whose product wraps to 0": (
        same_tensors((Q, {"dims": (1 << 32, 1 << 32)})), "attn_q"),
    "dimensions whose bytes wrap": (same_tensors((Q, {"dims": (1 << 62, 1)})), "attn_q"),
    # tensors: types
    **{f"type {kind.name}": (same_tensors((Q, {"kind": int(kind)})), f"stored as {kind.name}")
       for kind in gguf.GGMLQuantizationType
       if kind.name not in (*Format, "NVFP4", "Q1_0")},
    **{f"tensor type {n}": (same_tensors((Q, {"kind": n})), f"unknown type {n}")
       for n in (4, 5, 31, 99, 2**31, 2**32 - 1)},
    "half of its bytes": (same_tensors((Q, {"kind": 1})), "there should be only zeros"),
    "the other half": (same_tensors((Q, {"kind": 30})), "there should be only zeros"),
    **{f"a row that is no whole block of {format}": (
        same_tensors((Q, {"kind": int(gguf.GGMLQuantizationType[format])})),
        f"no whole number of {format} blocks of {format.block_size}")
       for format in Format if format.is_quantised},
    # tensors: where they lie
    **{f"at {n}": (same_tensors((Q, {"offset": n})), "no multiple of 32")
       for n in (1, 4, 31, 33, 2**31 - 1, 2**63 - 1, 2**64 - 1)},
    **{f"at {n}": (same_tensors((Q, {"offset": n})), "leave a gap")
       for n in (2**31, 2**32, 2**62, 2**63, 2**64 - 32)},
    "over another": (same_tensors((Q, {"offset": 0})), "overlap"),
    "over the next": (same_tensors((Q, {"offset": 96})), ""),
    "past the end": (same_tensors((Q, {"offset": 1 << 20})), "gap"),
    "all at the start": (replace(model(), tensors=[replace(t, offset=0)
                                                   for t in model().tensors]), "overlap"),
    "a gap": (same_tensors(("output.weight", {"offset": 32 * 20})), "gap"),
    "bytes behind": (replace(model(), tail=bytes(64)), "promises"),
    "bytes missing": (same_tensors(("output.weight", {"data": b""})), "promises"),
    "data that is not there": (replace(model(), tensors=[replace(t, data=b"")
                                                         for t in model().tensors]), "overlap"),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_a_file_with_one_thing_wrong_is_refused(path: Path, what: str) -> None:
    file, words = CASES[what]
    assert words in refusal(path, file.to_bytes())


def test_tensors_may_lie_in_any_order(path: Path, expected: Contents) -> None:
    file, at = model(), 0
    offsets = {}
    for t in reversed(file.tensors):
        offsets[t.name] = at
        at += len(t.data) + -len(t.data) % 32
    tensors = [replace(t, offset=offsets[t.name]) for t in file.tensors]
    whole = file.to_bytes()
    body = b"".join(t.data + bytes(-len(t.data) % 32) for t in reversed(file.tensors))
    put(path, replace(file, tensors=tensors).to_bytes()[: len(whole) - len(body)] + body)
    assert contents(path) == expected


def llama(key: str, kind: int = U32, value: Any = 0) -> Pair:
    return Pair(f"llama.{key}", kind, value)


NEEDED = [p.key for p in model().pairs if p.key not in (
    "general.name", "llama.attention.head_count_kv", "llama.rope.dimension_count",
    "llama.vocab_size")]  # fmt: skip
SIZES = ["block_count", "context_length", "embedding_length", "feed_forward_length",
         "attention.head_count", "attention.head_count_kv", "rope.dimension_count", "vocab_size",
         "attention.key_length", "attention.value_length"]  # fmt: skip
NUMBERS = ["rope.freq_base", "attention.layer_norm_rms_epsilon"]
METADATA: dict[str, tuple[File, str]] = {
    **{f"no {key}": (model().without(str(key)), str(key)) for key in NEEDED},
    **{f"{key} = {value}": (model().with_pair(llama(key, kind, value)), "")
       for key in SIZES
       for kind, value in ((U32, 0), (I32, -1), (U64, 2**31), (U64, 2**64 - 1), (I64, -(2**63)),
                           (F32, 2.0), (STRING, "2"), (BOOL, 1), (U32, 3))
       if (key, value) not in (("context_length", 3), ("vocab_size", 3))},
    **{f"{key} as an array": (
        model().with_pair(Pair(f"llama.{key}", raw=array(U32, [2]))), key) for key in SIZES},
    **{f"{key} = {value}": (model().with_pair(llama(key, kind, value)), "")
       for key in NUMBERS
       for kind, value in ((F32, 0.0), (F32, -1.0), (F32, float("nan")), (F32, float("inf")),
                           (F64, float("-inf")), (STRING, "1"), (BOOL, 1), (U32, 0))},
    "another architecture": (
        model().with_pair(Pair("general.architecture", STRING, "gpt2")), "'gpt2'"),
    "an architecture in capitals": (
        model().with_pair(Pair("general.architecture", STRING, "LLAMA")), "'LLAMA'"),
    "an architecture as a number": (model().with_pair(Pair("general.architecture", U32, 1)), "1"),
    "one part of several": (extra(Pair("split.count", U32, 3)), "one of 3 files"),
    "experts": (extra(llama("expert_count", U32, 8)), "llama.expert_count"),
    "experts in use": (extra(llama("expert_used_count", U32, 2)), "llama.expert_used_count"),
    "linear scaling": (extra(llama("rope.scaling.type", STRING, "linear")), "rope.scaling.type"),
    "yarn": (extra(llama("rope.scaling.type", STRING, "yarn")), "rope.scaling.type"),
    "a scaling factor": (extra(llama("rope.scaling.factor", F32, 4.0)), "rope.scaling.factor"),
    "the old scaling factor": (extra(llama("rope.scale_linear", F32, 0.25)), "rope.scale_linear"),
    "a scaling model": (extra(llama("rope.scaling.finetuned", BOOL, 1)), "scaling.finetuned"),
    "a sliding window": (extra(llama("attention.sliding_window", U32, 4096)), "sliding_window"),
    "no causal mask": (extra(llama("attention.causal", BOOL, 0)), "attention.causal"),
    "parallel residuals": (extra(llama("use_parallel_residual", BOOL, 1)), "use_parallel"),
    "a scale of logits": (extra(llama("logit_scale", F32, 0.5)), "logit_scale"),
    "an unknown key": (extra(llama("something.new", U32, 1)), "something.new"),
    "the name of the architecture alone": (extra(llama("", U32, 1)), "'llama.'"),
    "too many layers": (model().with_pair(llama("block_count", U32, 1 << 30)), "promises"),
    "heads that do not divide": (model().with_pair(llama("attention.head_count", U32, 3)), "3"),
}  # fmt: skip


@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_cannot_be_honoured_is_refused(path: Path, what: str) -> None:
    file, words = METADATA[what]
    assert words in refusal(path, file.to_bytes())


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
    path: Path, expected: Contents, pair: Pair
) -> None:
    put(path, extra(pair).to_bytes())
    assert contents(path) == expected


def test_a_missing_rotary_base_says_what_the_bases_are(path: Path) -> None:
    put(path, model().without("llama.rope.freq_base").to_bytes())
    error = outcome(path)
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
def test_a_hostile_header_ends_in_an_error(path: Path, what: str) -> None:
    """Each is as large as the limits allow; what comes behind it is damaged."""
    put(path, extra(Pair("a", raw=HOSTILE[what](1 << 20)), Pair("b", raw=b"\xff" * 4)).to_bytes())
    assert isinstance(outcome(path), CheckpointError)


@pytest.mark.parametrize(("what", "n"), [
    ("strings of nothing", 1 << 16), ("strings of one letter", 1 << 16),
    ("one long string", 1 << 20), ("wide letters", 1 << 20), ("one long array", 1 << 20),
])  # fmt: skip
def test_a_hostile_header_takes_little_memory(path: Path, what: str, n: int) -> None:
    data = extra(Pair("a", raw=HOSTILE[what](n)), Pair("b", raw=b"\xff" * 4)).to_bytes()
    put(path, data)
    tracemalloc.start()
    try:
        assert isinstance(outcome(path), CheckpointError)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) + 4 * n + (56 << 20) * n // (1 << 20) + (4 << 20)


def test_the_strings_of_all_arrays_are_counted_together(path: Path) -> None:
    half = array(STRING, [], (1 << 19) + 1) + bytes(8 * ((1 << 19) + 1))
    text = refusal(path, extra(Pair("a", raw=half), Pair("b", raw=half)).to_bytes())
    assert "more than 1048576 strings" in text


def test_the_header_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "MAX_HEADER", 400)
    assert "does not end within 400 bytes" in refusal(path, model().to_bytes())


def test_a_vocabulary_is_bounded_when_it_is_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, extra(Pair("a", raw=array(STRING, ["abc"] * 10))).to_bytes())
    header = Header(open_file(path))
    array_there = header.metadata["a"]
    assert isinstance(array_there, Array)
    assert array_there.size == 110
    monkeypatch.setattr(gguf_header, "MAX_TEXT", 109)
    with pytest.raises(CheckpointError, match="more than 109"):
        header.strings("a")


def test_headers_longer_than_a_window_are_read(path: Path, expected: Contents) -> None:
    """Strings and arrays lie across the places where more is read."""
    pieces = [f"piece {i}" * (i % 7) for i in range(60_000)]
    file = extra(
        Pair("a", raw=array(STRING, pieces)),
        Pair("b", raw=array(F64, [0.5] * 200_000)),
        Pair("c", STRING, "x" * 3_000_000),
        Pair("d", raw=array(STRING, pieces)),
    )
    put(path, file.to_bytes())
    assert contents(path) == expected
    header = Header(open_file(path))
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


def test_what_the_library_refuses_we_refuse(path: Path) -> None:
    """Never looser, over all files made here whose sizes the package can be asked about safely."""
    refused = 0
    for file, _ in (*CASES.values(), *METADATA.values()):
        data = file.to_bytes()
        if len(data) > 1 << 20 or any(n and n > 1 << 14 for n in (file.n_tensors, file.n_pairs)):
            continue
        if any(p.raw and p.raw[:4] == struct.pack("<I", ARRAY) for p in file.pairs):
            continue
        put(path, data)
        if library_refuses(path):
            refused += 1
            assert isinstance(outcome(path), CodeLlamaError)
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
