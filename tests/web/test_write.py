"""The pane for writing: suggestions at the cursor."""

from __future__ import annotations

from collections.abc import Callable

from playground_page import Playground

CODE = """import math


class Circle:
    def __init__(self, radius):
        self.radius = radius

    def area(self):
        return """


def written(page: Playground) -> str:
    """Some code, and the suggestion that goes on with it."""
    page.set_text(CODE[:-1])
    page.type(" ")
    return page.suggestion()


def test_typing_brings_a_suggestion_that_is_no_text_yet(page: Playground) -> None:
    ghost = written(page)
    assert ghost.strip()
    assert page.text == CODE
    assert page.asked[-1]["prompt"] == CODE
    assert page.asked[-1]["suffix"] == ""
    assert page.page.locator('[data-sheet="tokens"] .chip').count() > 1


def test_a_pause_comes_before_the_model_is_asked(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"debounceMs": 1000})
    page.set_text("x = 1\n")
    page.idle()
    before = len(page.asked)
    page.type("def add(a, b):", delay_ms=20)
    page.ghost.wait_for()
    assert len(page.asked) == before + 1
    assert page.asked[-1]["prompt"].endswith("def add(a, b):")


def test_a_key_press_ends_the_request_before_it(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"maxTokens": 900, "temperature": 1.5, "debounceMs": 0})
    page.set_text("def f(x):\n    ")
    for _ in range(5):  # a reply may have been short
        page.ghost.wait_for()
        page.type("§")  # nothing that could have been suggested
        page.page.wait_for_timeout(200)
        if page.lost:
            break
    assert page.lost[-1].endswith("/v1/completions")
    page.until(lambda: int(page.figure("cancelled")) >= 1)


def test_tab_accepts_all(page: Playground) -> None:
    ghost = written(page)
    page.press("Tab")
    assert page.text == CODE + ghost


def test_tab_indents_where_nothing_is_suggested(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"auto": False})
    page.set_text("x")
    page.press("Home")
    page.press("Tab")
    assert page.text == "    x"
    assert page.asked == []


def test_alt_enter_accepts_one_line(page: Playground) -> None:
    page.set_text("class Stack:")
    page.type("\n")
    ghost = page.suggestion()
    page.until(lambda: "\n" in page.ghost_text.strip())
    page.press("Alt+Enter")
    taken = page.text.removeprefix("class Stack:\n")
    indent = taken[: len(taken) - len(taken.lstrip())]
    assert taken.strip()
    assert taken.strip().count("\n") == 0
    assert (indent + ghost.lstrip()).startswith(taken.rstrip())
    assert page.ghost_text.strip()


def test_escape_dismisses(page: Playground) -> None:
    written(page)
    page.press("Escape")
    assert page.ghost.count() == 0
    assert page.text == CODE
    page.page.wait_for_timeout(300)
    assert page.ghost.count() == 0


def test_other_candidates_with_alt_brackets(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"spread": 1.5, "candidates": 4})
    first = written(page)
    count = page.page.locator(".count")
    page.press("Alt+]")
    page.until(lambda: "of" in count.text_content())
    assert page.asked[-1]["n"] == 3
    assert page.asked[-1]["temperature"] == 1.5
    second = page.ghost_text
    assert second != first
    page.press("Alt+[")
    assert page.ghost_text == first
    assert str(count.text_content()).startswith("1 of ")
    page.button("Next suggestion").click()
    assert page.ghost_text == second
    page.press("Tab")
    assert page.text == CODE + second


def test_typing_along_asks_nothing(page: Playground) -> None:
    ghost = written(page)
    n = len(page.asked)
    for i in range(1, 5):
        page.type(ghost[i - 1])
        assert page.ghost_text == ghost[i:]
    page.press("Backspace")
    assert page.ghost_text == ghost[3:]
    page.page.wait_for_timeout(400)
    assert len(page.asked) == n
    assert page.figure("memory") == "5"
    page.press("Tab")
    assert page.text == CODE + ghost


