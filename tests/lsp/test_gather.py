"""What is told about other places: imports, definitions of names in use, recent edits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")

from codellama.lsp.edits import RecentEdits, Region
from codellama.lsp.gather import OpenFile, Surroundings, gather
from codellama.lsp.languages import find_language
from codellama.lsp.repository import Repository
from codellama.lsp.symbols import symbols, words

FILES = {
    "python": ("import os\nfrom a import b\n\nclass A:\n    def f(self):\n        x = 1\n"
               "        return x\n\ndef g(): pass\n", ["A", "f", "g"], 2),
    "javascript": ("import a from 'a';\nfunction f() {\n  return 1;\n}\nclass B { m() {} }\n",
                   ["f", "B", "m"], 1),
    "typescript": ("interface I { a: number }\ntype T = I;\nenum E { A }\n", ["I", "T", "E"], 0),
    "c": ('#include <stdio.h>\nstruct s { int a; };\nint *f(int a) {\n  return 0;\n}\n',
          ["s", "f"], 1),
    "cpp": ("class A { int f() { return 1; } };\nvoid A::g() {}\n", ["A", "f", "g"], 0),
    "java": ("package p;\nimport a.b;\nclass A { int f() { return 1; } }\n", ["A", "f"], 2),
    "go": ('package a\n\nimport "fmt"\n\ntype T struct{ a int }\n\nfunc (t T) M() {}\n'
           'func F() {}\n', ["T", "M", "F"], 2),
    "rust": ("use a::b;\nstruct S { a: i32 }\nfn f() {}\ntrait Q { fn g(&self); }\n",
             ["S", "f", "Q", "g"], 1),
    "shellscript": ("f() {\n  echo 1\n}\n", ["f"], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_definitions_and_imports_are_found(name: str) -> None:
    text, defined, n_imports = FILES[name]
    language = find_language(name)
    assert language is not None
    found = symbols(language, text)
    assert sorted(found.definitions) == sorted(defined)
    assert len(found.imports) == n_imports


def test_a_definition_is_shown_by_its_first_lines() -> None:
    language = find_language("python")
    assert language is not None
    text = "def f(\n    a,\n    b,\n):\n" + "    x = 1\n" * 50
    shown = symbols(language, text).definitions["f"]
    assert shown.startswith("def f(\n    a,\n    b,\n):\n    x = 1")
    assert shown.count("\n") <= 6


def test_names_come_nearest_first() -> None:
    assert words("a = b(c)\nd.a") == ["a", "d", "c", "b"]


def around(tmp_path: Path, prefix: str, **more: object) -> Surroundings:
    fields = {
        "document": "file:///main.py", "path": tmp_path / "main.py",
        "language": find_language("python"), "prefix": prefix, "suffix": "\n", "shown_chars": 200,
    }  # fmt: skip
    return Surroundings(**(fields | more))  # type: ignore[arg-type]


def test_imports_and_definitions_out_of_sight_are_told(tmp_path: Path) -> None:
    far = "import os\nfrom shapes import area\n\n\ndef helper(a):\n    return a\n\n\n"
    filler = "# nothing\n" * 40
    pieces = gather(around(tmp_path, far + filler + "x = helper("))
    assert [piece.text for piece in pieces] == [
        "import os\nfrom shapes import area", "def helper(a):\n    return a",
    ]  # fmt: skip
    assert gather(around(tmp_path, far + "x = helper(")) == []  # it can be seen


def test_open_files_and_the_repository_define_names(tmp_path: Path) -> None:
    (tmp_path / "shapes.py").write_text("def area(r):\n    return r * r\n")
    (tmp_path / "other.py").write_text("def area(x):\n    return 0\n")
    (tmp_path / "notes.txt").write_text("def area(nothing)\n")
    repository = Repository([tmp_path])
    repository.start()
    assert repository.wait(20)
    prefix = "from shapes import area\n\nprint(area("
    [piece] = gather(around(tmp_path, prefix, repository=repository))
    assert piece.name == "shapes.py"  # it is imported
    assert piece.text.startswith("def area(r):")
    others = {"file:///open.py": OpenFile(path=tmp_path / "open.py", text="def area(o): ...\n")}
    [piece] = gather(around(tmp_path, prefix, repository=repository, others=others))
    assert piece.text == "def area(o): ..."
    assert gather(around(tmp_path, prefix, repository=repository, wants_definitions=False)) == []


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def old(): ...\n")
    repository = Repository([tmp_path])
    repository.start()
    assert repository.wait(20)
    path.write_text("def new(): ...\n")
    os.utime(path, (1, 1))
    repository.refresh(path)
    near = tmp_path / "b.py"
    assert repository.find("old", near=near, imported=frozenset()) == []
    assert repository.find("new", near=near, imported=frozenset())
    path.unlink()
    repository.refresh(path)
    assert repository.find("new", near=near, imported=frozenset()) == []


def test_files_that_git_ignores_are_left_out(tmp_path: Path) -> None:
    if subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=False).returncode:
        pytest.skip("there is no git")
    (tmp_path / ".gitignore").write_text("made.py\n")
    (tmp_path / "made.py").write_text("def made(): ...\n")
    (tmp_path / "own.py").write_text("def own(): ...\n")
    repository = Repository([tmp_path])
    repository.start()
    assert repository.wait(20)
    near = tmp_path / "b.py"
    assert repository.find("made", near=near, imported=frozenset()) == []
    assert repository.find("own", near=near, imported=frozenset())
    assert repository.find("own", near=tmp_path / "b.go", imported=frozenset()) == []


def test_recent_edits_of_other_places_are_told(tmp_path: Path) -> None:
    edits = RecentEdits()
    text = "".join(f"value_{i} = {i}\n" for i in range(60))
    others = {"file:///o.py": OpenFile(path=tmp_path / "o.py", text=text),
              "file:///main.py": OpenFile(path=tmp_path / "main.py", text="x = 1\n")}  # fmt: skip
    edits.note("file:///o.py", 30, 0, 0)
    edits.note("file:///main.py", 0, 0, 0)
    [piece] = gather(around(tmp_path, "x = 1\n", others=others, edits=edits))
    assert piece.name == "o.py"
    assert "value_30 = 30" in piece.text
    assert "value_50" not in piece.text


def test_edits_near_each_other_are_one_region_and_follow_the_text() -> None:
    edits = RecentEdits()
    edits.note("a", 10, 0, 0)
    edits.note("a", 12, 0, 1)
    assert edits.latest() == [Region(document="a", first=6, last=17)]
    edits.note("a", 50, 0, 0)
    edits.note("a", 0, 0, 5)  # five lines more above
    assert [(r.first, r.last) for r in edits.latest()] == [(0, 9), (51, 59), (11, 22)]
    edits.forget("a")
    assert edits.latest() == []
