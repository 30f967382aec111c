"""The pane for filling: candidates side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playground_page import Playground

BEFORE = "def add(a, b):\n    "
HOLE = "pass"
AFTER = "\n\n\nprint(add(2, 3))\n"


def opened(visit: Callable[..., Playground], **settings: Any) -> Playground:
    """The pane with `HOLE` selected in its code."""
    page = visit(settings={"spread": 1.2, "candidates": 3} | settings)
    page.go_to("Fill")
    page.set_text(BEFORE + HOLE + AFTER)
    page.press("Control+Home")
    page.press("ArrowDown")
    page.press("End")
    for _ in HOLE:
        page.press("Shift+ArrowLeft")
    return page


def filled(visit: Callable[..., Playground], **settings: Any) -> Playground:
    page = opened(visit, **settings)
    page.button("Fill the hole").click()
    page.page.locator(".card .diff, .card .nothing").first.wait_for()
    page.idle()
    return page


def candidate(page: Playground, card: Any) -> str:
    """A candidate's text without its line ends, from the tokens in its diff."""
    return "".join(card.locator("[data-token]").all_text_contents())


def test_candidates_stand_side_by_side_as_a_diff(visit: Callable[..., Playground]) -> None:
    page = filled(visit)
    body = page.asked[-1]
    assert (body["prompt"], body["suffix"]) == (BEFORE, AFTER)
    assert (body["n"], body["temperature"]) == (3, 1.2)
    cards = page.page.locator(".card:visible")
    assert cards.count() >= 2
    boxes = [cards.nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    first = cards.first
    assert first.locator(".line.is-removed code").text_content() == f"    {HOLE}"
    assert first.locator(".line.is-added").count() >= 1
    assert "def add(a, b):" in first.locator(".line.is-same code").all_text_contents()


def test_a_candidate_is_applied_and_another_instead(visit: Callable[..., Playground]) -> None:
    page = filled(visit)
    cards = page.page.locator(".card:visible")
    for i in (0, 1):
        wanted = candidate(page, cards.nth(i))
        cards.nth(i).get_by_role("button", name="Apply").click()
        middle = page.text.removeprefix(BEFORE).removesuffix(AFTER)
        assert BEFORE + middle + AFTER == page.text
        assert middle.replace("\n", "") == wanted
    page.press("Control+z")
    page.press("Control+z")
    assert page.text == BEFORE + HOLE + AFTER


def test_what_no_longer_fits_cannot_be_applied(visit: Callable[..., Playground]) -> None:
    page = filled(visit)
    apply = page.page.locator(".card:visible .apply").first
    assert apply.is_enabled()
    page.editor.locator(".cm-content").click()
    page.press("Control+Home")
    page.type("# new\n")
    assert apply.is_disabled()
    assert "fill again" in str(page.page.locator(".where").text_content())
    for _ in "# new\n":
        page.press("Backspace")
    assert apply.is_enabled()


def test_a_hole_at_the_cursor_by_keyboard(visit: Callable[..., Playground]) -> None:
    page = opened(visit)
    page.press("Delete")
    assert "at the cursor, line 2, column 5" in str(page.page.locator(".where").text_content())
    page.press("Control+Enter")
    page.page.locator(".card .diff, .card .nothing").first.wait_for()
    page.idle()
    assert (page.asked[-1]["prompt"], page.asked[-1]["suffix"]) == (BEFORE, AFTER)


def test_the_number_of_candidates_is_chosen(visit: Callable[..., Playground]) -> None:
    page = opened(visit)
    page.page.get_by_role("combobox", name="Candidates").select_option("5")
    page.button("Fill the hole").click()
    page.until(lambda: page.asked)
    assert page.asked[-1]["n"] == 5
    assert page.page.locator(".card").count() == 5
    page.idle()


def test_filling_can_be_stopped(visit: Callable[..., Playground]) -> None:
    page = opened(visit, maxTokens=1000, temperature=1, spread=2)
    page.button("Fill the hole").click()
    page.page.locator(".card .diff").first.wait_for()
    page.button("Stop").click()
    page.until(lambda: page.lost)
    page.button("Fill the hole").wait_for()
    page.idle()
    assert page.button("Fill the hole").is_enabled()


def test_equal_candidates_become_one(visit: Callable[..., Playground]) -> None:
    page = filled(visit, spread=0)
    cards = page.page.locator(".card:visible")
    assert cards.count() == 1
    assert "3 agree" in str(cards.text_content())


def test_another_token_changes_that_candidate(visit: Callable[..., Playground]) -> None:
    page = filled(visit)
    card = page.page.locator(".card:visible").nth(1)
    before = candidate(page, card)
    token = card.locator(".diff [data-token]").first
    token.hover()
    page.page.locator(".popover button:enabled").first.click()
    page.until(lambda: isinstance(page.asked[-1]["prompt"][0], int))
    page.idle()
    assert candidate(page, card) != before
    assert "Candidate 2" in str(page.page.locator(".summary").first.text_content())
