"""The Python that README and docs show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for name in re.findall(r"(?:^|[$`] ?|    )make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert name in targets, f"{page.name} names `make {name}`"


# What the programme asks of every change in limits, serving, access, simulation and text.
PROMISES = [
    "LIM-1", "LIM-2", "LOAD-1", "LOAD-2", "LOAD-3", "LOAD-4", "LOAD-6", "CAN-1", "CAN-2", "CAN-4",
    "OVL-1", "OVL-2", "OVL-3", "FLT-1", "FLT-2", "FLT-3", "FLT-4", "SLOW-1", "ACC-2", "ACC-3",
    "ACC-4", "ACC-5", "ACC-6", "ACC-7", "ACC-8", "ACC-9", "SIM-1", "TOK-1", "TOK-2", "TOK-3",
    "TOK-4", "TOK-5", "TPL-1",
]  # fmt: skip


def promised() -> dict[str, list[str]]:
    """Each row of the page: where its test is, or the command that runs it."""
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| ([A-Z]+-\d) \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    return {name: re.findall(r"`([^`]+)`", where) for name, where in rows}


def test_every_promise_has_a_row() -> None:
    assert set(PROMISES) <= promised().keys()


@pytest.mark.parametrize(("name", "places"), promised().items())
def test_every_row_of_the_reliability_page_has_its_test(name: str, places: list[str]) -> None:
    assert places, f"{name} has neither test nor command"
    files = [place for place in places if not place.startswith("make ")]
    if not files:
        assert name not in PROMISES, "what every change must show is a test"
        return
    texts = [(ROOT / file).read_text() for file in files]
    if name in PROMISES:
        word = name.replace("-", "_")
        assert re.search(rf"def test_\w*{word}(_|\b)", texts[0]), f"{files[0]} tests no {name}"
