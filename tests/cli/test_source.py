"""A file as a place to fill in: positions, line ends, byte-order mark, writing back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from codellama.cli.source import Hole, SourceFile, decode, hole_in_text
from codellama.errors import PromptError, RequestError

BOM = b"\xef\xbb\xbf"


def write(tmp_path: Path, raw: bytes) -> SourceFile:
    path = tmp_path / "a.py"
    path.write_bytes(raw)
    return SourceFile.read(path)


@pytest.mark.parametrize(
    ("raw", "at", "prefix", "suffix"),
    [
        (b"ab\ncd\n", (1, 1), "", "ab\ncd\n"),
        (b"ab\ncd\n", (2, 2), "ab\nc", "d\n"),
        (b"ab\ncd\n", (2, 3), "ab\ncd", "\n"),
        (b"ab\ncd\n", (2, None), "ab\ncd", "\n"),
        (b"ab\ncd\n", (3, None), "ab\ncd\n", ""),
        (b"ab\r\ncd\r\n", (1, None), "ab", "\r\ncd\r\n"),
        (b"ab\r\ncd\r\n", (2, 1), "ab\r\n", "cd\r\n"),
        ("é😀x\n".encode(), (1, 3), "é😀", "x\n"),
        (b"", (1, 1), "", ""),
        (BOM + b"ab", (1, 1), "\ufeff", "ab"),
        (BOM + b"ab", (1, 2), "\ufeffa", "b"),
    ],
)
def test_a_hole_is_before_its_character(
    tmp_path: Path, raw: bytes, at: tuple[int, int | None], prefix: str, suffix: str
) -> None:
    hole = write(tmp_path, raw).hole_at(*at)
    assert (hole.prefix, hole.suffix) == (prefix, suffix)


def test_the_model_sees_neither_mark_nor_carriage_returns(tmp_path: Path) -> None:
    hole = write(tmp_path, BOM + b"a\r\nb\r\nc\n").hole_at(2, 1)
    assert (hole.model_prefix, hole.model_suffix) == ("a\n", "b\nc\n")


@pytest.mark.parametrize(
    ("raw", "newline"),
    [(b"a\nb\n", "\n"), (b"a\r\nb\r\n", "\r\n"), (b"a\r\nb\nc\n", "\n"), (b"a", "\n")],
)
def test_new_lines_end_as_most_of_the_file(tmp_path: Path, raw: bytes, newline: str) -> None:
    hole = write(tmp_path, raw).hole_at(1, 1)
    assert hole.filled("x\ny") == f"x{newline}y" + raw.decode()


def test_line_ends_are_the_same_piece_by_piece() -> None:
    hole = Hole(prefix="", suffix="", newline="\r\n")
    text = "a\r\nb\nc"
    assert "".join(hole.in_file(char) for char in text) == hole.in_file(text) == "a\r\nb\r\nc"


def test_a_line_that_is_not_there_is_named_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a\.py has 3 lines, and --at names line 4"):
        write(tmp_path, b"ab\ncd\n").hole_at(4, 1)


def test_a_column_that_is_not_there_is_named_with_the_length(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"line 2 of .*a\.py has 2 characters.* column 4"
    ) as error:
        write(tmp_path, b"ab\r\ncd\r\n").hole_at(2, 4)
    assert error.value.hint is not None
    assert "to 3" in error.value.hint


@pytest.mark.parametrize("line", [0, -1])
def test_lines_count_from_one(tmp_path: Path, line: int) -> None:
    with pytest.raises(RequestError, match="lines"):
        write(tmp_path, b"ab\ncd\n").hole_at(line, 1)


def test_bytes_that_are_not_utf8_are_named_by_offset() -> None:
    with pytest.raises(PromptError, match=r"a\.py: is not UTF-8: byte 0xe9 at offset 3"):
        decode(b"caf\xe9", "a.py")


def test_reading_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="there is no such file"):
        SourceFile.read(tmp_path / "no.py")
    with pytest.raises(PromptError, match="is not a regular file"):
        SourceFile.read(tmp_path)


@pytest.mark.parametrize("raw", [b"a\r\nb\r\n", BOM + b"a\nb", b"a\nb\r\n\rc\x00\xc2\x85"])
def test_writing_an_empty_middle_back_changes_no_byte(tmp_path: Path, raw: bytes) -> None:
    file = write(tmp_path, raw)
    file.replace(file.hole_at(2, 1).filled(""))
    assert file.path.read_bytes() == raw


def test_writing_keeps_the_mode_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = write(tmp_path, b"a\n")
    file.path.chmod(0o750)
    file = SourceFile.read(file.path)
    file.replace("b\n")
    assert file.path.read_bytes() == b"b\n"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_writing_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    write(tmp_path, b"a\n")
    (tmp_path / "link.py").symlink_to("a.py")
    SourceFile.read(tmp_path / "link.py").replace("b\n")
    assert (tmp_path / "link.py").is_symlink()
    assert (tmp_path / "a.py").read_bytes() == b"b\n"


@pytest.mark.parametrize("by_rename", [False, True])
def test_a_file_that_changed_meanwhile_is_not_touched(tmp_path: Path, by_rename: bool) -> None:
    file = write(tmp_path, b"a\n")
    if by_rename:  # as editors save; here even with the old size and time
        (tmp_path / "new").write_bytes(b"z\n")
        found = file.path.stat()
        os.utime(tmp_path / "new", ns=(found.st_atime_ns, found.st_mtime_ns))
        (tmp_path / "new").rename(file.path)
    else:
        file.path.write_bytes(b"zz\n")
    now = file.path.read_bytes()
    with pytest.raises(RequestError, match="changed while"):
        file.replace("b\n")
    assert file.path.read_bytes() == now
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_a_failed_write_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, b"a\n")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left on device; it was not touched"):
        file.replace("b\n")
    assert file.path.read_bytes() == b"a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_the_one_marker_is_the_hole() -> None:
    hole = hole_in_text("a<FILL_ME>b", "standard input")
    assert (hole.prefix, hole.suffix) == ("a", "b")


@pytest.mark.parametrize(("text", "found"), [("ab", "no"), ("a<FILL_ME>b<FILL_ME>", "2")])
def test_none_or_two_markers_are_refused(text: str, found: str) -> None:
    with pytest.raises(PromptError, match=f"standard input has {found} <FILL_ME>"):
        hole_in_text(text, "standard input")