def test_a_suggestion_can_be_asked_for(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"auto": False})
    page.set_text(CODE)
    page.page.wait_for_timeout(300)
    assert page.asked == []
    page.press("Alt+\\")
    assert page.suggestion().strip()
    page.press("Escape")
    page.button("Suggest").click()
    assert page.suggestion().strip()


def test_the_buttons_do_what_the_keys_do(page: Playground) -> None:
    ghost = written(page)
    page.button("Dismiss").click()
    assert page.ghost.count() == 0
    page.button("Suggest").click()
    page.suggestion()
    page.button("Accept all").click()
    assert page.text == CODE + ghost


def test_suggestions_of_one_line(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"lines": "one"})
    assert "\n" not in written(page)
    assert page.asked[-1]["stop"] == ["\n"]


def test_a_token_shows_its_probability_and_goes_on_with_another(page: Playground) -> None:
    ghost = written(page)
    page.ghost.locator("[data-token='1']").hover()
    card = page.page.locator(".popover")
    card.wait_for()
    assert "%" in str(card.text_content())
    buttons = card.get_by_role("button", disabled=False)
    assert buttons.count() >= 4
    n = len(page.asked)
    buttons.first.click()
    page.until(lambda: len(page.asked) > n)
    page.idle()
    assert page.ghost_text != ghost
    ids = page.asked[-1]["prompt"]
    assert all(isinstance(one, int) for one in ids)
    chips = page.page.locator('[data-sheet="tokens"] .chip')
    first = str(chips.nth(0).text_content()).replace("·", " ")
    assert page.ghost_text.startswith(first)
    page.press("Tab")  # the editor has kept the focus, or the click gave it away
    page.editor.locator(".cm-content").focus()


def test_the_heat_map_colours_what_was_improbable(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"temperature": 1.5, "seed": 5})
    page.set_text("def f(")
    page.suggestion()
    improbable = page.ghost.locator(".heat-4, .heat-3").first
    colour = "e => getComputedStyle(e).backgroundColor"
    assert improbable.evaluate(colour) == "rgba(0, 0, 0, 0)"
    page.button("Heat map").click()
    assert improbable.evaluate(colour) != "rgba(0, 0, 0, 0)"
    assert page.button("Heat map").get_attribute("aria-pressed") == "true"


def test_a_file_larger_than_the_context_is_shown_in_part(visit: Callable[..., Playground]) -> None:
    page = visit(expect_errors=True)  # the first requests are refused as too long
    page.set_text("".join(f"value_{i} = {i}\n" for i in range(700)))
    page.type("x = ")
    page.suggestion()
    prompt = page.asked[-1]["prompt"]
    assert prompt.endswith("x = ")
    assert 1000 < len(prompt) < 9000
    assert prompt.startswith("value_")
    n = len(page.asked)
    page.press("Escape")
    page.type("§")
    page.until(lambda: len(page.asked) > n)
    page.idle()
    assert len(page.asked) == n + 1  # what fits is remembered
    assert page.asked[-1]["prompt"] == f"{prompt}§"


def test_a_word_that_is_half_typed_is_gone_on_with(visit: Callable[..., Playground]) -> None:
    """Suffix first, where the reply is made to begin with the token that the cursor stands in."""
    page = visit(settings={"order": "spm"})
    page.set_text("def double(x):\n    ret")
    ghost = page.suggestion()
    assert page.asked[-1]["order"] == "spm"
    chips = page.page.locator('[data-sheet="tokens"] .chip')
    shown = "".join(chips.all_text_contents())
    assert shown == ghost.replace(" ", "·").replace("\n", "⏎")
    page.go_to("Prompt")
    prompt = page.page.locator('[data-sheet="prompt"]')
    page.until(lambda: "···ret" in str(prompt.text_content()))
    assert prompt.locator(".is-control code").all_text_contents() == [
        "<s>",
        "<PRE>",
        "<SUF>",
        "<MID>",
    ]
    page.go_to("Tokens")
    chips.nth(1).click()
    page.page.locator(".detail button:enabled").first.click()
    page.until(lambda: len(page.asked) > 1)
    page.idle()
    assert page.ghost_text != ghost
    assert page.asked[-1]["prompt"].startswith("def double(x):\n    ret")
