"""What the panes share: details, settings, theme, keys, and how the page behaves as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playground_page import Playground, ServerProcess

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
CODE = "import math\n\n\ndef area(radius):\n    return "
KEY = "k" * 40


def worked(page: Playground) -> None:
    """Every pane with something in it; the last one shown is the first."""
    page.go_to("Fill")
    page.button("Fill the hole").click()
    page.page.locator(".card .diff, .card .nothing").first.wait_for()
    page.idle()
    page.go_to("Chat")
    page.button("Write a class for a stack.").click()
    page.page.locator(".tools button").last.wait_for()
    page.go_to("Write")
    page.set_text(CODE[:-1])
    page.type(" ")
    page.suggestion()


def test_the_exact_prompt_is_shown_with_its_control_tokens(page: Playground) -> None:
    page.set_text(CODE)
    page.suggestion()
    page.go_to("Prompt")
    ids = page.page.locator('[data-sheet="prompt"] .ids')
    ids.wait_for()
    body = {"prompt": CODE, "suffix": ""}
    expected = page.page.request.post(f"{page.url}/v1/prompt_ids", data=body).json()["tokens"]
    shown = ids.locator(".id span").all_text_contents()
    assert shown == [str(token["id"]) for token in expected]
    controls = ids.locator(".is-control code").all_text_contents()
    assert controls == ["<s>", "<PRE>", "<SUF>", "<MID>"]
    colour = "e => getComputedStyle(e).backgroundColor"
    plain, control = ids.locator(".id:not(.is-control)").first, ids.locator(".is-control").first
    assert plain.evaluate(colour) != control.evaluate(colour)
    page.go_to("Chat")
    page.button("What does a list comprehension do?").click()
    page.page.locator(".tools button").last.wait_for()
    page.until(lambda: "[INST]" in "".join(ids.locator("code").all_text_contents()))


def test_speed_first_token_and_cache_are_shown(page: Playground) -> None:
    page.set_text(CODE * 4)
    page.suggestion()
    page.press("Escape")
    page.type("1")
    page.suggestion()
    assert int(page.figure("speed").removesuffix(" tok/s")) > 0
    assert int(page.figure("first").removesuffix(" ms")) > 0
    assert int(page.figure("prompt").removesuffix(" tokens")) > 30
    assert int(page.figure("cached").split()[0]) > 0, "the beginning of the text was known"


def test_settings_say_what_they_do_and_do_it(page: Playground) -> None:
    page.go_to("Settings")
    rows = page.page.locator(".setting")
    assert rows.count() == 17
    for i in range(rows.count()):
        control = rows.nth(i).locator("input, select, textarea")
        meaning = page.page.locator(f"#{control.get_attribute('aria-describedby')}")
        assert len(str(meaning.text_content())) > 20
        assert rows.nth(i).locator("label").get_attribute("for") == control.get_attribute("id")

    def put(name: str, value: str) -> None:
        control = page.page.locator(f"[data-setting={name}]")
        control.fill(value)
        control.blur()

    for name, value in {"temperature": "0.9", "topP": "0.5", "topK": "7", "minP": "0.1",
                        "repetitionPenalty": "1.1", "maxTokens": "9", "seed": "42",
                        "alternatives": "3"}.items():  # fmt: skip
        put(name, value)
    page.set_text("x = 1\n")
    page.suggestion()
    body = page.asked[-1]
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed",
             "logprobs")  # fmt: skip
    assert [body[name] for name in names] == [0.9, 0.5, 7, 0.1, 1.1, 9, 42, 3]
    put("temperature", "99")
    assert page.page.locator("[data-setting=temperature]").input_value() == "2"
    page.page.reload()
    page.go_to("Settings")
    assert page.page.locator("[data-setting=topK]").input_value() == "7"
    page.button("Back to the defaults").click()
    assert page.page.locator("[data-setting=topK]").input_value() == "0"
    assert page.page.locator("[data-setting=temperature]").input_value() == "0.2"


def test_text_survives_a_reload(page: Playground) -> None:
    page.set_text("mine = 1\n")
    page.press("Escape")
    page.page.reload()
    assert page.text == "mine = 1\n"


def test_dark_and_light_as_the_system_and_as_chosen(visit: Callable[..., Playground]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = visit(color_scheme="light").page.evaluate(ground)
    page = visit(color_scheme="dark")
    dark = page.page.evaluate(ground)
    assert light != dark
    button = page.page.get_by_role("button", name="Theme:")
    button.click()  # light, whatever the system says
    assert page.page.evaluate(ground) == light
    page.page.reload()
    assert page.page.evaluate(ground) == light
    button.click()
    assert page.page.evaluate(ground) == dark
    button.click()
    assert str(button.get_attribute("aria-label")).startswith("Theme: system")


def test_everything_by_keyboard_alone(page: Playground) -> None:
    """From the address bar through each pane, without a pointer."""
    press = page.press
    press("Tab")
    assert page.page.evaluate("document.activeElement.textContent") == "Skip to the work"
    press("Tab")
    for name in ("Fill", "Chat", "Write"):
        press("ArrowRight")
        tab = page.page.get_by_role("tab", name=name)
        assert tab.get_attribute("aria-selected") == "true"
        assert tab.evaluate("e => e === document.activeElement")
    is_in_editor = "document.activeElement.classList.contains('editor')"
    for _ in range(14):
        if page.page.evaluate(is_in_editor):
            break
        press("Tab")
    assert page.page.evaluate(is_in_editor)
    press("Control+End")
    page.type("2 * ")
    before = page.text
    ghost = page.suggestion()
    press("Alt+]")
    press("Alt+[")
    page.idle()
    # Out of the editor, which keeps the suggestion, to the list of tokens and an alternative.
    page.page.locator(".token-list").focus()
    press("ArrowRight")
    assert page.page.locator(".chip").nth(1).get_attribute("aria-selected") == "true"
    press("Tab")
    n = len(page.asked)
    if page.page.evaluate("document.activeElement.disabled"):
        press("Tab")
    press("Enter")
    page.until(lambda: len(page.asked) > n)
    page.idle()
    assert page.ghost_text != ghost
    page.editor.locator(".cm-content").focus()
    press("Tab")
    assert page.text.startswith(before)
    assert len(page.text) > len(before)
    press("Escape")
    press("Escape")
    press("Tab")
    assert not page.page.evaluate(is_in_editor), "Esc and Tab leave the editor"


def test_the_shortcuts_are_listed(page: Playground) -> None:
    page.button("Keyboard shortcuts").click()
    dialog = page.page.get_by_role("dialog", name="Keyboard")
    assert "accept the whole suggestion" in str(dialog.text_content())
    page.press("Escape")
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Callable[..., Playground], scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: make web installs it")
    page = visit(color_scheme=scheme, settings={"candidates": 2})
    check = Axe(page)
    check("empty write")
    for name in ("Fill", "Chat"):
        page.go_to(name)
        check(f"empty {name}")
    worked(page)
    page.button("Heat map").click()
    for pane in ("Write", "Fill", "Chat"):
        page.go_to(pane)
        check(f"worked {pane}")
    for sheet in ("Prompt", "Settings", "Tokens"):
        page.go_to(sheet)
        page.page.wait_for_timeout(100)
        check(sheet)
    page.page.locator(".answer [data-token]").first.hover()
    page.page.locator(".popover").wait_for()
    check("popover")
    page.page.mouse.move(5, 5)
    for name in ("Keyboard shortcuts", "Key of this server"):
        page.button(name).click()
        check(name)
        page.press("Escape")


class Axe:
    """The accessibility checker in the page."""

    def __init__(self, page: Playground) -> None:
        self._page = page.page
        self._page.evaluate(AXE.read_text())

    def __call__(self, where: str) -> None:
        found = self._page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]][:3])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{where}: {serious}"
        assert found["passes"], "nothing was checked"


def test_nothing_is_wider_than_a_small_phone(visit: Callable[..., Playground]) -> None:
    page = visit(width=360, height=740, has_touch=True, is_mobile=True)
    worked(page)
    too_wide = """() => document.documentElement.scrollWidth > innerWidth ||
      [...document.querySelectorAll('button, select, input, textarea, [role=tab]')]
        .filter(e => e.offsetParent !== null && !e.closest('.figures-box'))
        .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
        .filter(([_, box]) => box.left < 0 || box.right > innerWidth + 0.5)
        .map(([html]) => html).join()"""
    for pane in ("Write", "Fill", "Chat"):
        page.go_to(pane)
        for sheet in ("Tokens", "Prompt", "Settings"):
            page.go_to(sheet)
            assert page.page.evaluate(too_wide) == "", (pane, sheet)
    page.go_to("Write")
    accept = page.button("Accept all")
    accept.tap()
    assert page.text.startswith(CODE)


def test_the_first_paint_is_quick_and_the_page_light(visit: Callable[..., Playground]) -> None:
    """The quickest of three first visits: a busy machine says nothing about the page."""
    found = [_first_visit(visit()) for _ in range(3)]
    assert min(paint for paint, _ in found) < 1000, f"{found} (ms, bytes)"
    for _, size in found:
        assert 50_000 < size < 700_000, f"{size} bytes"


def _first_visit(page: Playground) -> tuple[float, int]:
    """The first contentful paint in ms, and the bytes of everything that was loaded."""
    paint, size = page.page.evaluate(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime,"
        " performance.getEntriesByType('resource').concat(performance.getEntriesByType"
        "('navigation')).reduce((sum, one) => sum + one.transferSize, 0)]"
    )
    return float(paint), int(size)


def test_the_policy_blocks_what_does_not_belong(visit: Callable[..., Playground]) -> None:
    page = visit(expect_errors=True)
    blocked = page.page.evaluate(
        """async () => {
          const found = [];
          const note = e => found.push(e.effectiveDirective);
          document.addEventListener('securitypolicyviolation', note);
          const script = document.createElement('script');
          try { script.textContent = 'window.hit = 1'; } catch { found.push('trusted types'); }
          const other = document.createElement('img');
          other.src = 'http://192.0.2.1/x.png';
          document.body.append(other);
          const style = document.createElement('style');
          style.textContent = 'body { display: none }';
          document.head.append(style);
          try { await fetch('http://192.0.2.1/'); } catch { found.push('fetch'); }
          try { document.body.innerHTML = '<b>x</b>'; } catch { found.push('markup'); }
          await new Promise(done => setTimeout(done, 200));
          return [found, window.hit];
        }"""
    )
    assert blocked[1] is None
    expected = {"trusted types", "img-src", "style-src-elem", "connect-src", "fetch", "markup"}
    page.elsewhere.clear()  # attempts, which were blocked
    assert expected <= set(blocked[0])


def test_a_key_is_asked_for_and_forgotten_with_the_tab(visit: Callable[..., Playground]) -> None:
    with ServerProcess.started(key=KEY) as server:
        page = visit(server.url, expect_errors=True)
        dialog = page.page.get_by_role("dialog", name="Key")
        dialog.wait_for()
        dialog.get_by_label("Key", exact=True).fill(KEY)
        dialog.get_by_role("button", name="Use this key").click()
        model = page.page.get_by_role("combobox", name="Model")
        page.until(lambda: model.input_value() == "codellama-nano")
        page.set_text(CODE)
        assert page.suggestion()
        assert page.page.evaluate("JSON.stringify(localStorage)").find(KEY) < 0
        page.page.reload()
        page.until(lambda: model.input_value() == "codellama-nano")
        page.button("Key of this server").click()
        page.button("Forget").click()
        dialog.wait_for()  # the server asks again
        assert page.page.evaluate("JSON.stringify(sessionStorage)").find(KEY) < 0


def test_the_page_waits_for_a_server_that_is_gone(visit: Callable[..., Playground]) -> None:
    with ServerProcess.started() as server:
        page = visit(server.url, expect_errors=True)
        page.set_text(CODE)
        page.suggestion()
        server.stop()
        page.press("Escape")
        page.type("x")
        banner = page.page.locator(".banner")
        banner.wait_for()
        assert "codellama serve" in str(banner.text_content())
        assert page.page.locator('.state[data-state="down"]').is_visible()
        page.go_to("Chat")
        page.button("Write a class for a stack.").click()
        page.page.locator(".chat .notice").wait_for()
        with ServerProcess.started(port=server.port):
            banner.wait_for(state="hidden")
            page.button("Try again").click()
            page.page.locator(".tools button").last.wait_for()


def test_an_empty_place_says_so(visit: Callable[..., Playground]) -> None:
    def nothing(route: Any) -> None:
        end = '{"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}'
        route.fulfill(content_type="text/event-stream", body=f"data: {end}\n\ndata: [DONE]\n\n")

    page = visit(before=lambda page: page.route("**/v1/completions", nothing))
    page.set_text("x")
    page.until(lambda: page.page.locator(".write .hint").text_content() == "No suggestion here.")
    page.go_to("Fill")
    page.button("Fill the hole").click()
    page.page.locator(".card .nothing").first.wait_for()
    assert "Nothing" in str(page.page.locator(".card").first.text_content())
