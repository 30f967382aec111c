"""The settings under `editors` are what they should be, and lead to routes that answer.

Clients that were not run are replayed: the requests are those of Zed, llama.vscode 0.0.63, Continue
2.0.0 and aider (through LiteLLM), as read in their sources, sent to the address in our settings.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from editor_fills import TOLD, fills
from harness import Running, running, scripted

from fakes import ScriptedModel

EDITORS = Path(__file__).parents[2] / "editors"
PREFIX, SUFFIX = "def area(r):\n    return ", "\n\nprint(area(2))\n"
FILL = "3.14 * r * r"
STOPS = ["<PRE>", "<SUF>", "<MID>", "<EOT>", "/src/", "#- coding: utf-8", "```"]


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    def reply(prefix: str, suffix: str) -> str | None:
        return FILL if prefix.endswith(PREFIX) else ""

    model = ScriptedModel(n_blocks=512, script=fills(reply))
    with running(("codellama-nano", scripted(model, max_seq_len=2048)), settings=TOLD) as found:
        yield found


def path_of(url: str) -> str:
    """The path of an address in the settings, which name the server's default port."""
    parts = urlsplit(url)
    assert parts.netloc == "127.0.0.1:8012"
    return parts.path


def yaml(name: str) -> Any:
    module = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return module.safe_load((EDITORS / name).read_text())


def test_helix_names_a_server_that_is_there() -> None:
    found = tomllib.loads((EDITORS / "helix" / "languages.toml").read_text())
    server = found["language-server"]["codellama"]
    assert [server["command"], *server["args"]] == ["codellama", "lsp"]
    assert all("codellama" in language["language-servers"] for language in found["language"])


def test_zed_is_answered_in_the_shape_that_it_reads(served: Running) -> None:
    found = json.loads((EDITORS / "zed" / "settings.json").read_text())["edit_predictions"]
    api = found[found["provider"]]
    body = {
        "model": api["model"], "prompt": f"<PRE> {PREFIX} <SUF>{SUFFIX} <MID>",
        "max_tokens": api["max_output_tokens"], "stop": ["<PRE>", "<SUF>", "<MID>"],
    }  # fmt: skip
    assert "codellama" in api["model"]  # by which Zed infers the form of the prompt
    answer = served.post(path_of(api["api_url"]), body).json
    assert {"id", "object", "created", "model", "choices", "usage"} <= answer.keys()
    assert set(answer["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}
    [choice] = answer["choices"]
    assert choice["text"] == FILL
    assert choice["finish_reason"] == "stop"


def test_continue_fills_and_chats(served: Running) -> None:
    [model] = yaml("continue/config.yaml")["models"]
    assert model["provider"] == "llama.cpp"
    assert "codellama" in model["model"]
    base = path_of(model["apiBase"])
    body = {
        "model": model["model"], "prompt": f"<PRE> {PREFIX} <SUF>{SUFFIX} <MID>", "stream": True,
        "n_predict": 64, "stop": STOPS, "temperature": 0.01, "top_k": None, "mirostat": None,
    }  # fmt: skip
    answer = served.post(f"{base}/completion", body, headers={"Authorization": "Bearer undefined"})
    text = answer.content.decode()
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    assert "".join(event["content"] for event in events) == FILL
    assert events[-1]["stop"] is True


def test_llama_vim_and_llama_vscode_fill(served: Running) -> None:
    text = (EDITORS / "vim" / "llama.vim").read_text()
    fim, chat = re.findall(r"'(http://[^']+)'", text)
    assert path_of(chat) == "/v1/chat/completions"
    body = {
        "input_prefix": "def area(r):\n", "input_suffix": SUFFIX, "prompt": "    return ",
        "input_extra": [{"text": "x = 1\n", "time": 1, "filename": "a.py"}], "n_predict": 128,
        "top_k": 40, "top_p": 0.99, "stream": False, "n_cmpl": 3, "cache_prompt": True,
        "samplers": ["top_k", "top_p", "infill"], "t_max_prompt_ms": 500, "t_max_predict_ms": 500,
    }  # fmt: skip
    answers = served.post(path_of(fim), body).json
    assert [answer["content"] for answer in answers] == [FILL] * 3
    assert answers[0]["generation_settings"]["n_ctx"] == 2048


def test_aider_chats(served: Running) -> None:
    found = yaml("aider/aider.conf.yml")
    base = path_of(found["openai-api-base"])
    provider, model = found["model"].split("/")
    assert provider == "openai"
    body = {
        "model": model, "temperature": 0, "stream": True, "max_tokens": 4,
        "messages": [{"role": "system", "content": "Code."}, {"role": "user", "content": "Hi."}],
    }  # fmt: skip
    events = served.post(f"{base}/chat/completions", body).events
    assert all("content" in event["choices"][0]["delta"] for event in events)
    assert events[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_every_setting_of_the_extension_is_one_of_the_server() -> None:
    import dataclasses

    from codellama.lsp.settings import Settings

    package = json.loads((EDITORS / "vscode" / "package.json").read_text())
    declared = package["contributes"]["configuration"]["properties"]
    defaults = {f"codellama.{field.name}": field.default for field in dataclasses.fields(Settings)}
    found = {name: about["default"] for name, about in declared.items()}
    assert found.pop("codellama.command") == ["codellama", "lsp"]
    assert found.pop("codellama.off_for") == list(defaults.pop("codellama.off_for"))  # type: ignore[call-overload]
    assert found == defaults
