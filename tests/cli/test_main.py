"""Exit codes and what goes to which stream, with a scripted model."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import command
import pytest
from command import Done

from codellama.cli.main import main

SCRIPTED = Path(__file__).parent / "scripted.py"
HELLO = {"pieces": ["Hel", "lo\n"]}


def words(script: dict[str, Any], *arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPTED), json.dumps(script), *arguments]


def run(script: dict[str, Any], *arguments: str | Path, stdin: bytes = b"") -> Done:
    return command.run(*arguments, stdin=stdin, script=script)


def test_results_go_to_one_stream_and_the_rest_to_the_other() -> None:
    done = run(HELLO, "complete", "x", "--seed", "7", "--threads", "1")
    assert (done.code, done.out.decode()) == (0, "Hello\n")
    note, model, speed = done.err.splitlines()
    assert note == "codellama: a note\x1b from the files"
    assert model.startswith("codellama: nano, ")
    assert model.endswith(
        "context 256, cpu engine with 1 thread; temperature 0.2, top-p 0.95, seed 7"
    )
    assert speed == ("codellama: 3 prompt tokens · first token after 10 ms · 2 tokens at 10 tok/s")


def test_quiet() -> None:
    done = run(HELLO, "complete", "x", "--quiet")
    assert (done.code, done.out.decode(), done.err) == (0, "Hello\n", "")


def test_a_stream_is_flushed_token_by_token(tmp_path: Path) -> None:
    script = {"pieces": ["first", "second"], "gate": str(tmp_path / "gate")}
    with subprocess.Popen(words(script, "complete", "x", "--quiet"), stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert os.read(p.stdout.fileno(), 100) == b"first"
        (tmp_path / "gate").touch()
        assert p.stdout.read() == b"second"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say what to do"),
        (("compleet",), "there is no verb 'compleet'"),
        (("complete", "x", "--nope"), "unrecognized arguments: --nope"),
        (("complete", "x", "--temp", "1"), "unrecognized arguments"),
        (("complete", "x", "--file", "f"), "not both"),
        (("complete", "x", "--logprobs", "2"), "--logprobs is shown by --json only"),
        (("infill", "f.py"), "say where in f.py the hole is"),
        (("infill", "f.py", "--at", "x"), "'x' is not LINE or LINE:COL"),
        (("infill", "--at", "1", "--prefix", "x"), "leave out FILE and --at"),
        (("infill", "--prefix", "x", "--write"), "--write needs a FILE and --at"),
        (("infill", "f.py", "--at", "1", "--write", "--n", "2"), "--write takes one result"),
        (("--quiet",), "unrecognized arguments"),
        (("chat", " \n"), "the question is empty"),
        (("convert", "a"), "the following arguments are required: DST"),
    ],
)
def test_senseless_command_lines_exit_2(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    found = capsys.readouterr()
    assert (leaving.value.code, found.out) == (2, "")
    first, hint = found.err.splitlines()
    assert says in first
    assert first.startswith("codellama")
    assert hint.startswith("  → codellama")
    assert hint.endswith("--help lists what it takes")


@pytest.mark.parametrize("flag", ["--top-p=2", "--temperature=-1", "--logprobs=99"])
def test_what_cannot_be_done_exits_1(flag: str) -> None:
    done = run(HELLO, "complete", "x", "--json", flag)
    assert (done.code, done.out.decode()) == (1, "")
    assert done.err.startswith("codellama: `")
    assert len(done.err.splitlines()) == 1


def test_a_bug_exits_70_and_says_how_to_see_it() -> None:
    done = run({"raises": "KeyError"}, "complete", "x", "--quiet")
    assert (done.code, done.out.decode()) == (70, "")
    assert done.err == (
        "codellama: this is a bug in codellama: KeyError: 'as the script says'\n"
        "  → run it again with --traceback and report what it prints\n"
    )


@pytest.mark.parametrize("before", [True, False])
def test_traceback_shows_where(before: bool) -> None:
    verb = ("--traceback", "complete") if before else ("complete", "--traceback")
    for kind, code in (("KeyError", 70), ("MemoryError", 1)):
        done = run({"raises": kind}, *verb, "x", "--quiet")
        assert done.code == code
        assert "Traceback (most recent call last)" in done.err
        assert "scripted.py" in done.err


def test_the_text_traceback_is_a_text() -> None:
    done = run({"raises": "KeyError"}, "complete", "--quiet", "--", "--traceback")
    assert done.code == 70


def test_a_reply_that_ends_in_an_error_exits_1() -> None:
    script = HELLO | {"finish": "error", "error": "the model's output was not a number"}
    done = run(script, "complete", "x", "--quiet")
    assert (done.code, done.out.decode()) == (1, "Hello\n")
    assert done.err == "codellama: the model stopped: the model's output was not a number\n"
    done = run(script, "complete", "x", "--quiet", "--json", "--n", "2")
    assert done.code == 1
    assert [json.loads(line)["finish_reason"] for line in done.out.splitlines()] == ["error"] * 2


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("complete", "x", "--engine", "torch", "--quiet"), "torch"),
        (("train", "recipe.toml"), "train"),
    ],
)
def test_a_missing_extra_is_named(arguments: tuple[str, ...], extra: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from codellama.cli.main import main; "
        f"sys.exit(main({list(arguments)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"needs the `{extra}` extra, which is not installed" in done.stderr
    assert f"pip install 'codellama[{extra}]'" in done.stderr


def test_what_takes_long_to_load_is_announced() -> None:
    done = run(HELLO | {"load_s": 2}, "complete", "x")
    assert done.err.startswith("codellama: loading nano ...\n")


def test_memory_that_runs_out_is_no_bug() -> None:
    done = run({"raises": "MemoryError"}, "complete", "x", "--quiet")
    assert done.code == 1
    assert done.err.startswith("codellama: there is not enough memory")


def test_ctrl_c_exits_130_quietly() -> None:
    with subprocess.Popen(
        words({"pieces": ["x"], "delay_s": 0.05, "forever": True}, "complete", "x", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"xx"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    with subprocess.Popen(
        words({"pieces": ["x\n"], "delay_s": 0.01, "forever": True}, "complete", "x", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""


def test_a_reader_that_left_before_the_end_of_a_short_result() -> None:
    with subprocess.Popen(
        words({"pieces": ["x"], "delay_s": 0.5}, "complete", "x", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""


def test_help_for_a_reader_that_left() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "codellama", "complete", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            words(HELLO, "complete", "x", "--quiet"),
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"codellama: No space left on device\n"


def test_closed_standard_output_is_one_line() -> None:
    quoted = " ".join(f"'{word}'" for word in words(HELLO, "complete", "x", "--quiet"))
    done = subprocess.run(
        ["sh", "-c", f"{quoted} >&-"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_is_written_to_standard_output() -> None:
    done = run(HELLO, "complete", "--help")
    assert (done.code, done.err) == (0, "")
    assert "--repetition-penalty" in done.out.decode()


def test_text_comes_from_a_pipe_and_a_dash_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_bytes("à\r\n".encode())
    script = {"echo": True}
    assert run(script, "complete", "à\r\n").out.decode() == '"\\u00e0\\r\\n"'
    assert run(script, "complete", stdin="à\r\n".encode()).out.decode() == '"\\u00e0\\r\\n"'
    assert run(script, "complete", "-", stdin="à\r\n".encode()).out.decode() == '"\\u00e0\\r\\n"'
    assert (
        run(script, "complete", "--file", str(tmp_path / "f.txt")).out.decode() == '"\\u00e0\\r\\n"'
    )


def test_text_that_is_not_utf8_is_refused() -> None:
    piped = run(HELLO, "complete", stdin=b"ab\xff")
    assert piped.code == 1
    assert "standard input: is not UTF-8: byte 0xff at offset 2" in piped.err
    done = subprocess.run(
        [*words(HELLO, "complete"), b"ab\xff"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the text: is not UTF-8: byte 0xff at offset 2" in done.stderr


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_text_is_utf8_whatever_the_locale(locale: str) -> None:
    done = subprocess.run(
        words({"pieces": ["é😀"]}, "complete", "x", "--quiet"),
        capture_output=True,
        check=False,
        env=os.environ | {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stdout) == (0, "é😀".encode())


def test_several_results_are_separated() -> None:
    done = run({"pieces": ["a"]}, "complete", "x", "--n", "2", "--seed", "1")
    assert (done.code, done.out.decode()) == (0, "a\na\n")
    assert "codellama: --- 2 of 2\n" in done.err


def test_on_a_terminal_control_characters_are_shown_and_the_last_line_ends() -> None:
    leader, follower = pty.openpty()
    subprocess.run(
        words({"pieces": ["a\x1b]0;x\x07", "\x9b2J"]}, "complete", "x", "--quiet"),
        stdin=subprocess.DEVNULL,
        stdout=follower,
        timeout=30,
        check=True,
    )
    os.close(follower)
    time.sleep(0.05)
    shown = os.read(leader, 1000).decode()
    os.close(leader)
    assert shown == "a␛]0;x␇\\x9b2J\r\n"


def test_no_text_at_a_terminal_is_a_usage_error() -> None:
    leader, follower = pty.openpty()
    for verb in ("complete", "infill"):
        done = subprocess.run(
            words(HELLO, verb), stdin=follower, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "there is no" in done.stderr
    os.close(follower)
    os.close(leader)
