"""Filling a hole in a file: what the model is shown, what is written, and where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Done, run

SCRIPTED = Path(__file__).parent / "scripted.py"
MIDDLE = {"pieces": ["x\n", "y"]}


def infill(script: dict[str, Any], *arguments: str | Path, stdin: str = "") -> Done:
    return run("infill", *arguments, stdin=stdin.encode(), script=script)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbfdef f():\r\n    return \r\n")
    path.chmod(0o640)
    return path


def test_only_the_middle_is_written(file: Path) -> None:
    before = file.read_bytes()
    done = infill(MIDDLE, file, "--at", "2", "--quiet")
    assert (done.code, done.out, done.err) == (0, b"x\ny", "")
    assert file.read_bytes() == before


def test_the_model_is_shown_what_stands_around(file: Path) -> None:
    done = infill({"echo": True}, file, "--at", "2:5")
    assert json.loads(done.out) == ["def f():\n    ", "return \n"]


def test_the_whole_is_the_file_as_it_would_be(file: Path) -> None:
    done = infill(MIDDLE, file, "--at", "2", "--whole")
    whole = b"\xef\xbb\xbfdef f():\r\n    return x\r\ny\r\n"
    assert done.out == whole
    written = infill(MIDDLE, file, "--at", "2", "--write")
    assert written.out == b"x\ny"
    assert "wrote" in written.err
    assert file.read_bytes() == whole
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["a.py"]


def test_json_has_the_middle_and_on_request_the_whole(file: Path) -> None:
    plain = json.loads(infill(MIDDLE, "--prefix", "a", "--suffix", "b", "--json").out)
    assert plain["text"] == "x\ny"
    assert "whole" not in plain
    whole = json.loads(infill(MIDDLE, file, "--at", "2", "--json", "--whole").out)
    assert (whole["text"], whole["whole"]) == (
        "x\ny",
        "\ufeffdef f():\r\n    return x\r\ny\r\n",
    )


def test_a_hole_in_a_text() -> None:
    for arguments in (("-",), ()):
        done = infill({"echo": True}, *arguments, stdin="a\r\n<FILL_ME>b")
        assert json.loads(done.out) == ["a\n", "b"]
    done = infill({"echo": True}, "--prefix", "a", "--suffix", "b")
    assert json.loads(done.out) == ["a", "b"]
    done = infill({"echo": True}, "--suffix", "b")
    assert json.loads(done.out) == ["", "b"]


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("9", "a.py has 3 lines, and --at names line 9"),
        ("1:10", "line 1 of {} has 8 characters, and --at names column 10"),
        ("0:1", "a.py has 3 lines, and --at names line 0"),
    ],
)
def test_a_place_outside_the_file_exits_1(file: Path, at: str, says: str) -> None:
    done = infill(MIDDLE, file, "--at", at, "--write")
    assert (done.code, done.out) == (1, b"")
    assert says.format(file) in done.err


def test_what_cannot_be_read_exits_1(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    for name, says in (
        ("no.py", "there is no such file"),
        ("latin.py", "is not UTF-8: byte 0xe9 at offset 5"),
        (".", "is not a regular file"),
    ):
        done = infill(MIDDLE, tmp_path / name, "--at", "1")
        assert done.code == 1
        assert says in done.err


def test_a_file_that_changes_while_the_middle_is_made_is_not_touched(
    file: Path, tmp_path: Path
) -> None:
    script = {"pieces": ["x", "y"], "gate": str(tmp_path / "gate")}
    with subprocess.Popen(
        [sys.executable, SCRIPTED, json.dumps(script), "infill", file, "--at", "1", "--write"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        file.write_bytes(b"mine now")
        (tmp_path / "gate").touch()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"changed while" in said
    assert file.read_bytes() == b"mine now"


def test_a_reply_that_failed_is_not_written(file: Path) -> None:
    before = file.read_bytes()
    done = infill(MIDDLE | {"finish": "error", "error": "no"}, file, "--at", "1", "--write")
    assert done.code == 1
    assert file.read_bytes() == before


def test_a_reply_that_was_cut_says_so(file: Path) -> None:
    done = infill(MIDDLE | {"finish": "length"}, file, "--at", "1", "--write", "--max-tokens", "2")
    assert done.code == 0
    assert "cut at --max-tokens 2" in done.err


def test_a_file_larger_than_the_context_is_trimmed_and_that_is_said(tmp_path: Path) -> None:
    big = tmp_path / "big.py"
    big.write_text("".join(f"line {i:03}\n" for i in range(100)))
    done = infill({"echo": True}, big, "--at", "51:1", "--max-tokens", "16")
    prefix, suffix = json.loads(done.out)
    # The scripted model counts characters and has a context of 256.
    assert len(prefix) + len(suffix) <= 256 - 16 - 4
    assert prefix.startswith("line ")
    assert prefix.endswith("line 049\n")
    assert suffix.startswith("line 050\n")
    assert suffix.endswith("\n")
    assert (
        f"left out {900 - len(prefix) - len(suffix)} tokens ({450 - len(prefix)} at the start, "
        f"{450 - len(suffix)} at the end): the context has 256"
    ) in done.err
    refused = infill(MIDDLE, big, "--at", "51:1", "--max-tokens", "16", "--no-trim")
    assert (refused.code, refused.out) == (1, b"")
    assert "has 900 tokens, and beside the answer there is room for 236" in refused.err


def test_a_trimmed_file_is_written_back_whole(tmp_path: Path) -> None:
    big = tmp_path / "big.py"
    big.write_text("".join(f"line {i:03}\n" for i in range(100)))
    before = big.read_text()
    done = infill({"pieces": ["new\n"]}, big, "--at", "51:1", "--write")
    assert done.code == 0
    assert big.read_text() == before[:450] + "new\n" + before[450:]
