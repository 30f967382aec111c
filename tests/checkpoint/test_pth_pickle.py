"""Pickles that are not tables of tensors end in an error, and nothing they ask for happens."""

from __future__ import annotations

import collections
import copyreg
import os
import pickle
import pickletools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codellama.checkpoint.files import open_file
from codellama.checkpoint.pth import read_tensors
from codellama.checkpoint.unpickle import MAX_PICKLE, View, read_pickle
from codellama.errors import CheckpointError
from hostile import watch
from hostile_pth import (
    number,
    pth_bytes,
    put,
    storage_id,
    symbol,
    table,
    tensor,
    text,
    tuple_of,
)

STORAGE = {"0": np.arange(6, dtype="<f4").tobytes()}
OURS = set(b"()}tXKMJqrhjcQRbsu.") | {0x80, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A}
OTHERS = [op for op in pickletools.opcodes if ord(op.code) not in OURS]

# What follows an opcode, where its argument is not a line of text.
ARGUMENTS = {
    "LONG4": b"\x01\0\0\0\x05", "SHORT_BINSTRING": b"\x01a", "BINSTRING": b"\x01\0\0\0a",
    "SHORT_BINBYTES": b"\x01a", "BINBYTES": b"\x01\0\0\0a", "BINBYTES8": b"\x01" + bytes(7) + b"a",
    "BYTEARRAY8": b"\x01" + bytes(7) + b"a", "SHORT_BINUNICODE": b"\x01a",
    "BINUNICODE8": b"\x01" + bytes(7) + b"a", "BINFLOAT": bytes(8), "EXT1": b"\x01",
    "EXT2": b"\x01\0", "EXT4": b"\x01\0\0\0", "FRAME": b"\x05" + bytes(7),
    "INST": b"os\nsystem\n", "PERSID": b"0\n", "STRING": b"'a'\n", "UNICODE": b"a\n",
    "INT": b"1\n", "LONG": b"1L\n", "FLOAT": b"1.0\n", "GET": b"0\n", "PUT": b"0\n",
}  # fmt: skip


def refusal(tmp_path: Path, data: bytes, storages: dict[str, bytes] | None = None) -> str:
    """Our error for a `.pth` file with this pickle; nothing but the file may be touched."""
    path = tmp_path / "x.pth"
    put(path, pth_bytes(data, STORAGE if storages is None else storages))
    with watch() as watched, open_file(path) as file, pytest.raises(CheckpointError) as caught:
        read_tensors(file)
    assert watched.others == []
    assert {Path(name) for name in watched.opened} <= {path}
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_hand_made_pickle_is_read(tmp_path: Path) -> None:
    """The other tests change one thing in it."""
    path = tmp_path / "x.pth"
    path.write_bytes(pth_bytes(table(a=tensor()), STORAGE))
    found = read_tensors(open_file(path))
    assert found["a"].read().tobytes() == STORAGE["0"]
    by_torch = torch.load(path, weights_only=True)
    assert by_torch["a"].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("op", OTHERS, ids=lambda op: op.name)
def test_every_other_opcode_is_refused(tmp_path: Path, op: pickletools.OpcodeInfo) -> None:
    """Whatever lies on the stack when it comes."""
    code = op.code.encode("latin-1") + ARGUMENTS.get(op.name, b"")
    for before in (b"", b"}", b"(", b"))", b"}(" + text("a") + tensor()):
        words = refusal(tmp_path, b"\x80\x02" + before + code + b".")
        assert "opcode" in words


def test_the_opcodes_are_counted() -> None:
    assert len(OURS) == 26
    assert len(OTHERS) == len(pickletools.opcodes) - 26 >= 42


@pytest.mark.parametrize("code", sorted(OURS - set(b")}(\x88\x89\x80")), ids=chr)
def test_an_opcode_that_lacks_its_operands_is_refused(tmp_path: Path, code: int) -> None:
    refusal(tmp_path, b"\x80\x02" + bytes([code]))
    refusal(tmp_path, b"\x80\x02" + bytes([code]) + b".")
    refusal(tmp_path, b"\x80\x02}(" + bytes([code]) + b".")  # nothing below a mark is taken


