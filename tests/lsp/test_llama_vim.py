"""llama.vim itself, in Neovim and in Vim, against our server.

Its code is no part of this repository. The tests look for a checkout in `build/llama.vim`.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")
pytest.importorskip("pytest_lsp", reason="pytest-lsp is not installed")

from editor_fills import TOLD, fills
from harness import Running, nano, running, scripted, until
from headless import NVIM, Nvim

from fakes import ScriptedModel

PLUGIN = Path(__file__).parents[2] / "build" / "llama.vim"
SETTINGS = Path(__file__).parents[2] / "editors" / "vim" / "llama.vim"

pytestmark = [
    pytest.mark.skipif(not (PLUGIN / "autoload").is_dir(), reason=f"{PLUGIN} is not there"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]


def reply(prefix: str, suffix: str) -> str | None:
    return "3.14 * r * r" if prefix.endswith("    return ") else ""


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    model = ScriptedModel(n_blocks=1024, script=fills(reply))
    with running(
        ("codellama-test", scripted(model, max_seq_len=2048, step_tokens=256)), settings=TOLD
    ) as found:
        yield found


def settings(folder: Path, url: str) -> Path:
    """Our settings for the plugin, at the server's port."""
    text = SETTINGS.read_text()
    assert "http://127.0.0.1:8012" in text
    path = folder / "llama_settings.vim"
    path.write_text(text.replace("http://127.0.0.1:8012", url))
    return path


@pytest.mark.skipif(NVIM is None, reason="there is no Neovim 0.11 or newer")
def test_neovim_shows_a_suggestion_and_takes_it(tmp_path: Path, served: Running) -> None:
    nvim = Nvim(
        tmp_path,
        f"vim.cmd('source {settings(tmp_path, served.url)}')\nvim.opt.rtp:prepend('{PLUGIN}')\n",
    )
    try:
        nvim.type("idef area(r):<CR>    return ")
        marks = "vim.api.nvim_buf_get_extmarks(0, -1, 0, -1, {details = true})"
        until(lambda: "3.14 * r * r" in json.dumps(nvim.lua(marks)), 30)
        nvim.type("<Tab>")
        until(lambda: nvim.text[:2] == ["def area(r):", "    return 3.14 * r * r"])
    finally:
        nvim.end()


@pytest.mark.skipif(shutil.which("vim") is None, reason="there is no Vim")
def test_vim_shows_a_suggestion_and_takes_it(tmp_path: Path, served: Running) -> None:
    version = subprocess.run(["vim", "--version"], capture_output=True, text=True, check=True)
    if "+job" not in version.stdout or "+textprop" not in version.stdout:
        pytest.skip("this Vim has no jobs or no virtual text")
    script = tmp_path / "vimrc"
    script.write_text(
        f"set nocompatible noautoindent noswapfile\nsource {settings(tmp_path, served.url)}\n"
        f"set rtp^={PLUGIN}\nfiletype plugin on\n"
    )
    path = tmp_path / "main.py"
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        ["vim", "-N", "-u", str(script), str(path)], stdin=inner, stdout=inner, stderr=inner,
        env={**os.environ, "TERM": "xterm", "HOME": str(tmp_path), "COLUMNS": "100", "LINES": "30"},
        start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    seen = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(terminal, 4096):
                seen.extend(chunk)
        except OSError:  # it has ended
            return

    reader = threading.Thread(target=read)
    reader.start()

    def screen() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode("utf-8", "replace"))

    try:
        time.sleep(1)
        os.write(terminal, b"idef area(r):\r    return ")
        until(lambda: "3.14 * r * r" in screen(), 30)
        os.write(terminal, b"\t")
        time.sleep(0.5)
        os.write(terminal, b"\x1b:wq\r")
        process.wait(20)
        assert path.read_text().splitlines()[:2] == ["def area(r):", "    return 3.14 * r * r"]
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        os.close(terminal)


def test_its_warm_up_is_answered_at_once() -> None:
    """What it sends every second when its ring of chunks changed."""
    body = {
        "id_slot": 0, "input_prefix": "", "input_suffix": "", "input_extra": [
            {"text": "def f():\n    pass\n" * 20, "time": 1, "filename": "a.py"}],
        "prompt": "", "n_predict": 0, "temperature": 0.0, "stream": False, "samplers": [],
        "cache_prompt": True, "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""],
    }  # fmt: skip
    with running(("codellama-nano", nano())) as live:
        assert live.post("/infill", body).json == {}
        assert live.post("/infill", body).content == b"{}"
