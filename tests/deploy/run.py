"""The steps of deploy/Containerfile without a container: in an empty folder, from the sources.

What `COPY` takes is what git tracks. The package is built and installed into a new environment by
the file's own `RUN` line, and its `ENTRYPOINT` is started there, by an unprivileged user where this
program may become one, and asked over HTTP. What it does not show: the base image, its Debian
packages and the user database.

    python tests/deploy/run.py [FOLDER]
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 4
PORT = 8012


def instructions() -> list[tuple[str, str]]:
    """The words and arguments of the Containerfile, a line each."""
    text = (ROOT / "deploy" / "Containerfile").read_text().replace("\\\n", " ")
    lines = (line.split(" ", 1) for line in text.splitlines() if line[:1].isalpha())
    return [(word, re.sub(r"\s+", " ", rest.strip())) for word, rest in lines]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    if len(sys.argv) > 1:
        yield Path(sys.argv[1])
        return
    with tempfile.TemporaryDirectory(prefix="codellama-deploy-") as found:
        yield Path(found)


def ask(path: str, body: object = None, key: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    head = {} if key is None else {"Authorization": f"Bearer {key}"}
    data = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, head)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def main() -> None:
    with folder() as place:
        opt, src = place / "opt" / "codellama", place / "src"
        src.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
        done = instructions()
        for word, rest in done:
            if word == "COPY" and rest == ". .":
                archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True,
                                         stdout=subprocess.PIPE)  # fmt: skip
                subprocess.run(["tar", "-x", "-C", src], input=archive.stdout, check=True)
            elif word == "RUN" and rest.startswith("python -m venv"):
                line = rest.replace("python", sys.executable, 1).replace("/opt/codellama", str(opt))
                print(f"RUN {line}", flush=True)
                subprocess.run(["sh", "-ec", line], cwd=src, check=True)
            elif word == "RUN":
                print(f"left out: RUN {rest}")
        (entry,) = [json.loads(rest) for word, rest in done if word == "ENTRYPOINT"]
        (model,) = [json.loads(rest) for word, rest in done if word == "CMD"]
        shutil.rmtree(src)  # the second stage has the environment alone
        entry[0] = entry[0].replace("/opt/codellama", str(opt))
        user = {"user": 65534, "group": 65534} if os.getuid() == 0 else {}
        print(f"ENTRYPOINT {' '.join(entry + model)}", flush=True)
        server = subprocess.Popen(
            [*entry, *model],
            cwd="/",
            env={"CODELLAMA_API_KEY": KEY, "PATH": "/usr/bin:/bin"},
            **user,
        )
        try:
            end = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    if ask("/health")[0] == 200:
                        break
                assert server.poll() is None, "the server left"
                assert time.monotonic() < end, "the server did not come up"
                time.sleep(0.3)
            hole = {"prompt": "def f(x):\n    ret", "suffix": "\n", "max_tokens": 4}
            assert ask("/v1/completions", hole)[0] == 401, "it answers without a key"
            status, content = ask("/v1/completions", hole, KEY)
            assert status == 200, content
            print("answered:", json.loads(content)["choices"][0]["text"])
        finally:
            server.terminate()
            code = server.wait(40)
        assert code == 0, f"SIGTERM: it left with {code}"
    print("deploy: good")


if __name__ == "__main__":
    main()
