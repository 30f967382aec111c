"""The extension for VS Code: its types hold, its parts do what they should, and it is packed."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "editors" / "vscode"
TOOLS = FOLDER / "node_modules" / ".bin"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node"),
    pytest.mark.skipif(
        not (TOOLS / "tsc").exists(), reason="run `npm install` in editors/vscode first"
    ),
]


def npm(*words: str) -> str:
    done = subprocess.run(["npm", "run", "--silent", *words], cwd=FOLDER, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_types_hold() -> None:
    npm("check")


def test_its_parts_do_what_they_should() -> None:
    assert "# fail 0" in npm("test")


def test_it_is_built_with_all_that_it_needs() -> None:
    npm("build")
    made = (FOLDER / "out" / "extension.js").read_text()
    assert 'require("vscode")' in made
    assert 'require("vscode-languageclient' not in made  # it is inside
    assert "inlineCompletion" in made
    manifest = json.loads((FOLDER / "package.json").read_text())
    assert (FOLDER / manifest["main"]).resolve() == FOLDER / "out" / "extension.js"


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "vsce").exists(), reason="@vscode/vsce is not installed")
def test_it_is_packed() -> None:
    npm("package")
    with zipfile.ZipFile(FOLDER / "codellama.vsix") as found:
        names = set(found.namelist())
    assert "extension/out/extension.js" in names
    assert not any("node_modules" in name or name.startswith("extension/src") for name in names)
