"""`.pth` archives: torch's own are read, every other is refused by name, damage is found."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama.checkpoint.stored_zip import MAX_DIRECTORY, MAX_MEMBERS
from codellama.checkpoint.unpickle import MAX_PICKLE
from codellama.errors import CheckpointError
from hostile_pth import (
    Archive,
    Part,
    number,
    pth_bytes,
    read,
    refusal,
    storage_id,
    table,
    tensor,
    text,
    tuple_of,
)

DATA = np.arange(6, dtype="<f4").tobytes()
PICKLE = table(a=tensor())


# --- archives by hand


def parts(**changes: Any) -> list[Part]:
    """The parts of a good archive; `changes` go to the storage's."""
    storage = Part("x/data/0", DATA)
    for key, value in changes.items():
        setattr(storage, key, value)
    return [Part("x/data.pkl", PICKLE), Part("x/byteorder", b"little"), storage]


def test_the_hand_made_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(Archive(parts()).to_bytes())
    assert read(path)["a"].read().tobytes() == DATA
    assert zipfile.ZipFile(path).read("x/data/0") == DATA


def zip64(*numbers: int) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


FULL = 0xFFFFFFFF
N = len(DATA)
GOOD = {
    "a data descriptor": parts(flags=8, local_size=0),
    "a UTF-8 name": parts(flags=1 << 11),
    "a comment on a member": parts(comment=b"hello"),
    "another extra field": parts(extra=struct.pack("<HH2s", 0x4246, 2, b"ZZ")),
    "an extra field in the local header": parts(local_extra=struct.pack("<HH2s", 0x4246, 2, b"ZZ")),
    "sizes in zip64": parts(size=FULL, stored=FULL, local_size=FULL, extra=zip64(N, N)),
    "one size in zip64": parts(size=FULL, stored=N, local_size=N, extra=zip64(N)),
    "no checksum": parts(crc=0),
    "other orders": parts()[::-1],
    "other versions of torch": [
        *parts(),
        Part("x/version", b"3\n"),
        Part("x/.format_version", b"1"),
        Part("x/.storage_alignment", b"64"),
        Part("x/.data/serialization_id", b"0" * 40),
    ],
    "the oldest version": [Part("archive/data.pkl", PICKLE), Part("archive/data/0", DATA)],
}


@pytest.mark.parametrize("what", GOOD)
def test_what_writers_differ_in_is_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.pth"
    for end_64 in (None, {}):
        path.write_bytes(Archive(GOOD[what], end_64=end_64).to_bytes())
        assert read(path)["a"].read().tobytes() == DATA


