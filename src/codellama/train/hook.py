"""A command to run after every stage, on the model as it is then."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

from codellama.errors import ConfigError


def check_command(command: str) -> None:
    """Raises ConfigError when a command does not say where the model goes."""
    if "{model}" not in command:
        raise ConfigError(
            f"--evaluate {command!r} does not say which model",
            hint="write {model} where the model's folder belongs",
        )


def run_command(command: str, model: Path) -> dict[str, object]:
    """Runs `command` with `{model}` replaced; gives the JSON object it prints, or how it ended.

    A command that fails does not end the training: what it wrote last is in the log.
    """
    words = [word.replace("{model}", str(model)) for word in shlex.split(command)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        return {"command": command, "error": str(error)}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"command": command, "error": f"exit code {done.returncode}: {last}"}
    for text in (done.stdout, done.stdout.strip().rpartition("\n")[2]):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            return {"command": command, **found}
    return {"command": command, "output": done.stdout[-2000:]}
