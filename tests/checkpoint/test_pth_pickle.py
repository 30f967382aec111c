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

import hostile_pth
from codellama.checkpoint.files import open_file
from codellama.checkpoint.pth import read_tensors
from codellama.checkpoint.unpickle import View, read_pickle
from codellama.errors import CheckpointError
from hostile import put
from hostile_pickles import (
    ARGUMENTS,
    BOMBS,
    BUILDS,
    CALLS,
    EVIL,
    IDS,
    OTHERS,
    OURS,
    SHAPES_OF_PICKLES,
    TENSORS,
    sizes,
)
from hostile_pth import number, pth_bytes, storage_id, symbol, table, tensor, text, tuple_of

STORAGE = {"0": np.arange(6, dtype="<f4").tobytes()}


def refusal(tmp_path: Path, data: bytes, storages: dict[str, bytes] | None = None) -> str:
    """Our error for a `.pth` file with this pickle; nothing but the file may be touched."""
    return hostile_pth.refusal(tmp_path, pth_bytes(data, STORAGE if storages is None else storages))


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


@pytest.mark.parametrize("what", CALLS)
def test_only_two_things_are_made(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, table(a=CALLS[what]))
    refusal(tmp_path, b"\x80\x02" + CALLS[what] + b".")


@pytest.mark.parametrize("what", BUILDS)
def test_attributes_are_given_to_nothing(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, table(a=BUILDS[what]))
    refusal(tmp_path, b"\x80\x02" + BUILDS[what] + b".")


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


@pytest.mark.parametrize("what", SHAPES_OF_PICKLES)
def test_a_pickle_is_one_table_to_its_end(tmp_path: Path, what: str) -> None:
    refusal(tmp_path, SHAPES_OF_PICKLES[what])


def test_a_table_may_carry_version_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    data = table(a=tensor())[:-1] + b"}(" + text("_metadata") + b"}ub."
    path.write_bytes(pth_bytes(data, STORAGE))
    assert list(read_tensors(open_file(path))) == ["a"]


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
