"""A conversation at a pseudo-terminal: typing, stopping an answer, commands, leaving."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codellama.cli.conversation import is_unfinished

SCRIPTED = Path(__file__).parent / "scripted.py"
SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\].*?\x07|[=>]|\(B)")
ENTER, CTRL_C, CTRL_D, ALT_ENTER, UP = "\r", "\x03", "\x04", "\x1b\r", "\x1b[A"


class Terminal:
    """A program at a pseudo-terminal, and what it has shown."""

    def __init__(self, process: subprocess.Popen[bytes], leader: int) -> None:
        self.process = process
        self.shown = ""
        self.raw = b""
        self._leader = leader
        self._read_to = 0

    def type(self, *keys: str) -> None:
        for key in keys:
            os.write(self._leader, key.encode())
            time.sleep(0.02)

    def expect(self, text: str, timeout_s: float = 30) -> None:
        """Waits for `text` behind what was expected before."""
        end = time.monotonic() + timeout_s
        while (at := self.shown.find(text, self._read_to)) < 0:
            left = end - time.monotonic()
            if left <= 0 or not self.read(left):
                raise AssertionError(f"{text!r} did not come; shown: {self.shown!r}")
        self._read_to = at + len(text)

    def wait(self) -> int:
        while self.read(10):
            pass
        return self.process.wait(10)

    def read(self, timeout_s: float) -> bool:
        """Waits for more to be shown; False when none came."""
        if not select.select([self._leader], [], [], timeout_s)[0]:
            return False
        try:
            found = os.read(self._leader, 65536)
        except OSError:  # the program has left its terminal
            return False
        self.raw += found
        self.shown = SEQUENCES.sub("", self.raw.decode(errors="replace"))
        return bool(found)


@contextmanager
def chat(
    script: dict[str, Any] | None, *arguments: str, state: Path, **env: str
) -> Iterator[Terminal]:
    """`codellama chat` at a terminal, with a scripted model unless the script is None."""
    program = ["-m", "codellama"] if script is None else [str(SCRIPTED), json.dumps(script)]
    leader, follower = pty.openpty()
    termios.tcsetwinsize(leader, (40, 200))
    process = subprocess.Popen(
        [sys.executable, *program, "chat", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=_take_terminal,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        | {"XDG_STATE_HOME": str(state), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        | env,
    )
    os.close(follower)
    terminal = Terminal(process, leader)
    try:
        terminal.expect("/help for more")
        terminal.expect(">")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes a signal


ECHO = {"echo": True}


def test_messages_pile_up_until_they_are_cleared_or_undone(tmp_path: Path) -> None:
    with chat(ECHO, "--system", "S", state=tmp_path) as terminal:
        terminal.type("one", ENTER)
        terminal.expect('"role": "user", "content": "one"}]')
        terminal.expect(">")
        terminal.type("two", ENTER)
        terminal.expect('[{"role": "system", "content": "S"}, {"role": "user", "content": "one"}, ')
        terminal.expect('"role": "user", "content": "two"}]')
        terminal.expect(">")
        terminal.type("/undo", ENTER)
        terminal.expect("forgotten")
        terminal.expect(">")
        terminal.type("three", ENTER)
        terminal.expect('"assistant"')
        terminal.expect('"role": "user", "content": "three"}]')
        assert '"two"' not in terminal.shown[terminal.shown.rindex("three") :]
        terminal.expect(">")
        terminal.type("/clear", ENTER)
        terminal.expect("the conversation is forgotten")
        terminal.expect(">")
        terminal.type("/system T", ENTER)
        terminal.expect("system: T")
        terminal.expect(">")
        terminal.type("four", ENTER)
        terminal.expect('[{"role": "system", "content": "T"}, {"role": "user", "content": "four"}]')
        terminal.expect(">")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


@pytest.mark.parametrize("leave", [CTRL_D, "/quit\r", "/exit\r"])
def test_ways_to_leave(tmp_path: Path, leave: str) -> None:
    with chat(ECHO, state=tmp_path) as terminal:
        terminal.type(leave)
        assert terminal.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    script = {"pieces": ["word "], "delay_s": 0.05, "forever": True}
    with chat(script, state=tmp_path) as terminal:
        terminal.type("go", ENTER)
        terminal.expect("word word ")
        terminal.type(CTRL_C)
        terminal.expect("stopped; /undo forgets this answer")
        terminal.expect(">")
        assert terminal.process.poll() is None
        terminal.type("again", ENTER)
        terminal.expect("word word ")
        terminal.type(CTRL_C)
        terminal.expect("stopped")
        terminal.expect(">")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_ctrl_c_stops_a_real_engine_which_then_answers_again(
    tmp_path: Path, hf_folder: Path
) -> None:
    flags = ("--model", str(hf_folder), "--chat-form", "inst", "--threads", "1")
    endless = ("--max-seq-len", "100000", "--max-tokens", "end", "--temperature", "0")
    with chat(None, *flags, *endless, state=tmp_path) as terminal:
        for message in ("def x", "return y"):
            terminal.type(message, ENTER)
            before = len(terminal.shown)
            while len(terminal.shown) < before + 500:
                assert terminal.read(10)
            terminal.type(CTRL_C)
            terminal.expect("stopped; /undo forgets this answer")
            terminal.expect(">")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_ctrl_c_before_the_first_word_forgets_the_message(tmp_path: Path) -> None:
    script = {"pieces": ["word "], "delay_s": 3600, "forever": True, "begun": "thinking"}
    with chat(script, state=tmp_path) as terminal:
        terminal.type("go", ENTER)
        terminal.expect("thinking")
        terminal.process.send_signal(signal.SIGINT)
        terminal.expect("stopped")
        terminal.expect(">")
        terminal.type("/undo", ENTER)
        terminal.expect("there is nothing to undo")


def test_ctrl_c_while_typing_forgets_the_line(tmp_path: Path) -> None:
    with chat(ECHO, state=tmp_path) as terminal:
        terminal.type("wrong", CTRL_C)
        terminal.expect(">")
        terminal.type("right", ENTER)
        terminal.expect('[{"role": "user", "content": "right"}]')


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        (("a", ALT_ENTER, "b", ENTER), "a\\nb"),
        (("a\\", ENTER, "b", ENTER), "a\\nb"),
        (("```", ENTER, "x", ENTER, "```", ENTER), "```\\nx\\n```"),
        (("\x1b[200~a\nb\x1b[201~", ENTER), "a\\nb"),
        ((" /help", ENTER), " /help"),
        (("/* x */", ENTER), "/* x */"),
    ],
)
def test_messages_of_several_lines(tmp_path: Path, keys: tuple[str, ...], sent: str) -> None:
    with chat(ECHO, state=tmp_path) as terminal:
        terminal.type(*keys)
        terminal.expect(f'[{{"role": "user", "content": "{sent}"}}]')


def test_commands_that_need_help(tmp_path: Path) -> None:
    with chat(ECHO, state=tmp_path) as terminal:
        terminal.type("/nope", ENTER)
        terminal.expect("there is no /nope; /help lists the commands")
        terminal.expect(">")
        terminal.type("/help", ENTER)
        for command in ("/system", "/undo", "/clear", "/save", "/quit"):
            terminal.expect(command)


def test_saving(tmp_path: Path) -> None:
    with chat({"pieces": ["answer"]}, "--system", "S", state=tmp_path) as terminal:
        terminal.type("question", ENTER)
        terminal.expect("answer")
        terminal.expect(">")
        for name in ("talk.json", "talk.md"):
            terminal.type(f"/save {tmp_path / name}", ENTER)
            terminal.expect("saved to")
            terminal.expect(">")
        terminal.type(f"/save {tmp_path / 'talk.md'}", ENTER)
        terminal.expect("exists already")
        terminal.expect(">")
        terminal.type("/save", ENTER)
        terminal.expect("say where")
    assert json.loads((tmp_path / "talk.json").read_text()) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
    ]
    assert (tmp_path / "talk.md").read_text() == (
        "## system\n\nS\n\n## user\n\nquestion\n\n## assistant\n\nanswer\n"
    )


def test_what_was_typed_comes_back_in_the_next_conversation(tmp_path: Path) -> None:
    with chat(ECHO, state=tmp_path) as terminal:
        terminal.type("remember me", ENTER)
        terminal.expect('"remember me"')
        terminal.expect(">")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0
    history = tmp_path / "codellama" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    with chat(ECHO, state=tmp_path) as terminal:
        terminal.type(UP, ENTER)
        terminal.expect('[{"role": "user", "content": "remember me"}]')


def test_without_a_place_for_history_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with chat(ECHO, state=tmp_path / "file") as terminal:
        assert "no history is kept" in terminal.shown
        terminal.type("x", ENTER)
        terminal.expect('"x"')


def test_an_error_in_an_answer_does_not_end_the_conversation(tmp_path: Path) -> None:
    script = {"pieces": ["so"], "finish": "error", "error": "the model's output was not a number"}
    with chat(script, state=tmp_path) as terminal:
        terminal.type("go", ENTER)
        terminal.expect("the model stopped: the model's output was not a number")
        terminal.expect(">")
        terminal.type("/undo", ENTER)
        terminal.expect("there is nothing to undo")


def test_code_is_coloured_and_control_characters_are_shown(tmp_path: Path) -> None:
    script = {"pieces": ["```py\n", "def f():\n", "```\n", "\x1b]0;title\x07"]}
    with chat(script, state=tmp_path) as terminal:
        terminal.type("go", ENTER)
        terminal.expect("␛]0;title␇")
        assert re.search(rb"\x1b\[[0-9;]+mdef", terminal.raw)
        assert b"]0;title\x07" not in terminal.raw


@pytest.mark.parametrize("how", ["environment", "flag"])
def test_without_colour(tmp_path: Path, how: str) -> None:
    script = {"pieces": ["```py\n", "def f():\n", "```\n", "done"]}
    flags = ("--color", "never") if how == "flag" else ()
    env = {"NO_COLOR": "1"} if how == "environment" else {}
    with chat(script, *flags, state=tmp_path, **env) as terminal:
        terminal.type("go", ENTER)
        terminal.expect("done")
        assert b"def f():" in terminal.raw


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        ("a", False),
        ("a\\", True),
        ("```", True),
        ("```\na\n```", False),
        ("```\na\n```\n```py", True),
        ("a ``` b", False),
    ],
)
def test_unfinished_messages(text: str, unfinished: bool) -> None:
    assert is_unfinished(text) is unfinished


def test_a_conversation_needs_a_terminal() -> None:
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, str(SCRIPTED), json.dumps(ECHO), "chat"],
        stdin=follower,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2
    assert "a conversation needs a terminal" in done.stderr


def test_one_question_from_the_command_line_and_from_a_pipe() -> None:
    for arguments, stdin in ((("q", "--system", "S"), None), (("--system", "S"), b"q")):
        done = subprocess.run(
            [sys.executable, str(SCRIPTED), json.dumps(ECHO), "chat", *arguments],
            input=stdin,
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout) == [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "q"},
        ]
