"""A completion through eglot, in Emacs without a window."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")
pytest.importorskip("pytest_lsp", reason="pytest-lsp is not installed")

from editor import COMMAND
from editor_fills import TOLD, fills
from harness import Running, running, scripted

from fakes import ScriptedModel

SETTINGS = Path(__file__).parents[2] / "editors" / "emacs" / "codellama.el"
EMACS = shutil.which("emacs")


def has_eglot() -> bool:
    return EMACS is not None and not subprocess.run(
        [EMACS, "--batch", "--eval", "(progn (package-initialize) (require 'eglot))"],
        capture_output=True, timeout=120,
    ).returncode  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    def reply(prefix: str, suffix: str) -> str | None:
        return "ea(r):" if prefix.endswith("def ar") else ""

    model = ScriptedModel(n_blocks=512, script=fills(reply))
    with running(("codellama-test", scripted(model, max_seq_len=2048)), settings=TOLD) as found:
        yield found


@pytest.mark.skipif(EMACS is None, reason="there is no Emacs")
def test_a_completion_is_put_into_the_buffer(tmp_path: Path, served: Running) -> None:
    if not has_eglot():
        pytest.skip("this Emacs has no eglot")
    path = tmp_path / "main.py"
    path.write_text("def ar\n    return 3\n")
    words = " ".join(f'"{word}"' for word in [*COMMAND, "--url", served.url])
    script = tmp_path / "test.el"
    script.write_text(
        f"""
(package-initialize)
(load "{SETTINGS}")
(setq codellama-command '({words}) eglot-connect-timeout 120 eglot-sync-connect 120
      make-backup-files nil)
(find-file "{path}")
(python-mode)
(apply #'eglot (let ((guess (eglot--guess-contact)))
                 guess))
(goto-char (point-min))
(end-of-line)
(completion-at-point)
(save-buffer)
(eglot-shutdown-all)
"""
    )
    assert EMACS is not None
    done = subprocess.run([EMACS, "--batch", "-l", str(script)], capture_output=True, text=True,
                          timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert path.read_text() == "def area(r):\n    return 3\n", done.stderr
