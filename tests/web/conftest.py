"""The playground in chromium, over `codellama serve nano` in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playground_page import Playground, ServerProcess

CHROMIUM = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--font-render-hinting=none"]  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", default=None, help="write the documentation's pictures there")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """One server for every test that leaves it running."""
    with ServerProcess.started() as found:
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; tests are skipped where it or playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, server: ServerProcess) -> Iterator[Callable[..., Playground]]:
    """Opens the page; in the end nothing may have failed in it or gone elsewhere."""
    opened: list[Playground] = []

    def visit(url: str | None = None, **options: Any) -> Playground:
        opened.append(Playground(chromium, server.url if url is None else url, **options))
        return opened[-1]

    yield visit
    for page in opened:
        page.close()
    for page in opened:
        page.check_that_nothing_went_wrong()


@pytest.fixture
def page(visit: Callable[..., Playground]) -> Playground:
    """The page on a desk: 1280 by 800, light."""
    return visit()
