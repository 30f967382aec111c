"""A conversation typed at a terminal.

Ctrl-C ends the answer being written and never the program; Ctrl-D leaves. What was said before is
kept and sent again with each message, until `/clear`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from codellama.cli.terminal import Console
from codellama.errors import CodeLlamaError

if TYPE_CHECKING:
    from collections.abc import Mapping

FENCE = "```"
HELP = """\
Enter            send the message
Alt-Enter        a new line in the message; so does Enter after a \\ or in an open ``` block
Ctrl-C           stop the answer, or forget the line
Ctrl-D           leave
/system [TEXT]   show, or set, what the model is told before the conversation
/undo            forget the last message and its answer
/clear           forget the conversation
/save FILE       write it to a new file, as JSON if the name ends in .json, else as Markdown
/help            this list
/quit            leave
A message that begins with a slash and a word: put a space before the slash."""

# Given the messages so far, writes the answer and returns it; None means there was none.
Answer = Callable[["Sequence[Mapping[str, str]]"], str | None]


class Conversation:
    """The messages so far and the commands that change them."""

    def __init__(self, system: str | None, answer: Answer, console: Console) -> None:
        self._system = system
        self._turns: list[dict[str, str]] = []
        self._answer = answer
        self._console = console

    @property
    def messages(self) -> list[dict[str, str]]:
        """What is sent: the system text, if any, then the turns."""
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return system + self._turns

    def say(self, text: str) -> None:
        """Sends a message and keeps it with its answer; keeps neither when there was none."""
        question = {"role": "user", "content": text}
        try:
            reply = self._answer([*self.messages, question])
        except CodeLlamaError as error:
            self._console.warn(str(error))
            if error.hint:
                self._console.warn(f"→ {error.hint}")
            return
        if reply is not None:
            self._turns += [question, {"role": "assistant", "content": reply}]

    def command(self, name: str, rest: str) -> bool:
        """Runs a command; False means to leave.

        The names are those of `HELP`.
        """
        say = self._console.warn
        match name:
            case "quit" | "exit":
                return False
            case "help":
                self._console.write(HELP + "\n")
            case "clear":
                self._turns.clear()
                say("the conversation is forgotten")
            case "undo":
                say("the last message is forgotten" if self._turns else "there is nothing to undo")
                del self._turns[-2:]
            case "system":
                self._system = rest or self._system
                say(f"system: {self._system}" if self._system else "there is no system text")
            case "save":
                say(self._save(rest))
            case _:
                say(f"there is no /{name}; /help lists the commands")
        return True

    def _save(self, name: str) -> str:
        if not name:
            return "say where: /save FILE"
        path = Path(name).expanduser()
        if path.suffix == ".json":
            text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        else:
            text = "\n".join(f"## {m['role']}\n\n{m['content']}\n" for m in self.messages)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return f"{path} exists already; choose another name"
        except OSError as error:
            return f"{path} cannot be written: {error.strerror}"
        return f"saved to {path}"


def converse(conversation: Conversation, console: Console) -> None:
    """Reads messages and commands until the user leaves."""
    session = _session(console)
    console.say("Enter sends, Alt-Enter makes a new line, Ctrl-C stops an answer, /help for more")
    while True:
        try:
            text = session.prompt("> ", prompt_continuation="  ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not text.strip():
            continue
        found = re.fullmatch(r"/([A-Za-z]+)(?:\s+(.*))?", text, re.DOTALL)
        if found is None:
            conversation.say(text)
        elif not conversation.command(found[1].lower(), (found[2] or "").strip()):
            return


def is_unfinished(text: str) -> bool:
    """Whether Enter should make a new line: after a backslash, or in an open code block."""
    fences = sum(line.lstrip().startswith(FENCE) for line in text.split("\n"))
    return text.endswith("\\") or fences % 2 == 1


def _session(console: Console) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer: Buffer = event.current_buffer
        if not is_unfinished(buffer.text):
            buffer.validate_and_handle()
            return
        if buffer.text.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
        buffer.newline()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    return PromptSession(
        multiline=True, key_bindings=keys, history=_history(console), reserve_space_for_menu=0
    )


def _history(console: Console) -> History:
    state = os.environ.get("XDG_STATE_HOME")
    folder = Path(state) if state and Path(state).is_absolute() else Path("~/.local/state")
    path = folder.expanduser() / "codellama" / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
    except (OSError, RuntimeError) as error:
        console.say(f"no history is kept: {path}: {getattr(error, 'strerror', None) or error}")
        return InMemoryHistory()
    return FileHistory(str(path))