BIG = [FULL - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
DIRECTORY = Archive(parts()).to_bytes().index(b"PK\x01\x02")

ARCHIVES: dict[str, tuple[Archive, str]] = {
    # the end record
    "a comment": (Archive(parts(), comment=b"hello"), "does not end as a zip archive"),
    "a comment that is not there": (Archive(parts(), end={7: 5}), "does not end as a zip archive"),
    "bytes after the directory": (Archive(parts(), before_end=b"\0"), "should end at byte"),
    "bytes before the archive": (Archive(parts(), end={6: DIRECTORY - 1}), "should end at byte"),
    "another disk": (Archive(parts(), end={1: 1}), "over several files"),
    "a directory on another disk": (Archive(parts(), end={2: 1}), "over several files"),
    "members on other disks": (Archive(parts(), end={3: 1}), "over several files"),
    "one member fewer": (Archive(parts(), end={3: 2, 4: 2}), "bytes too many"),
    "one member more": (
        Archive(parts(comment=bytes(50)), end={3: 4, 4: 4}), "ends before member 3"),
    "no members": (Archive(()), "is an empty zip archive"),
    "members that are not there": (Archive(parts(), end={3: 0xFFFF, 4: 0xFFFF}), "should end at"),
    "a directory of another size": (Archive(parts(), end={5: 5}), "should end at byte"),
    "a directory past the end": (Archive(parts(), end={6: FULL - 1}), "should end at byte"),
    "a directory at the start": (Archive(parts(), end={6: 0}), "should end at byte"),
    # zip64's end record
    **{f"zip64: member count {n}": (Archive(parts(), end={3: 0xFFFF, 4: 0xFFFF},
        end_64={6: n, 7: n}), "") for n in BIG},
    **{f"zip64: directory size {n}": (Archive(parts(), end={5: FULL}, end_64={8: n}), "")
       for n in BIG},
    **{f"zip64: directory offset {n}": (Archive(parts(), end={6: FULL}, end_64={9: n}), "")
       for n in BIG},
    "zip64: counts disagree": (Archive(parts(), end_64={6: 2, 7: 2}), "disagree"),
    "zip64: offsets disagree": (Archive(parts(), end_64={9: 0}), "disagree"),
    "zip64: another record size": (Archive(parts(), end_64={1: 45}), "disagree"),
    "zip64: no record": (Archive(parts(), end_64={0: b"PK\6\5"}), "disagree"),
    "zip64: the locator points away": (Archive(parts(), end_64={}, locator={2: 0}), "locator"),
    "zip64: the locator points far away": (
        Archive(parts(), end_64={}, locator={2: (1 << 64) - 1}), "locator"),
    "zip64: a locator of two disks": (Archive(parts(), end_64={}, locator={3: 2}), "locator"),
    "zip64: no locator": (
        Archive(parts(), end={6: FULL}, end_64={}, locator={0: b"PK\6\x08"}), "should end at"),
    # a member in the directory
    "deflated": (Archive(parts(method=8)), "is compressed"),
    "compressed by LZMA": (Archive(parts(method=14)), "is compressed"),
    "of an unknown method": (Archive(parts(method=99)), "is compressed"),
    "encrypted": (Archive(parts(flags=1)), "is encrypted"),
    "strongly encrypted": (Archive(parts(flags=1 << 6)), "is encrypted"),
    "masked": (Archive(parts(flags=1 << 13)), "is encrypted"),
    "stored in fewer bytes": (Archive(parts(stored=N - 1, local_size=N)), "are stored"),
    "stored in more bytes": (Archive(parts(stored=N + 1, local_size=N)), "are stored"),
    "on another disk": (Archive(parts(disk=1)), "are stored"),
    "longer than its storage": (Archive(parts(size=N + 1)), "into the directory"),
    "as long as 32 bits allow": (Archive(parts(size=FULL - 1)), "have"),
    **{f"{n} bytes by zip64": (Archive(parts(size=FULL, stored=FULL, local_size=0,
        extra=zip64(n, n))), "") for n in BIG},
    **{f"{n} bytes stored by zip64": (Archive(parts(stored=FULL, local_size=0,
        extra=zip64(n))), "are stored") for n in BIG},
    **{f"at byte {n} by zip64": (Archive(parts(offset=FULL, extra=zip64(n))), "inside the file")
       for n in BIG},
    "zip64 sizes that are missing": (Archive(parts(size=FULL, stored=FULL, local_size=N)), "zip64"),
    "zip64 sizes cut short": (
        Archive(parts(size=FULL, stored=FULL, local_size=N, extra=zip64(N))), "zip64"),
    "zip64 sizes that nothing asks for": (Archive(parts(extra=zip64(N, N))), "zip64"),
    "zip64 sizes twice": (
        Archive(parts(size=FULL, stored=N, local_size=N, extra=zip64(N) * 2)), "extra field"),
    "an extra field cut short": (Archive(parts(extra=b"\1\0\5\0ab")), "extra field"),
    "an extra field of one byte": (Archive(parts(extra=b"\1")), "extra field"),
    # where it lies
    "past the directory": (Archive(parts(offset=DIRECTORY + 1)), "inside the file"),
    "past the end": (Archive(parts(offset=FULL - 1)), "inside the file"),
    "over the pickle": (Archive(parts(offset=0)), "overlap"),
    "inside the pickle": (Archive(parts(offset=3)), "overlap"),
    "inside its own header": (Archive(parts(offset=DIRECTORY - N - 8)), "inside the file"),
    "under another name there": (Archive(parts(local_name="x/data/1")), "damaged"),
    "under a longer name there": (Archive(parts(local_name="x/data/01")), "damaged"),
    "compressed there": (Archive(parts(local_method=8)), "disagrees"),
    "of another size there": (Archive(parts(local_size=N + 4)), "disagrees"),
    "with an extra field too long there": (Archive(parts(local_extra=b"\1\0\xff\xff")), "damaged"),
    # names
    "a name twice": (Archive([*parts(), Part("x/data/0", DATA)]), "twice"),
    "the pickle twice": (Archive([*parts(), Part("x/data.pkl", PICKLE)]), "twice"),
    "no name": (Archive([*parts(), Part("")]), "not one that torch.save wrote"),
    "two roots": (Archive([*parts(), Part("y/data.pkl", PICKLE)]), "not one that torch.save wrote"),
    "no root": (Archive([Part("data.pkl", PICKLE), Part("data/0", DATA)]), "torch.save wrote"),
    "no pickle": (Archive(parts()[1:]), "not one that torch.save wrote"),
    "the pickle deeper": (Archive([Part("x/y/data.pkl", PICKLE)]), "torch.save wrote"),
    "a root that climbs": (
        Archive([Part("../data.pkl", PICKLE), Part("../x", b"")]), "torch.save does not write"),
    "an absolute path": (Archive([*parts(), Part("/etc/passwd")]), "torch.save wrote"),
    "a path that climbs": (Archive([*parts(), Part("x/../../y")]), "does not write"),
    "a script's code": (Archive([*parts(), Part("x/code/__torch__.py")]), "does not write"),
    "a script's constants": (Archive([*parts(), Part("x/constants.pkl")]), "does not write"),
    "a second pickle": (Archive([*parts(), Part("x/data2.pkl", PICKLE)]), "does not write"),
    "a folder": (Archive([*parts(), Part("x/data/")]), "no tensor uses"),
    "another case": (Archive([*parts(), Part("x/DATA.PKL", PICKLE)]), "does not write"),
    "a storage of another case": (Archive([*parts(), Part("x/Data/0", DATA)]), "does not write"),
    "a storage too many": (Archive([*parts(), Part("x/data/1", DATA)]), "no tensor uses"),
    "a storage too few": (Archive(parts()[:2]), "is missing"),
    # contents
    "big endian": (
        Archive([parts()[0], Part("x/byteorder", b"big"), parts()[2]]), "byte order 'big'"),
    "an unknown byte order": (
        Archive([parts()[0], Part("x/byteorder", b""), parts()[2]]), "byte order ''"),
    "an endless byte order": (
        Archive([parts()[0], Part("x/byteorder", b"little" * 999), parts()[2]]), "byte order"),
    "a storage of the wrong size": (Archive(parts(data=DATA[:-1])), "need 24"),
    "a wrong checksum of the pickle": (
        Archive([Part("x/data.pkl", PICKLE, crc=1), *parts()[1:]]), "checksum"),
    "a pickle that is too large": (
        Archive([Part("x/data.pkl", bytes(MAX_PICKLE + 1)), *parts()[1:]]), "more than"),
}  # fmt: skip


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_with_one_thing_wrong_is_refused(tmp_path: Path, what: str) -> None:
    archive, words = ARCHIVES[what]
    found = refusal(tmp_path, archive.to_bytes()).replace("b'", "'")
    assert words in found


def test_a_wrong_checksum_is_found_when_the_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(Archive(parts(crc=zlib.crc32(DATA) ^ 1)).to_bytes())
    found = read(path)
    with pytest.raises(CheckpointError, match="checksum"):
        found["a"].read()


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    data = Archive(parts()).to_bytes().replace(b"x/data/0", b"x/data/\xff")
    assert "UTF-8" in refusal(tmp_path, data)


# --- bombs


def by_python(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("x/data.pkl", PICKLE + bytes(5_000_000))
        file.writestr("x/data/0", DATA)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_nothing_is_unpacked(tmp_path: Path, method: int) -> None:
    data = by_python(method)
    tracemalloc.start()
    try:
        assert "is compressed" in refusal(tmp_path, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_members_over_the_same_bytes_are_refused(tmp_path: Path) -> None:
    """One storage listed a thousand times, as in the densest bombs."""
    start = Archive(parts()[:2]).to_bytes().index(b"PK\x01\x02")
    many = [Part(f"x/data/{i}", DATA if i == 0 else b"", size=N, offset=start) for i in range(1000)]
    assert "overlap" in refusal(tmp_path, Archive([*parts()[:2], *many]).to_bytes())


def test_sizes_add_up_to_more_than_the_file(tmp_path: Path) -> None:
    huge = [Part(f"x/data/{i}", b"", size=1 << 20) for i in range(100)]
    assert "its members have" in refusal(tmp_path, Archive([*parts(), *huge]).to_bytes())


def test_a_small_file_cannot_become_a_large_model(tmp_path: Path) -> None:
    """A thousand tensors over one storage would be read a thousand times."""
    names = {f"t{i}": tensor() for i in range(1000)}
    assert "share their memory" in refusal(tmp_path, pth_bytes(table(**names), {"0": DATA}))


def test_the_number_of_members_is_bounded(tmp_path: Path) -> None:
    n = MAX_MEMBERS + 1
    many = Archive([Part(f"x/data/{i}") for i in range(n)]).to_bytes()
    assert f"lists {n} members" in refusal(tmp_path, many)
    long = Archive([Part(f"x/data/{i}", comment=bytes(60_000)) for i in range(80)]).to_bytes()
    assert f"in {MAX_DIRECTORY}" in refusal(tmp_path, long)


def test_a_million_members_are_refused_by_their_number(tmp_path: Path) -> None:
    n = 1 << 20
    entry = Archive([Part("x/data/0")]).to_bytes()
    entry = entry[entry.index(b"PK\x01\x02") : -22]
    archive = entry * n
    end_64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, n, n, len(archive), 30)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 30 + len(archive), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(archive), 30, 0)
    data = b"PK\x03\x04" + bytes(26) + archive + end_64 + locator + end
    assert f"lists {n} members" in refusal(tmp_path, data)


def test_twice_the_tensors_of_the_largest_model_are_read(tmp_path: Path) -> None:
    n = 1500
    one = tuple_of(number(1))
    storages = {str(i): struct.pack("<f", i) for i in range(n)}
    tensors = {
        f"t{i}": tensor(storage_id(key=text(key), count=number(1)) + b"Q", shape=one, strides=one)
        for i, key in enumerate(storages)
    }
    path = tmp_path / "x.pth"
    path.write_bytes(pth_bytes(table(**tensors), storages))
    found = read(path)
    assert [found[f"t{i}"].read().view("<f4")[0] for i in range(5)] == [0, 1, 2, 3, 4]
