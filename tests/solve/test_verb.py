"""`codellama solve` on files, with a model that is told what to write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import run

from codellama.cli import loading
from codellama.cli import solve as verb
from codellama.errors import SandboxUnavailable
from codellama.sandbox import Sandbox

FILE = "def area(w, h):\n    return <FILL_ME>\n"
TESTS = "from shapes import area\n\ndef test_area():\n    assert area(2, 3) == 6\n"


class Model:
    """Gives the same replies to whatever it is asked."""

    max_seq_len = 1000
    chat_form = "inst"
    tokenizer = SimpleNamespace(
        encode=lambda text, **_: list(text), encode_bare=lambda text, **_: list(text)
    )

    def __init__(self, replies: Sequence[str]) -> None:
        self.replies = replies
        self.n = 0

    def infill(self, *, n: int, **_: Any) -> list[Any]:
        found = [self.replies[(self.n + i) % len(self.replies)] for i in range(n)]
        self.n += n
        return [SimpleNamespace(text=text) for text in found]

    def chat(self, messages: Any, params: Any, *, n: int) -> list[Any]:
        return self.infill(n=n)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: Sandbox) -> Path:
    """An empty directory to work in, on a machine that can isolate programs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_replies(*replies: str) -> None:
        monkeypatch.setattr(loading, "load", lambda *_: Model(replies))

    return set_replies


def test_a_file_with_a_hole(project: Path, says: Any) -> None:
    (project / "shapes.py").write_text(FILE)
    (project / "test_shapes.py").write_text(TESTS)
    says("w + h", "((", "w+h", "w * h")
    done = run("solve", "--tests", "test_shapes.py", "shapes.py")
    assert done.code == 0, done.err
    assert done.out.decode().startswith("--- a/shapes.py\n+++ b/shapes.py\n")
    assert "+    return w * h\n" in done.out.decode()
    assert "2 answers tried of 8 drawn (2 no Python, 4 repeated)" in done.err
    assert (project / "shapes.py").read_text() == FILE, "it is only shown"


def test_writing_it(project: Path, says: Any) -> None:
    (project / "shapes.py").write_bytes(b"def area(w, h):\r\n    return \r\n")
    (project / "test_shapes.py").write_text(TESTS)
    says("w * h")
    done = run("solve", "--tests", "test_shapes.py", "shapes.py", "--at", "2", "--write", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["verified"] is True
    assert (project / "shapes.py").read_bytes() == b"def area(w, h):\r\n    return w * h\r\n"


def test_none_passes(project: Path, says: Any) -> None:
    (project / "shapes.py").write_text(FILE)
    (project / "test_shapes.py").write_text(TESTS)
    says("w + h", "0", "exit()")
    done = run("solve", "--tests", "test_shapes.py", "shapes.py", "--n", "6", "--write")
    assert done.code == 1
    assert done.out == b""
    assert "none passed: 3 answers tried of 6 drawn" in done.err
    assert (project / "shapes.py").read_text() == FILE


def test_a_task_and_the_file_that_tests_miss(project: Path, says: Any) -> None:
    (project / "test_shapes.py").write_text(TESTS)
    says("Like so:\n```python\ndef area(w, h):\n    return w * h\n```")
    done = run("solve", "--tests", "test_shapes.py", "write area", "--write")
    assert done.code == 0, done.err
    assert (project / "shapes.py").read_text() == "def area(w, h):\n    return w * h\n"


def test_a_package_with_other_modules(project: Path, says: Any) -> None:
    folder = project / "src" / "pack"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "units.py").write_text("FACTOR = 10\n")
    (folder / "shapes.py").write_text(f"from pack.units import FACTOR\n\n{FILE}")
    (project / "tests").mkdir()
    (project / "tests" / "test_shapes.py").write_text(
        "from pack.shapes import area\nfrom pack.units import FACTOR\n\n"
        "def test_area():\n    assert area(2, 3) == 6 * FACTOR\n"
    )
    says("w * h", "w * h * FACTOR")
    done = run("solve", "--tests", "tests/test_shapes.py", "src/pack/shapes.py")
    assert done.code == 0, done.err
    assert "w * h * FACTOR" in done.out.decode()


def test_without_tests_it_is_unverified(project: Path, says: Any) -> None:
    (project / "shapes.py").write_text(FILE)
    says("w * h", "h * w", "w + h")
    done = run("solve", "shapes.py", "--n", "3")
    assert done.code == 0
    assert "unverified: 67% of the candidates" in done.err
    assert "*" in done.out.decode()


def test_tests_that_need_one_process(project: Path, says: Any) -> None:
    (project / "shapes.py").write_text(FILE)
    (project / "test_shapes.py").write_text(
        "import shapes\n\ndef test_area(monkeypatch):\n"
        "    monkeypatch.setattr(shapes, 'area', lambda w, h: 7)\n"
        "    assert shapes.area(1, 2) == 7\n"
    )
    says("w * h")
    done = run("solve", "--tests", "test_shapes.py", "shapes.py", "--n", "2", "--together")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.py",), "there is no file missing.py"),
        (("do it", "--at", "3"), "there is no file do it"),
        (("shapes.py", "--as", "x.py"), "--as names the file for a TASK"),
        (("do it", "--write"), "--write needs --tests"),
        (("shapes.py", "--write"), "--write needs --tests"),
        (("do it", "--tests", "test_shapes.py", "--as", "x.txt"), "something.py"),
        (("shapes.py", "--n", "0"), "is not a whole number above 0"),
    ],
)
def test_what_makes_no_sense(project: Path, arguments: tuple[str, ...], said: str) -> None:
    (project / "shapes.py").write_text(FILE)
    (project / "test_shapes.py").write_text(TESTS)
    done = run("solve", *arguments)
    assert done.code == 2
    assert said in done.err


def test_no_isolation_no_run(project: Path, says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "shapes.py").write_text(FILE)
    says("w * h")

    def refuse(**_: Any) -> Sandbox:
        raise SandboxUnavailable(("user namespaces", "Landlock"))

    monkeypatch.setattr(Sandbox, "open", refuse)
    done = run("solve", "shapes.py")
    assert done.code == 3
    assert "user namespaces; Landlock" in done.err
    assert verb.run is not None
