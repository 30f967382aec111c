"""What a person does with the playground, for tests that drive it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

SETTINGS = {"temperature": 0, "seed": 11, "maxTokens": 24, "chatTokens": 60, "debounceMs": 120}
WAIT_MS = 20_000

# The text of an editor: its lines, without what is shown but not in it.
_TEXT = """host => [...host.shadowRoot.querySelectorAll('.cm-line')].map(line => {
  const copy = line.cloneNode(true);
  copy.querySelectorAll('.ghost').forEach(ghost => ghost.remove());
  return copy.textContent;
}).join('\\n')"""


class ServerProcess:
    """`codellama serve`, as a person starts it."""

    def __init__(self, *, port: int = 0, key: str | None = None) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "CODELLAMA_API_KEY"}
        if key is not None:
            environment["CODELLAMA_API_KEY"] = key
        words = ["serve", "nano", "--port", str(port), "--threads", "1", "--log-level", "warning"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codellama", *words],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._process.stderr is not None
        for line in self._process.stderr:
            found = re.search(r"at (http://[\d.]+:(\d+))", line)
            if found:
                self.url, self.port = found[1], int(found[2])
                return
        raise AssertionError("the server did not start")

    @classmethod
    @contextmanager
    def started(cls, *, port: int = 0, key: str | None = None) -> Iterator[Self]:
        server = cls(port=port, key=key)
        try:
            yield server
        finally:
            server.stop()

    def stop(self) -> None:
        """Ends it as a crash would: at once, with every connection."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


class Playground:
    """One visit. `asked` are the bodies of requests for replies, `lost` those that were ended."""

    def __init__(
        self,
        browser: Any,
        url: str,
        *,
        settings: dict[str, Any] | None = None,
        width: int = 1280,
        height: int = 800,
        expect_errors: bool = False,
        before: Callable[[Any], None] | None = None,
        **context: Any,
    ) -> None:
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        self._expect_errors = expect_errors
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **context
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("request", self._note_request)
        self.page.on("requestfailed", lambda request: self.lost.append(request.url))
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        stored = json.dumps(json.dumps(SETTINGS | (settings or {})))
        self.page.add_init_script(
            f"if (!localStorage.getItem('settings')) localStorage.setItem('settings', {stored})"
        )
        if before is not None:
            before(self.page)
        self.page.goto(url)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(self.url + "/") and not request.url.startswith("blob:"):
            self.elsewhere.append(request.url)
        if request.url.endswith(("/v1/completions", "/v1/chat/completions")):
            self.asked.append(request.post_data_json)

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def check_that_nothing_went_wrong(self) -> None:
        assert self.elsewhere == [], f"the page spoke to somebody else: {self.elsewhere}"
        if not self._expect_errors:
            assert self.errors == [], self.errors

    def close(self) -> None:
        self.context.close()

    # What is on the page

    def go_to(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    @property
    def editor(self) -> Any:
        """The editor of the pane that is shown."""
        return self.page.locator(".pane:visible .editor")

    @property
    def text(self) -> str:
        found: str = self.editor.evaluate(_TEXT)
        return found

    @property
    def ghost(self) -> Any:
        return self.page.locator(".ghost")

    @property
    def ghost_text(self) -> str:
        return str(self.ghost.text_content())

    def figure(self, name: str) -> str:
        return str(self.page.locator(f"[data-figure={name}]").text_content())

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def press(self, keys: str) -> None:
        self.page.keyboard.press(keys)

    # What a person does

    def set_text(self, text: str) -> None:
        """Replaces the editor's text at once, as pasting does; the cursor is behind it."""
        self.editor.locator(".cm-content").click()
        self.press("Control+a")
        self.press("Delete")
        self.page.keyboard.insert_text(text)

    def type(self, text: str, delay_ms: float = 0) -> None:
        self.page.keyboard.type(text, delay=delay_ms)

    def suggestion(self) -> str:
        """The suggestion's text once it is whole."""
        self.ghost.wait_for()
        self.idle()
        return self.ghost_text

    def idle(self) -> None:
        """Waits until the page asks for nothing."""
        self.page.wait_for_timeout(60)
        self.page.locator('.state[data-state="ready"]').wait_for()

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for what has to come about."""
        end = time.monotonic() + WAIT_MS / 1000
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            self.page.wait_for_timeout(20)
