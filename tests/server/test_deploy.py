"""What `deploy/` holds is what the program takes, and the file of settings is what it runs by."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import started

from codellama.server.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_example_of_settings_is_read(tmp_path: Path) -> None:
    text = (DEPLOY / "serve.toml").read_text()
    assert Settings.read(DEPLOY / "serve.toml", {}).models == {"codellama-nano": "nano"}
    everything = tmp_path / "serve.toml"
    everything.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    found = Settings.read(everything, {})
    assert found.key_file == "/run/credentials/codellama.service/keys"
    assert found.origins == ("editors",)


def test_serve_runs_by_its_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("k" * 40 + "\n")
    keys.chmod(0o600)
    config = tmp_path / "serve.toml"
    config.write_text(
        f'port = 0\nthreads = 1\nmax_seq_len = 256\nkey_file = "{keys}"\ninfill_order = "spm"\n'
        '[models]\nmine = "nano"\n[limits]\nchoices = 2\n'
    )
    process, port = started([sys.executable, "-m", "codellama", "serve", "--config", str(config)])
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

        def ask(body: object, key: str) -> tuple[int, str | None, bytes]:
            head = {"Authorization": f"Bearer {key}"}
            connection.request("POST", "/v1/completions", json.dumps(body), head)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("x-codellama-order"), answer.read()

        hole = {"prompt": "x", "suffix": "y", "max_tokens": 1}
        status, order, content = ask(hole, "k" * 40)
        assert (status, order, json.loads(content)["model"]) == (200, "spm", "mine")
        assert ask(hole, "w" * 40)[0] == 401
        assert ask(hole | {"n": 3}, "k" * 40)[0] == 400
        assert b"256" in ask(hole | {"max_tokens": 300}, "k" * 40)[2]
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_the_unit_is_what_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    program = "/opt/codellama/bin/codellama"
    text = (DEPLOY / "codellama.service").read_text()
    assert program in text
    unit = tmp_path / "codellama.service"
    unit.write_text(text.replace(program, sys.executable))  # only that it is executable is checked
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_and_the_unit_start_what_the_program_has() -> None:
    """Every flag that they pass is one of `codellama serve`."""
    container = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    unit = (DEPLOY / "codellama.service").read_text()
    words = json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", container, re.MULTILINE)[0])
    command = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0].split()
    assert words[0] == command[0] == "/opt/codellama/bin/codellama"
    said = subprocess.run(
        [sys.executable, "-m", "codellama", "serve", "--help"], capture_output=True, text=True
    ).stdout
    for word in (*words[1:], *command[1:]):
        if word.startswith("--"):
            assert word in said, word
