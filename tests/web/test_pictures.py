"""The documentation's pictures: what a person sees, taken while the page is used."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playground_page import Playground

WRITE = """import os


def read(path):
    with open(path) as file:
       """


@pytest.fixture
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Playground, str], None]:
    """Keeps a picture with a palette: a tenth of the bytes, and the same to the eye."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    folder = Path(request.config.getoption("--pictures", default=None) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def save(page: Playground, name: str) -> None:
        picture: Any = image.open(io.BytesIO(page.page.screenshot()))
        small = picture.convert("RGB").quantize(160, dither=0)
        small.save(folder / f"{name}.png", optimize=True)
        assert (folder / f"{name}.png").stat().st_size < 120_000

    return save


def test_writing(visit: Callable[..., Playground], save: Callable[[Playground, str], None]) -> None:
    page = visit(settings={"maxTokens": 32, "alternatives": 6}, height=720)
    page.set_text(WRITE)
    page.type(" ")
    page.suggestion()
    page.button("Heat map").click()
    page.ghost.locator("[data-token]").nth(1).hover()
    page.page.locator(".popover").wait_for()
    save(page, "playground-write")


def test_filling(visit: Callable[..., Playground], save: Callable[[Playground, str], None]) -> None:
    page = visit(settings={"maxTokens": 48, "spread": 0.6}, color_scheme="dark", height=720)
    page.go_to("Fill")
    page.button("Fill the hole").click()
    page.page.locator(".card .diff").first.wait_for()
    page.idle()
    page.go_to("Prompt")
    page.page.locator(".ids").wait_for()
    save(page, "playground-fill")


def test_chatting(
    visit: Callable[..., Playground], save: Callable[[Playground, str], None]
) -> None:
    page = visit(settings={"temperature": 0.2, "seed": 4}, height=720)
    page.go_to("Chat")
    page.button("Write a function that adds two numbers.").click()
    page.page.locator(".tools button").last.wait_for()
    page.go_to("Settings")
    page.page.mouse.move(5, 5)
    save(page, "playground-chat")


def test_on_a_phone(
    visit: Callable[..., Playground], save: Callable[[Playground, str], None]
) -> None:
    page = visit(settings={"maxTokens": 32}, width=360, height=720, color_scheme="dark")
    page.set_text("import math\n\n\ndef area(radius):\n   ")
    page.type(" ")
    page.suggestion()
    save(page, "playground-phone")