EVIL = [
    "os.system", "posix.system", "nt.system", "os.popen", "os.remove", "os.execv",
    "subprocess.Popen", "subprocess.check_output", "builtins.eval", "builtins.exec",
    "builtins.open", "builtins.__import__", "builtins.getattr", "builtins.dict", "builtins.set",
    "__builtin__.eval", "importlib.import_module", "runpy.run_path", "code.interact", "pty.spawn",
    "socket.create_connection", "webbrowser.open", "shutil.rmtree", "ctypes.CDLL",
    "pickle.loads", "_pickle.loads", "marshal.loads", "copyreg._reconstructor",
    "functools.partial", "operator.attrgetter", "types.CodeType", "types.FunctionType",
    "torch.load", "torch.hub.load", "torch.jit.load", "torch.serialization.load",
    "torch.storage._load_from_bytes", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor",
    "torch._tensor._rebuild_from_type_v2", "torch.DoubleStorage", "torch.IntStorage",
    "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.float32",
    "numpy.core.multiarray._reconstruct", "numpy.load", "collections.OrderedDict.fromkeys",
    "collections.defaultdict", "collections.Counter", "collections..OrderedDict",
    "torch._utils._rebuild_tensor_v2.__globals__", "torch.FloatStorage ", " torch.FloatStorage",
    "torch.\u0405torage", "a" * 300, ".", "torch.", ".FloatStorage", "\0.\0",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL, ids=lambda name: ascii(name[:40]))
def test_every_other_name_is_refused(tmp_path: Path, name: str) -> None:
    called = symbol(name) + tuple_of(text("touch " + str(tmp_path / "it-ran"))) + b"R"
    shown = refusal(tmp_path, table(a=called))
    assert "name" in shown or ascii(name)[1:-1][:40] in shown
    refusal(tmp_path, b"\x80\x02" + symbol(name) + b".")
    refusal(tmp_path, table(a=tensor(storage=storage_id(kind=symbol(name)) + b"Q")))
    assert not (tmp_path / "it-ran").exists()


