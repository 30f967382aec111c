"""ACC: who may ask. Named after the reliability programme's lines."""

from __future__ import annotations

import json
import logging
import random
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import Running, running, scripted

from codellama.errors import ConfigError
from codellama.server import access, playground
from codellama.server.app import ENDPOINTS
from codellama.server.run import JsonLines
from codellama.server.settings import Settings, read_keys

KEY, OTHER = "a" * 32, "b" * 32


def raw(server: Running, request: bytes) -> tuple[int, bytes]:
    """The status and the rest of the answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                break
            data += part
    return (int(data.split(b" ", 2)[1]) if data else 0), data


def test_ACC_1_other_machines_need_a_key() -> None:
    with pytest.raises(ConfigError, match="no key"):
        read_keys(Settings(host="0.0.0.0"), {})
    assert read_keys(Settings(host="0.0.0.0"), {"CODELLAMA_API_KEY": KEY}) == (KEY,)
    assert read_keys(Settings(host="0.0.0.0", insecure_no_auth=True), {}) == ()
    assert Settings().host == "127.0.0.1"
    with running(scripted(), settings=Settings(insecure_no_auth=True)) as server:
        assert server.get("/health").json["insecure_no_auth"] is True


def test_ACC_2_every_route_is_closed_but_the_listed_ones() -> None:
    keys = {
        "none": {},
        "wrong": {"Authorization": f"Bearer {OTHER}"},
        "other case": {"Authorization": f"Bearer {KEY.upper()}"},
        "padded": {"Authorization": f"Bearer {KEY} x"},
        "no scheme": {"Authorization": KEY},
        "wrong beside right": {"Authorization": f"Bearer {KEY}", "x-api-key": OTHER},
    }
    right = ({"Authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}, {"api-key": KEY})
    with running(scripted(), keys=(OTHER[:31] + "z", KEY)) as server:
        for endpoint in ENDPOINTS:
            path = endpoint.path.replace("{id:path}", "x")
            for method in endpoint.methods:
                for headers in keys.values():
                    status = server.ask(method, path, headers=headers).status
                    assert (status == 401) == (path not in access.OPEN), (path, headers)
        for headers in right:
            assert server.get("/v1/models", headers=headers).status == 200
            assert server.get("/metrics", headers=headers).status == 200
        assert server.get("/not/registered").status == 401
        twice = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n" + (
            f"Authorization: Bearer {KEY}\r\n" * 2
        )
        assert raw(server, twice.encode() + b"\r\n")[0] == 401
        assert server.ask("OPTIONS", "/v1/models").status == 204
    assert {"/", "/health", "/ready", "/v1/health"} | playground.PATHS == access.OPEN
    assert all(path.startswith("/assets/") for path in playground.PATHS)


def test_ACC_3_the_path_is_the_one_on_the_wire() -> None:
    with running(scripted(), keys=(KEY,)) as server:
        port = server.port
        for host in ("x/v1?", "x#", "a@b", "", f"127.0.0.1:{port} x", "127.0.0.1:", "[::1"):
            request = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n"
            assert raw(server, request.encode())[0] == 400, host
        both = f"Host: 127.0.0.1:{port}\r\n" * 2
        assert raw(server, f"GET /health HTTP/1.1\r\n{both}\r\n".encode())[0] == 400
        assert raw(server, b"GET /health HTTP/1.1\r\n\r\n")[0] == 400
        for target in (
            f"http://127.0.0.1:{port}/health",
            "//health",
            "/health/../v1/models",
            "/health%2f..%2fv1%2fmodels",
            "/v1/models?x=/health",
            "/v1/health/",
        ):
            status, _ = raw(
                server, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
            )
            assert status in (400, 401), target


def test_ACC_4_hosts_and_origins() -> None:
    settings = Settings(origins=("editors", "https://ok.example"), hosts=("box.example:9",))
    with running(scripted(), settings=settings) as server:
        port = server.port

        def status(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return server.post("/v1/completions", {"prompt": "x"}, headers=named).status

        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "box.example:9"):
            assert status(Host=host) == 200
        for host in ("127.0.0.1", f"evil.example:{port}", f"127.0.0.1:{port + 1}",
                     f"x.localhost:{port}", "box.example"):  # fmt: skip
            assert status(Host=host) == 421
        json_type = {"Content_Type": "application/json"}
        for origin in ("https://ok.example", "vscode-webview://abc"):
            answer = server.post("/v1/completions", {"prompt": "x"}, headers={
                "Origin": origin, "Content-Type": "application/json"})  # fmt: skip
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert "access-control-allow-credentials" not in answer.headers
        for origin in ("https://evil.example", "null", "https://ok.example.evil.example",
                       f"http://127.0.0.1:{port + 1}", f"http://localhost:{port}",
                       "http://box.example:9", "http://127.0.0.1"):  # fmt: skip
            assert status(Origin=origin, **json_type) == 403
        own = f"http://127.0.0.1:{port}"
        answer = server.post("/v1/completions", {"prompt": "x"}, headers={
            "Origin": own, "Content-Type": "application/json"})  # fmt: skip
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers
        assert status(Origin=own, Content_Type="text/plain") == 415
        assert status(Origin="https://ok.example") == 415
        assert status(Origin="https://ok.example", Content_Type="text/plain") == 415
        plain = server.post("/v1/completions", {"prompt": "x"})
        assert not [name for name in plain.headers if name.startswith("access-control")]
    with running(scripted()) as server:
        headers = {"Origin": "vscode-webview://abc", "Content-Type": "application/json"}
        assert server.post("/v1/completions", {"prompt": "x"}, headers=headers).status == 403


def test_ACC_5_keys_are_long_private_and_all_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n{OTHER}\n")
    file.chmod(0o600)
    settings = Settings(key_file=str(file))
    assert read_keys(settings, {}) == (KEY, OTHER)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        read_keys(settings, {})
    file.chmod(0o600)
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="at least 32"):
        read_keys(settings, {})
    file.write_text("")
    with pytest.raises(ConfigError, match="no key"):
        read_keys(settings, {})
    compared: list[bytes] = []
    real = access.hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return real(a, b)

    monkeypatch.setattr(access.hmac, "compare_digest", counting)
    with running(scripted(), keys=(KEY, OTHER, "c" * 32)) as server:
        for key in (KEY, OTHER, "d" * 32):
            compared.clear()
            server.get("/v1/models", headers={"x-api-key": key})
            assert len(set(compared)) == 3
            assert all(len(digest) == 32 for digest in compared)


HOSTILE = ["../../etc/passwd", "/etc/passwd", "http://127.0.0.1:1/x", "file:///etc/passwd", "a\0b",
           "\\\\host\\share", "nano/../nano", "hf://x/y", "~root", "$(id)", "a" * 500]  # fmt: skip


def test_ACC_6_model_names_open_nothing() -> None:
    seen: list[tuple[str, Any]] = []
    is_on = False

    def hook(event: str, arguments: Any) -> None:
        if is_on and event in ("open", "socket.connect", "os.listdir", "subprocess.Popen"):
            seen.append((event, arguments))

    sys.addaudithook(hook)
    chance = random.Random(6)
    with running(("a", scripted()), ("b", scripted())) as server:
        find = server.state.registry.find
        for name in HOSTILE:
            assert server.post("/v1/completions", {"model": name, "prompt": "x"}).status == 404
        is_on = True
        for _ in range(5000):
            name = chance.choice(HOSTILE) + "".join(chance.choices("./\\:~$ %", k=6))
            with pytest.raises(Exception, match="no model of that name"):
                find(name)
        is_on = False
    assert seen == []


def test_ACC_7_one_socket_listens() -> None:
    def listening() -> set[int]:
        found = set()
        for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A":
                    found.add(int(words[9]))
        return found

    def own() -> set[int]:
        found = set()
        for entry in Path("/proc/self/fd").iterdir():
            try:
                target = str(entry.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
        return found

    before = listening() & own()
    with running(scripted()):
        assert len((listening() & own()) - before) == 1


def test_ACC_8_keys_do_not_share_a_cache() -> None:
    body = {"prompt": "the same long text " * 10, "max_tokens": 2}

    def cached(server: Running, key: str) -> int:
        answer = server.post("/v1/completions", body, headers={"x-api-key": key}).json
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    with running(scripted(), keys=(KEY, OTHER)) as server:
        assert cached(server, KEY) == 0
        assert cached(server, KEY) > 0
        assert cached(server, OTHER) == 0
    shared = Settings(share_across_keys=True)
    with running(scripted(), keys=(KEY, OTHER), settings=shared) as server:
        assert cached(server, KEY) == 0
        assert cached(server, OTHER) > 0


def test_ACC_9_canaries_are_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    canaries = ["canary-prompt-7f", "canary-system-8e", "canary-suffix-9d", "canary\r\n\x1b[31m"]
    key = "canary-key-" + "k" * 32
    with caplog.at_level("DEBUG"), running(scripted(), keys=(key,)) as server:
        headers = {"Authorization": f"Bearer {key}"}

        def post(path: str, body: Any) -> bytes:
            return server.post(path, body, headers=headers).content

        answers = [
            post("/v1/completions", {"prompt": canaries[0], "max_tokens": -1}),
            post("/v1/completions", {"prompt": canaries[0], "temperature": canaries[0]}),
            post("/v1/completions", {"prompt": canaries[0], canaries[3]: canaries[0]}),
            post("/v1/chat/completions", {"messages": [
                {"role": "system", "content": canaries[1] + " [INST]"}]}),
            post("/infill", {"input_prefix": 3, "input_suffix": canaries[2]}),
            post("/v1/completions", json.dumps({"prompt": canaries[0]}).encode()[:-1]),
            server.get("/metrics", headers=headers).content,
        ]  # fmt: skip
        post("/v1/completions", {"prompt": canaries[0], "max_tokens": 2})
        answers.append(server.get("/v1/models", headers={"x-api-key": key + "x"}).content)
    text = "\n".join(JsonLines().format(record) for record in caplog.records)
    for canary in ("canary-prompt-7f", "canary-system-8e", "canary-suffix-9d", "canary-key"):
        assert canary not in text
        assert not [a for a in answers if canary.encode() in a and b"choices" not in a], canary
    assert "\x1b" not in text
    assert all("canary" not in argument for argument in sys.argv)


def test_log_lines_are_json() -> None:
    record = logging.LogRecord("a", logging.INFO, "p", 1, "a\r\n\x1b %s", ("é",), None)
    line = JsonLines().format(record)
    assert line.isascii()
    assert json.loads(line)["message"] == "a\r\n\x1b é"
