"""Runs published clients against `codellama serve nano`, each in an environment of its own.

Their dependencies contradict each other, so they cannot be in the environment of the tests. The
environments are made in build/clients and kept. With names, only those clients are run.

    python tests/clients/run.py [litellm] [langchain] [mistral] [lm_eval] [schemathesis]
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = {
    "litellm": ["litellm"],
    "langchain": ["langchain-openai"],
    "mistral": ["mistralai"],
    "lm_eval": ["lm_eval[api]", "transformers>=5.0"],
    "schemathesis": ["schemathesis>=4"],
}
CHECKS = ("not_a_server_error", "response_schema_conformance", "content_type_conformance",
          "status_code_conformance")  # fmt: skip


def environment(name: str) -> Path:
    """The Python of a client's environment, which is made where it is missing."""
    where = ROOT / "build" / "clients" / name
    python = where / "bin" / "python"
    if not (where / "complete").exists():
        venv.create(where, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
        (where / "complete").touch()
    return python


def serve() -> tuple[subprocess.Popen[str], int]:
    """A server over nano with a short context, so that replies without a limit end soon."""
    server = subprocess.Popen(
        [sys.executable, "-m", "codellama", "serve", "--port", "0", "--log-level", "error",
         "--max-seq-len", "256"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r":(\d+)$", line)
        if found is not None:
            return server, int(found[1])
    raise SystemExit("the server did not start")


def command(name: str, python: Path, port: int) -> list[str | Path]:
    if name == "schemathesis":
        return [
            python.parent / "schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json",
            "--phases", "fuzzing", "--max-examples", os.environ.get("EXAMPLES", "200"),
            "--checks", ",".join(CHECKS),
        ]  # fmt: skip
    return [python, HERE / f"{name}_check.py", str(port)]


def main() -> int:
    names = sys.argv[1:] or list(PACKAGES)
    server, port = serve()
    failed = []
    try:
        for name in names:
            print(f"== {name}", flush=True)
            done = subprocess.run(command(name, environment(name), port), check=False)
            if done.returncode:
                failed.append(name)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