class Calls:
    """What pickle itself makes of an object that wants a function called."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


class WithState:
    def __setstate__(self, state: object) -> None:
        raise AssertionError("this must not be called")


def nested(depth: int) -> object:
    value: object = Calls(os.system, "true")
    for _ in range(depth):
        value = Calls(getattr, value, "real")
    return value


REAL = {
    "system": lambda: Calls(os.system, "true"),
    "eval": lambda: {"a": Calls(eval, "1")},
    "open": lambda: {"a": Calls(open, "/etc/passwd")},
    "torch.load": lambda: {"a": Calls(torch.load, "/etc/passwd")},
    "in a key": lambda: {Calls(os.getpid): 1},
    "in a tuple": lambda: {"a": (1, (2, Calls(os.getpid)))},
    "nested": lambda: nested(30),
    "getattr of a module": lambda: Calls(getattr, Calls(__import__, "os"), "system"),
    "an object with state": lambda: {"a": WithState()},
    "a class": lambda: {"a": WithState},
    "a function": lambda: {"a": refusal},
    "a slice": lambda: {"a": slice(1)},
    "a set": lambda: {"a": {1}},
    "bytes": lambda: {"a": b"x"},
    "an array": lambda: {"a": np.zeros(3)},
    "a list": lambda: {"a": [1]},
    "a float": lambda: {"a": 1.5},
    "nothing": lambda: {"a": None},
    "a string": lambda: {"a": "x"},
    "a number": lambda: {"a": 1},
    "a flag": lambda: {"a": True},
    "a dictionary": lambda: {"a": {"b": 1}},
    "a tensor by itself": lambda: torch.zeros(2),
    "a parameter": lambda: {"a": torch.nn.Parameter(torch.zeros(2))},
    "OrderedDict of items": lambda: collections.OrderedDict([("a", 1)]),
    "just a number": lambda: 1,
    "just a tuple": lambda: (1, 2),
    "no tensor at all": lambda: "x",
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("what", REAL)
def test_what_pickle_writes_of_other_objects_is_refused(
    tmp_path: Path, what: str, protocol: int
) -> None:
    refusal(tmp_path, pickle.dumps(REAL[what](), protocol))


def test_extension_codes_are_refused(tmp_path: Path) -> None:
    copyreg.add_extension("posix", "system", 77)
    try:
        data = pickle.dumps(Calls(os.system, "true"), 2)
    finally:
        copyreg.remove_extension("posix", "system", 77)
    assert b"\x82\x4d" in data
    assert "opcode" in refusal(tmp_path, data)


ORDERED = symbol("collections.OrderedDict")
REBUILD = symbol("torch._utils._rebuild_tensor_v2")
FLOAT = symbol("torch.FloatStorage")

CALLS = {
    "a string": text("os.system") + b")R",
    "a number": number(1) + b")R",
    "a tuple": b"))R",
    "a dictionary": b"})R",
    "a tensor": tensor() + b")R",
    "a storage": storage_id() + b"Q)R",
    "a storage type": FLOAT + b")R",
    "a storage type with a size": FLOAT + tuple_of(number(1 << 40)) + b"R",
    "OrderedDict with items": ORDERED + tuple_of(b"}") + b"R",
    "OrderedDict with a dictionary for arguments": ORDERED + b"}R",
    "OrderedDict with a string for arguments": ORDERED + text("") + b"R",
    "the rebuilder with nothing": REBUILD + b")R",
    "the rebuilder with a string": REBUILD + text("abcdef") + b"R",
    "the rebuilder with a dictionary": REBUILD + b"}R",
    "OrderedDict of OrderedDict": ORDERED + tuple_of(ORDERED) + b"R",
    "the result of a call": ORDERED + b")R)R",
}


@pytest.mark.parametrize("what", CALLS)
def test_only_two_things_are_made(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, table(a=CALLS[what]))
    refusal(tmp_path, b"\x80\x02" + CALLS[what] + b".")


BUILDS = {
    "of a string": text("a") + b"}b",
    "of a tensor": tensor() + b"}b",
    "of a name": ORDERED + b"}b",
    "of a rebuilder": REBUILD + b"}(" + text("__code__") + number(1) + b"ub",
    "by a tuple": b"})b",
    "by a string": b"}" + text("x") + b"b",
    "with __class__": b"}}(" + text("__class__") + FLOAT + b"ub",
    "with __dict__": b"}}(" + text("__dict__") + b"}ub",
    "with one attribute too many": b"}}(" + text("_metadata") + b"}" + text("x") + b"}ub",
    "with slots": b"}" + tuple_of(b"}", b"}") + b"b",
}


@pytest.mark.parametrize("what", BUILDS)
def test_attributes_are_given_to_nothing(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, table(a=BUILDS[what]))
    refusal(tmp_path, b"\x80\x02" + BUILDS[what] + b".")


BIG = [(1 << 31) - 1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1]
IDS = {
    "a string": text("0"),
    "a number": number(0),
    "a dictionary": b"}",
    "a name": ORDERED,
    "a tensor": tensor(),
    "a storage": storage_id() + b"Q",
    "an empty tuple": b")",
    "four values": tuple_of(text("storage"), FLOAT, text("0"), text("cpu")),
    "six values": storage_id()[:-1] + b")t",
    "another word": tuple_of(text("module"), FLOAT, text("0"), text("cpu"), number(6)),
    "no word": tuple_of(number(0), FLOAT, text("0"), text("cpu"), number(6)),
    "a tuple for a word": tuple_of(b")", FLOAT, text("0"), text("cpu"), number(6)),
    "the type as a string": storage_id(kind=text("FloatStorage")),
    "another name as the type": storage_id(kind=ORDERED),
    "the key as a number": storage_id(key=number(0)),
    "the key as a tuple": storage_id(key=b")"),
    "a missing key": storage_id(key=text("1")),
    "an empty key": storage_id(key=text("")),
    "a key that climbs": storage_id(key=text("../data.pkl")),
    "an absolute key": storage_id(key=text("/etc/passwd")),
    "a key with NUL": storage_id(key=text("0\0")),
    "the location as a number": tuple_of(text("storage"), FLOAT, text("0"), number(0), number(6)),
    "the count as a string": storage_id(count=text("6")),
    "the count as a flag": storage_id(count=b"\x88"),
    "a negative count": storage_id(count=number(-6)),
    "no count": storage_id(count=number(0)),
    "one too few": storage_id(count=number(5)),
    "one too many": storage_id(count=number(7)),
    "a narrower type": storage_id(kind=symbol("torch.HalfStorage")),
    **{f"a count of {n}": storage_id(count=number(n)) for n in BIG},
}


@pytest.mark.parametrize("what", IDS)
def test_a_persistent_id_is_a_storage_of_the_archive(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, table(a=tensor(storage=IDS[what] + b"Q")))


def test_one_storage_has_one_description(tmp_path: Path) -> None:
    other = storage_id(kind=symbol("torch.HalfStorage"), count=number(12)) + b"Q"
    pair = tuple_of(number(1)), tuple_of(number(1))
    words = refusal(
        tmp_path,
        table(
            a=tensor(shape=pair[0], strides=pair[1]),
            b=tensor(storage=other, offset=number(5), shape=pair[0], strides=pair[1]),
        ),
    )
    assert "in two ways" in words


def sizes(*ns: int) -> bytes:
    return tuple_of(*map(number, ns))


TENSORS = {
    "no storage": {"storage": number(1)},
    "a storage type": {"storage": FLOAT},
    "a persistent id without the opcode": {"storage": storage_id()},
    "a negative offset": {"offset": number(-1)},
    "an offset as a flag": {"offset": b"\x88"},
    "an offset as a string": {"offset": text("0")},
    "an offset past the end": {"offset": number(1)},
    **{f"an offset of {n}": {"offset": number(n)} for n in BIG},
    "the shape as a number": {"shape": number(6)},
    "the shape as a dictionary": {"shape": b"}"},
    "the shape as a string": {"shape": text("ab")},
    "a shape of strings": {"shape": tuple_of(text("3"), text("2"))},
    "a shape of flags": {"shape": b"\x88\x88\x86"},
    "a shape of tuples": {"shape": b"))\x86"},
    "a shape without end": {"shape": sizes(*[1] * 1000)},
    "five dimensions": {"shape": sizes(1, 1, 1, 3, 2), "strides": sizes(6, 6, 6, 2, 1)},
    "a negative size": {"shape": sizes(-3, 2)},
    "two negative sizes": {"shape": sizes(-3, -2)},
    "a size of zero": {"shape": sizes(0, 2)},
    "one row too many": {"shape": sizes(4, 2)},
    "fewer strides": {"strides": sizes(1)},
    "more strides": {"strides": sizes(6, 2, 1)},
    "a negative stride": {"strides": sizes(-2, 1)},
    "a stride of zero": {"strides": sizes(0, 1)},
    "a transposed matrix": {"strides": sizes(1, 3)},
    "a stride past the end": {"strides": sizes(3, 1)},
    **{f"a size of {n}": {"shape": sizes(n, 2)} for n in BIG},
    **{f"a stride of {n}": {"strides": sizes(n, 1)} for n in BIG},
    "sizes whose product wraps": {"shape": sizes(1 << 62, 4), "strides": sizes(4, 1)},
    "a gradient flag of another kind": {"grad": number(0)},
    "hooks of another kind": {"hooks": b")"},
    "a hook": {"hooks": b"}(" + text("0") + ORDERED + b"u"},
    "a hook that is a call": {"hooks": ORDERED + tuple_of(b")") + b"R"},
    "one value more": {"more": b"}"},
    "three values more": {"more": b"}}}"},
}


@pytest.mark.parametrize("what", TENSORS)
def test_a_tensor_lies_inside_its_storage(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, table(a=tensor(**TENSORS[what])))


def test_a_stride_of_a_single_row_means_nothing(tmp_path: Path) -> None:
    """torch leaves odd strides where a dimension has one entry only."""
    path = tmp_path / "x.pth"
    data = table(a=tensor(shape=sizes(1, 6), strides=sizes(99, 1)))
    path.write_bytes(pth_bytes(data, STORAGE))
    with open_file(path) as file:
        assert read_tensors(file)["a"].read().tobytes() == STORAGE["0"]


def test_tensors_do_not_share_memory(tmp_path: Path) -> None:
    assert "share their memory" in refusal(tmp_path, table(a=tensor(), b=tensor()))
    row = {"shape": sizes(2), "strides": sizes(1)}
    for first, second in ((0, 1), (1, 0), (3, 4), (4, 4)):
        views = [tensor(offset=number(at), **row) for at in (first, second)]
        words = refusal(tmp_path, table(a=views[0], b=views[1]))
        assert "share their memory" in words


def test_every_storage_is_used(tmp_path: Path) -> None:
    words = refusal(tmp_path, table(a=tensor()), STORAGE | {"1": b"abcd"})
    assert "no tensor uses" in words
    assert "is missing" in refusal(tmp_path, table(a=tensor()), {})


SHAPES_OF_PICKLES = {
    "an item from below a mark": b"\x80\x02}" + text("a") + tensor() + b"(su.",
    "a tuple from below a mark": b"\x80\x02" + table(a=tensor())[2:-1] + text("a") + b"(\x86t.",
    "an attribute of the table": table(a=tensor())[:-1] + b"}(" + text("x") + b"}ub.",
    "nothing": b"",
    "protocol alone": b"\x80\x02",
    "protocol cut short": b"\x80",
    "no protocol": b"}.",
    "protocol twice": b"\x80\x02\x80\x02}.",
    "no end": table(a=tensor())[:-1],
    "more after the end": table(a=tensor()) + b".",
    "a second pickle": table(a=tensor()) * 2,
    "an empty stack": b"\x80\x02.",
    "two values": b"\x80\x02}}.",
    "a mark left over": b"\x80\x02(}.",
    "a mark at the end": b"\x80\x02}(.",
    "a table in a tuple": b"\x80\x02" + tuple_of(table(a=tensor())[2:-1]) + b".",
    "a key without a value": b"\x80\x02}(" + text("a") + b"u.",
    "items without a mark": b"\x80\x02}" + text("a") + tensor() + b"u.",
    "items in a tuple": b"\x80\x02)(" + text("a") + tensor() + b"u.",
    "an item in a tensor": b"\x80\x02" + tensor() + text("a") + b")s.",
    "an item in nothing": b"\x80\x02" + text("a") + b")s.",
    "a number as a key": b"\x80\x02}" + number(1) + tensor() + b"s.",
    "a tuple as a key": b"\x80\x02})" + tensor() + b"s.",
    "a dictionary as a key": b"\x80\x02}}" + tensor() + b"s.",
    "a tensor as a key": b"\x80\x02}" + tensor() + tensor() + b"s.",
    "a name as a key": b"\x80\x02}" + ORDERED + tensor() + b"s.",
    "a key twice": table(a=tensor())[:-2] + text("a") + tensor() + b"u.",
    "a key twice, apart": table(a=tensor())[:-1] + text("a") + tensor() + b"s.",
    "a value that was never put by": b"\x80\x02h\x05.",
    "a value put by too late": b"\x80\x02h\x05}q\x05.",
    "itself": b"\x80\x02}q\0" + text("a") + b"h\0s.",
    "a string beyond the end": b"\x80\x02X\xff\xff\xff\xff.",
    "a string cut short": b"\x80\x02X\x05\0\0\0abc",
    "a string that is not UTF-8": b"\x80\x02}" + text(b"\xff") + tensor() + b"s.",
    "half a surrogate pair": b"\x80\x02}" + text(b"\xed\xa0\x80") + tensor() + b"s.",
    "a number cut short": b"\x80\x02J\0\0",
    "a number of nine bytes": b"\x80\x02\x8a\x09" + bytes(9) + b".",
    "a number of 255 bytes": b"\x80\x02\x8a\xff" + bytes(255) + b".",
    "a name without an end": b"\x80\x02cos",
    "half a name": b"\x80\x02cos\n",
    "a name as long as the file": b"\x80\x02c" + b"a" * 100_000,
}


@pytest.mark.parametrize("what", SHAPES_OF_PICKLES)
def test_a_pickle_is_one_table_to_its_end(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, SHAPES_OF_PICKLES[what])


def test_a_table_may_carry_version_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    data = table(a=tensor())[:-1] + b"}(" + text("_metadata") + b"}ub."
    path.write_bytes(pth_bytes(data, STORAGE))
    assert list(read_tensors(open_file(path))) == ["a"]


def doubling(value: bytes, times: int) -> bytes:
    """A tuple that holds the same tuple twice, and so on: small here, endless if unfolded."""
    steps = (b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))
    return value + b"".join(steps)


BOMBS = {
    "doubled": doubling(b")", 200),
    "doubled as a key": b"}" + doubling(b")", 200) + b")s",
    "doubled as an id": doubling(b")", 200) + b"Q",
    "doubled as a call": ORDERED + doubling(b")", 200) + b"R",
    "doubled as a state": b"}" + doubling(b")", 200) + b"b",
    "doubled as a shape": tensor(shape=doubling(b")", 200)),
    "doubled as a storage key": storage_id(key=doubling(b")", 200)) + b"Q",
    "doubled in a state": b"}}(" + text("x") + doubling(b")", 200) + b"ub",
    "deep": b")" + b"\x85" * 100_000,
    "deep as hooks": tensor(hooks=b")" + b"\x85" * 100_000),
    "deep dictionaries": b"}" + (text("a") + b"}") * 30_000 + b"s" * 30_000,
    "wide": b"(" + b")" * 200_000 + b"t",
    "dictionaries": b"(" + b"}" * 250_000 + b"t",
    "marks": b"(" * 250_000,
    "memories": b")" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(50_000)),
    "far memories": b")" + b"".join(b"r" + i.to_bytes(4, "big") for i in range(50_000)),
    "keys": b"}(" + b"".join(text(f"{i:x}") + b")" for i in range(20_000)) + b"u",
    "numbers": b"(" + number((1 << 62) + 1) * 20_000 + b"t",
    "padding": b")" * (MAX_PICKLE + 1),
    "padding by far": b"\0" * (8 << 20),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_pickle_cannot_blow_up(tmp_path: Path, what: str) -> None:
    data = b"\x80\x02" + BOMBS[what] + b"."
    refusal(tmp_path, data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_pickle(data, "here")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert len(str(caught.value)) < 1000


def test_there_are_at_least_80_malicious_pickles() -> None:
    cases = [OTHERS, EVIL, REAL, CALLS, BUILDS, IDS, TENSORS, SHAPES_OF_PICKLES, BOMBS]
    assert sum(map(len, cases)) >= 250


def views(data: bytes) -> dict[str, View] | None:
    try:
        return read_pickle(data, "here")
    except CheckpointError:
        return None


TWO = table(a=tensor(), b=tensor(storage=storage_id(key=text("1")) + b"Q"))


def changed(rng: np.random.Generator, n_bytes: int) -> bytes:
    """The pickle of two tensors with up to `n_bytes` other bytes, often other opcodes."""
    data = bytearray(TWO)
    for at in rng.integers(2, len(data), rng.integers(1, n_bytes + 1)):
        data[at] = rng.choice([rng.integers(256), *OURS])
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_end_in_an_error_or_a_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert views(TWO) is not None
    survived = 0
    for _ in range(1500):
        data = changed(rng, 3)
        if rng.random() < 0.3:
            a, b = sorted(rng.integers(2, len(data), 2))
            data = data[:a] + data[a:b] * int(rng.integers(0, 3)) + data[b:]
        found = views(data)
        survived += found is not None
        for view in (found or {}).values():
            assert isinstance(view, View)
            assert all(type(n) is int and n >= 0 for n in (*view.shape, *view.strides, view.offset))
    assert survived < 1000


@pytest.mark.parametrize("seed", range(2))
def test_what_we_read_torch_reads_too_and_alike(tmp_path: Path, seed: int) -> None:
    """Never looser than `torch.load` with `weights_only`."""
    rng = np.random.default_rng(100 + seed)
    path = tmp_path / "x.pth"
    storages = {key: rng.normal(size=6).astype("<f4").tobytes() for key in "01"}
    accepted = 0
    for _ in range(600):
        put(path, pth_bytes(changed(rng, 1), storages))
        try:
            found = {
                name: t.read().view("<f4") for name, t in read_tensors(open_file(path)).items()
            }
        except CheckpointError:
            continue
        theirs = torch.load(path, weights_only=True, map_location="cpu")
        assert list(theirs) == list(found)
        for name, x in theirs.items():
            assert np.array_equal(x.reshape(-1).numpy(), found[name])
        accepted += 1
    assert accepted > 3


def test_what_torch_writes_of_a_module_is_read(tmp_path: Path) -> None:
    """A state dictionary is an OrderedDict that carries version numbers in an attribute."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    path = tmp_path / "x.pth"
    torch.save(module.state_dict(), path)
    found = read_tensors(open_file(path))
    assert found.keys() == module.state_dict().keys()
    for name, x in module.state_dict().items():
        assert found[name].shape == tuple(x.shape)
        assert found[name].read().tobytes() == x.numpy().tobytes()
