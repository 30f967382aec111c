"""Pickles that ask for more than a table of tensors, by what they ask for."""

from __future__ import annotations

import pickletools

from codellama.checkpoint.unpickle import MAX_PICKLE
from hostile_pth import number, storage_id, symbol, table, tensor, text, tuple_of

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
