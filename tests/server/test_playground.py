"""The playground's files and routes; `tests/web` drives the page itself in a browser."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import Running

from codellama.server import playground

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Encoding": "gzip, br"}
MAX_BYTES = 700_000


def test_a_browser_gets_the_page_and_others_their_text(live: Running) -> None:
    answer = live.get("/", headers=BROWSER)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<title>codellama playground</title>" in gzip.decompress(answer.content)
    assert live.get("/", headers={"Accept": "*/*"}).content == b"Ollama is running"
    assert live.get("/").content == b"Ollama is running"
    head = live.ask("HEAD", "/", headers=BROWSER)
    assert (head.status, head.content) == (200, b"")
    assert "accept" in answer.headers["vary"]


def test_the_page_is_under_a_strict_policy(live: Running) -> None:
    for path in ("/", *playground.PATHS):
        headers = live.get(path, headers=BROWSER).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["connect-src"] == policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_page_needs_nothing_but_its_files(live: Running) -> None:
    page = live.get("/", headers={"Accept": "text/html"}).content.decode()
    assert not re.search(r"<style|style=|<script(?![^>]*\bsrc=)| on\w+=", page)
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert named == playground.PATHS
    for path in named:
        assert re.fullmatch(r"/assets/[a-z]+-[\w-]{8}\.(js|css|svg)", path)
        content = live.get(path).content.decode()
        urls = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[\w/.]*", content))
        assert urls <= {"http://www.w3.org/2000/svg"}


def test_files_are_kept_for_ever_and_the_page_is_asked_for_again(live: Running) -> None:
    for path in ("/", *playground.PATHS):
        answer = live.get(path, headers=BROWSER)
        expected = "no-cache" if path == "/" else "public, max-age=31536000, immutable"
        assert answer.headers["cache-control"] == expected
        again = live.get(path, headers=BROWSER | {"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
        assert live.get(path, headers=BROWSER | {"If-None-Match": '"other"'}).status == 200


def test_the_page_is_light(live: Running) -> None:
    total = 0
    for path in ("/", *playground.PATHS):
        packed = live.get(path, headers=BROWSER)
        assert packed.headers["content-encoding"] == "gzip"
        assert "accept-encoding" in packed.headers["vary"]
        plain = live.get(path, headers={"Accept": "text/html"})
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(packed.content) == plain.content
        total += len(packed.content)
    assert total < MAX_BYTES, f"{total} bytes"


def test_only_the_shipped_files_are_there(live: Running) -> None:
    for path in ("/assets/", "/assets/x.js", "/assets/../index.html", "/assets/%2e%2e/index.html",
                 "/index.html", "/static/index.html"):  # fmt: skip
        assert live.get(path).status == 404, path
    assert live.post(next(iter(playground.PATHS)), {}).status == 405


def test_no_source_turns_text_into_markup_or_code() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment"
        r"|\beval\(|new Function|srcdoc|[\"']javascript:|setAttribute\(\"style\""
    )
    sources = sorted((WEB / "src").glob("*.ts"))
    assert len(sources) > 10
    for source in sources:
        assert not forbidden.search(source.read_text()), source.name


def bundle(live: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a reply came from: the ids that reached the engine."""
    answer = live.post(path, body | {"bundle": True, "max_tokens": 8, "seed": 3})
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json["choices"][0]["bundle"]
    return found


@pytest.mark.parametrize(
    ("path", "body", "controls"),
    [
        ("/v1/completions", {"prompt": "def f(", "suffix": "\n    return x\n"}, 4),
        ("/v1/completions", {"prompt": "x = '<PRE>' # ü😀\n"}, 1),
        ("/v1/completions", {"prompt": [1, 70, 71, 72]}, 1),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "system", "content": "Be brief."},
                          {"role": "user", "content": "Add two numbers."}]},
            1,
        ),
    ],
)  # fmt: skip
def test_prompt_ids_are_those_that_the_engine_reads(
    live: Running, path: str, body: dict[str, Any], controls: int
) -> None:
    answer = live.post("/v1/prompt_ids", body)
    assert answer.status == 200, answer.content
    found = bundle(live, path, body)
    assert [token["id"] for token in answer.json["tokens"]] == found["prompt_ids"]
    assert answer.json["stop_token_ids"] == found["stop_ids"]
    assert answer.json["count"] == len(found["prompt_ids"])
    assert sum(token["is_control"] for token in answer.json["tokens"]) == controls


def test_prompt_ids_are_refused_as_replies_are(live: Running) -> None:
    for body in ({}, {"prompt": [10**6]}, {"prompt": []}, {"messages": []}, {"prompt": 3}):
        assert live.post("/v1/prompt_ids", body).status == 400, body
    assert live.post("/v1/prompt_ids", {"prompt": "x " * 9000}).status == 400


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_a_completion_have_their_ids(live: Running, stream: bool) -> None:
    body = {"prompt": "def ünï(", "max_tokens": 12, "seed": 5, "logprobs": 4}
    plain = live.post("/v1/completions", body).json["choices"][0]
    assert "content" not in plain["logprobs"]
    expected = live.post("/v1/completions", body | {"bundle": True}).json["choices"][0]["bundle"]
    answer = live.post("/v1/completions", body | {"return_token_ids": True, "stream": stream})
    choices = [event["choices"][0] for event in answer.events] if stream else answer.json["choices"]
    content = [token for choice in choices for token in choice["logprobs"]["content"]]
    assert [token["id"] for token in content] == expected["token_ids"]
    assert bytes(b for token in content for b in token["bytes"]).decode() == expected["text"]
    for token in content:
        assert len(token["top_logprobs"]) == 4
        assert len({other["id"] for other in token["top_logprobs"]}) == 4


def test_a_stream_ends_with_its_times_where_usage_is_asked_for(live: Running) -> None:
    body = {"prompt": "def f(", "max_tokens": 6, "stream": True}
    last = live.post("/v1/completions", body | {"stream_options": {"include_usage": True}}).events[
        -1
    ]
    assert last["choices"] == []
    times = last["timings"]
    assert times["prompt_n"] + times["cache_n"] == last["usage"]["prompt_tokens"]
    assert times["predicted_n"] == last["usage"]["completion_tokens"]
    assert all("timings" not in event for event in live.post("/v1/completions", body).events)


def node(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (WEB / "node_modules").is_dir():
        pytest.skip("the playground's tools are not installed: make web installs them")
    return subprocess.run(["npx", "--no-install", *words], cwd=WEB, capture_output=True, text=True)


def test_the_shipped_page_is_what_the_sources_build(tmp_path: Path) -> None:
    done = node("tsc", "--noEmit")
    assert done.returncode == 0, done.stdout
    done = node("vite", "build", "--outDir", str(tmp_path), "--logLevel", "error")
    assert done.returncode == 0, done.stderr
    made = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.*")}
    shipped = playground.FOLDER
    assert made == {str(p.relative_to(shipped)): p.read_bytes() for p in shipped.rglob("*.*")}, (
        "the sources in web/ were changed: make web builds the page again"
    )


def test_the_pure_parts_of_the_page() -> None:
    done = node("vitest", "run", "--reporter=dot")
    assert done.returncode == 0, done.stdout + done.stderr
