"""The pane for chatting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playground_page import Playground

QUESTION = "Write a function that adds two numbers."


def sse(text: str) -> str:
    """A reply as the server would stream it."""
    import json

    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    end = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]}
    return f"data: {json.dumps(chunk)}\n\ndata: {json.dumps(end)}\n\ndata: [DONE]\n\n"


def answering(text: str) -> Callable[[Any], None]:
    """Lets every request for a chat's reply be answered by `text`."""

    def before(page: Any) -> None:
        page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(content_type="text/event-stream", body=sse(text)),
        )

    return before


def ask(page: Playground, question: str = QUESTION) -> None:
    page.go_to("Chat")
    page.page.get_by_role("textbox", name="Message").fill(question)
    page.press("Enter")


def answered(page: Playground) -> str:
    page.page.locator(".tools button").last.wait_for()
    page.idle()
    return str(page.page.locator(".answer").last.text_content())


def test_an_answer_is_streamed(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"chatTokens": 200, "temperature": 1, "system": "Be brief."})
    lengths: set[int] = set()
    ask(page)
    end = page.page.locator(".tools button").last
    while not end.is_visible():
        lengths.add(page.page.locator(".answer .token").count())
    assert len(lengths) > 2, "it came in one piece"
    body = page.asked[-1]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION},
    ]  # fmt: skip
    assert body["stream"] is True
    assert page.page.locator(".question").text_content() == f"You: {QUESTION}"


def test_the_conversation_goes_on(page: Playground) -> None:
    ask(page)
    answered(page)
    ask(page, "Why?")
    answered(page)
    roles = [message["role"] for message in page.asked[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    page.button("New chat").click()
    assert page.page.locator(".turn").count() == 0
    page.button(QUESTION).click()  # an example
    answered(page)
    assert len(page.asked[-1]["messages"]) == 1


def test_stop_and_escape_end_an_answer(visit: Callable[..., Playground]) -> None:
    page = visit(settings={"chatTokens": 1800, "temperature": 2, "topP": 1})
    for end in ("button", "key"):
        page.go_to("Chat")
        page.button("New chat").click()
        n = len(page.lost)
        ask(page)
        page.page.locator(".turn:last-child .answer .token").nth(5).wait_for()
        if end == "button":
            page.button("Stop").click()
        else:
            page.page.get_by_role("textbox", name="Message").press("Escape")
        page.until(lambda n=n: len(page.lost) > n)
        assert "Stopped." in str(page.page.locator(".tools").last.text_content())
        page.button("Send").wait_for()


def test_shift_enter_makes_a_line(page: Playground) -> None:
    page.go_to("Chat")
    box = page.page.get_by_role("textbox", name="Message")
    box.fill("one")
    page.press("Shift+Enter")
    page.type("two")
    assert box.input_value() == "one\ntwo"
    assert page.asked == []


def test_code_is_copied_and_inserted(visit: Callable[..., Playground]) -> None:
    code = "def add(a, b):\n    return a + b"
    page = visit(before=answering(f"So:\n```python\n{code}\n```\nDone."),
                 permissions=["clipboard-read", "clipboard-write"])  # fmt: skip
    page.set_text("# mine\n")
    page.press("Escape")
    ask(page)
    answered(page)
    assert page.page.locator(".code figcaption span").first.text_content() == "python"
    assert page.page.locator(".answer > p").all_text_contents() == ["So:", "Done."]
    page.button("Copy").click()
    page.button("Copied").wait_for()
    assert page.page.evaluate("navigator.clipboard.readText()") == code
    page.button("Insert in editor").click()
    assert page.page.get_by_role("tab", name="Write").get_attribute("aria-selected") == "true"
    assert page.text == f"# mine\n{code}"
    page.press("Control+z")
    assert page.text == "# mine\n"


def test_an_answer_can_be_asked_for_again(page: Playground) -> None:
    ask(page)
    answered(page)
    n = len(page.asked)
    page.button("Ask again").click()
    page.until(lambda: len(page.asked) > n)
    answered(page)
    assert page.page.locator(".turn").count() == 1
    assert page.asked[-1]["messages"] == page.asked[n - 1]["messages"]


def test_another_token_goes_on_from_there(page: Playground) -> None:
    ask(page)
    before = answered(page)
    page.page.locator(".answer [data-token]").nth(2).hover()
    page.page.locator(".popover button:enabled").first.click()
    page.until(lambda: "prompt" in page.asked[-1])
    after = answered(page)
    assert after != before
    assert all(isinstance(one, int) for one in page.asked[-1]["prompt"])


def test_markup_of_the_model_is_text(visit: Callable[..., Playground]) -> None:
    hostile = (
        '<img src=x onerror="window.hit=1"><script>window.hit=1</script><b>bold</b>\n'
        "```html\n<svg onload=window.hit=1></svg>\n```\n[x](javascript:window.hit=1)"
    )
    page = visit(before=answering(hostile))
    ask(page, "<img src=x onerror=window.hit=1>")
    shown = answered(page)
    assert '<img src=x onerror="window.hit=1">' in shown
    assert "<svg onload" in shown
    inside = page.page.locator(".log img, .log script, .log b, .log svg, .log a")
    assert inside.count() == 0
    page.button("Insert in editor").click()
    assert "<svg onload" in page.text
    assert page.page.evaluate("window.hit") is None


def test_an_error_says_what_to_do_and_can_be_tried_again(visit: Callable[..., Playground]) -> None:
    busy = {"error": {"message": "too many", "type": "x", "param": None, "code": "queue_full"}}

    def before(page: Any) -> None:
        page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(status=429, headers={"retry-after": "7"}, json=busy),
            times=1,
        )

    page = visit(before=before, expect_errors=True)
    ask(page)
    notice = page.page.get_by_role("alert").filter(has_text="busy")
    notice.wait_for()
    assert "in 7 s" in str(notice.text_content())
    page.button("Try again").click()
    assert answered(page)
