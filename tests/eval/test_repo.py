"""Holes from a history that the test writes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command import run

from codellama.errors import ConfigError, SandboxUnavailable
from codellama.eval.repo.bench import Choice, Tried, entry
from codellama.eval.repo.context import STRATEGIES
from codellama.eval.repo.history import Added, Repository
from codellama.eval.repo.holes import Hole, cut
from codellama.eval.repo.report import table
from codellama.sandbox import Sandbox

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

FIRST = "import math\n\n\ndef area(radius):\n    return math.pi * radius**2\n"
SECOND = (
    FIRST
    + '''

def ring(outer, inner):
    """The area between two circles."""
    whole = area(outer)
    hole = area(inner)
    return whole - hole
'''
)


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True,
                   capture_output=True)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    git(path, "init", "-q")
    (path / "shapes.py").write_text(FIRST)
    (path / "notes with ü.py").write_text("+++ = 1\n")  # not Python, and looks like a header
    git(path, "add", "-A")
    git(path, "commit", "-qm", "one")
    (path / "shapes.py").write_text(SECOND)
    (path / "use.py").write_text("from shapes import ring\n\nprint(ring(2, 1))\n")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "two")
    return path


def holes(folder: Path, n: int = 50) -> list[Hole]:
    return cut(Repository(folder).added((".py",), 10), n, seed=0)


def test_lines_are_counted_as_git_counts_them() -> None:
    """A form feed stands between the parts of many older files."""
    text = FIRST.replace("\n\n\n", "\n\n\f\n") + "\n\ndef one():\n    return 1\n"
    added = Added(commit="c", path="shapes.py", text=text, runs=((0, text.count("\n")),))
    bodies = {hole.middle for hole in cut([added], 50, seed=0) if hole.kind == "body"}
    assert bodies == {"    return math.pi * radius**2\n", "    return 1\n"}


def test_holes_are_in_what_was_added(folder: Path) -> None:
    found = holes(folder)
    assert {one.kind for one in found} == {"line", "lines", "body"}
    for hole in found:
        whole = hole.prefix + hole.middle + hole.suffix
        assert whole in (FIRST, SECOND, "from shapes import ring\n\nprint(ring(2, 1))\n")
        if whole == SECOND and hole.kind != "body":
            assert hole.prefix.startswith(FIRST)  # only what the second commit added
    bodies = {one.middle for one in found if one.kind == "body"}
    assert "    whole = area(outer)\n    hole = area(inner)\n    return whole - hole\n" in bodies


def test_the_same_seed_cuts_the_same(folder: Path) -> None:
    assert holes(folder, 2) == holes(folder, 2)


def test_a_file_that_is_no_python_is_left_out(folder: Path) -> None:
    assert not any("notes" in one.path for one in holes(folder))
    assert any("ü" in one.path for one in Repository(folder).added((".py",), 10))


def test_what_each_context_shows(folder: Path) -> None:
    repository = Repository(folder)
    hole = next(one for one in holes(folder) if one.kind == "body" and "whole" in one.middle)
    shown = {name: strategy(hole, repository) for name, strategy in STRATEGIES.items()}
    assert shown["file"].prefix == hole.prefix
    assert shown["file-spm"].order == "spm"
    assert shown["left"].suffix is None
    assert shown["repo"].prefix.startswith("# file: use.py\nfrom shapes import ring\n")
    assert "whole = area" not in shown["repo"].prefix


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no git repository"):
        Repository(tmp_path)


def tried(hole: Hole, *, exact: bool, passed: bool | None, ms: float) -> Tried:
    return Tried(hole=hole, reply="", exact=exact, similarity=0.5, parses=True, passed=passed,
                 total_ms=ms, first_ms=1.0, n_tokens=3, prompt_tokens=9)  # fmt: skip


def test_a_row_of_the_table(folder: Path) -> None:
    line = next(one for one in holes(folder) if one.kind == "line")
    ones = [
        tried(line, exact=True, passed=True, ms=10), tried(line, exact=False, passed=None, ms=30),
        tried(line, exact=False, passed=False, ms=20),
    ]  # fmt: skip
    row = entry(Choice(model="m", format="f", context="c"), ones)
    assert row["exact_line"] == pytest.approx(1 / 3)
    assert row["exact_body"] is None
    assert row["passed"] == 0.5  # of the two whose commit's own tests pass
    assert row["median_ms"] == 20
    assert row["p90_ms"] == 30
    assert table([row]).splitlines()[1].split()[:4] == ["m", "f", "c", "33"]


def test_the_verb(folder: Path, hf_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run(
        "bench-repo", folder, "--model", hf_folder, "--holes", "2", "--context", "file,left,repo",
        "--format", "as-is,q8_0", "--threads", "1", "--html", page, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert [(one["format"], one["context"]) for one in facts["rows"]] == [
        (f, c) for f in ("as it is", "q8_0") for c in ("file", "left", "repo")
    ]
    assert all(one["median_ms"] > 0 and one["no_reply"] == 0 for one in facts["rows"])
    assert "<script" not in page.read_text()


def test_the_verb_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    assert "no git repository" in run("bench-repo", tmp_path).err
    assert run("bench-repo", folder, "--context", "all").code == 2
    assert "added no line" in run("bench-repo", folder, "--suffix", ".rs").err


def test_the_commits_own_tests_run(hf_folder: Path, tmp_path: Path) -> None:
    try:
        Sandbox.open().close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    git(tmp_path, "init", "-q")
    (tmp_path / "shapes.py").write_text(FIRST)
    (tmp_path / "test_shapes.py").write_text(
        "from shapes import area\n\n\ndef test_area():\n    assert 3 < area(1) < 4\n"
    )
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    packages = Path(pytest.__file__).parents[1]
    done = run(
        "bench-repo", tmp_path, "--model", hf_folder, "--holes", "2", "--context", "near",
        "--tests", "test_shapes.py", "--packages", packages, "--threads", "1", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    [row] = json.loads(done.out)["rows"]
    assert row["passed"] is not None, "the commit's own tests pass, so those of the fills count"
    assert row["passed"] < 1  # a tiny random model wrote them
