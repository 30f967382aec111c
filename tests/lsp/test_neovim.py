"""Typing, accepting and leaving in a headless Neovim."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")
pytest.importorskip("pytest_lsp", reason="pytest-lsp is not installed")

from editor import COMMAND
from editor_fills import TOLD, fills
from harness import Running, running, scripted, until
from headless import NVIM, Nvim

from fakes import ScriptedModel

PLUGIN = Path(__file__).parents[2] / "editors" / "neovim"

pytestmark = pytest.mark.skipif(NVIM is None, reason="there is no Neovim 0.11 or newer")


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
    with running(
        ("codellama-test", scripted(model, max_seq_len=2048, step_tokens=256)), settings=TOLD
    ) as found:
        yield found


@pytest.fixture(scope="module")
def nvim(tmp_path_factory: pytest.TempPathFactory, served: Running) -> Iterator[Nvim]:
    command = json.dumps([*COMMAND, "--url", served.url])[1:-1]
    found = Nvim(
        tmp_path_factory.mktemp("nvim"),
        f"vim.opt.rtp:prepend('{PLUGIN}')\nrequire('codellama').setup({{ cmd = {{{command}}} }})\n",
    )
    client = 'vim.lsp.get_clients({name = "codellama"})[1]'
    try:
        until(lambda: found.lua(f"{client} ~= nil and {client}.initialized"), 60)
        found.type("i# warm<M-]>")  # the first request waits until the server is reached
        yield found
    finally:
        found.end()


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
