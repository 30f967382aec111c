"""What a model writes cannot drive a terminal, and reaches a file unchanged."""

from __future__ import annotations

import io
import unicodedata
from argparse import Namespace

import pytest

from codellama.cli.terminal import Console, Writer, printable


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


EVERY = "".join(map(chr, range(0x110000 - 0x2000))).encode("utf-8", "ignore").decode()


def test_no_control_character_but_newline_and_tab_reaches_a_terminal() -> None:
    shown = printable(EVERY, Tty())
    assert {char for char in shown if unicodedata.category(char) == "Cc"} == {"\n", "\t"}


def test_a_control_character_is_shown_and_not_dropped() -> None:
    assert printable("a\x1b[2Jb\rc\x7fd\x9be", Tty()) == "a␛[2Jb␍c␡d\\x9be"


def test_everything_else_is_shown_as_it_is() -> None:
    kept = "".join(char for char in EVERY if unicodedata.category(char) != "Cc") + "\n\t"
    assert printable(kept, Tty()) == kept


def test_windows_line_ends_are_line_ends() -> None:
    assert printable("a\r\nb\r\n", Tty()) == "a\nb\n"


def test_a_file_gets_every_character() -> None:
    assert printable(EVERY, io.StringIO()) == EVERY


def console(out: io.StringIO, *, quiet: bool = False, color: bool = False) -> Console:
    return Console(out=out, err=Tty(), quiet=quiet, color=color)


def test_quiet_drops_what_is_said_and_keeps_what_must_be_seen() -> None:
    found = console(io.StringIO(), quiet=True)
    found.say("context 2048")
    found.warn("it broke\x1b")
    assert found.err.getvalue() == "codellama: it broke␛\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("color", [False, True])
def test_an_unfinished_line_is_ended_on_a_terminal_only(color: bool) -> None:
    for out, ending in ((Tty(), "\n"), (io.StringIO(), "")):
        writer = Writer(console(out, color=color))
        for piece in ("a", "", "b"):
            writer.write(piece)
        writer.end()
        assert out.getvalue() == "ab" + ending


def test_colours_are_added_behind_the_guard() -> None:
    out = Tty()
    writer = Writer(console(out, color=True))
    writer.write("```python\n# \x1b]0;title\x07\n")
    writer.end()
    assert "␛]0;title␇" in out.getvalue()
    assert "\x1b[" in out.getvalue()


@pytest.mark.parametrize(
    ("choice", "no_color", "tty", "expected"),
    [
        ("auto", None, True, True),
        ("auto", "1", True, False),
        ("auto", "", True, True),
        ("auto", None, False, False),
        ("always", "1", False, True),
        ("never", None, True, False),
    ],
)
def test_colour_is_wanted(
    monkeypatch: pytest.MonkeyPatch, choice: str, no_color: str | None, tty: bool, expected: bool
) -> None:
    monkeypatch.setattr("sys.stdout", Tty() if tty else io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert Console.open(Namespace(quiet=False, color=choice)).color is expected
