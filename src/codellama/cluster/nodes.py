"""Machines that work together: Ray's processes started, looked at and ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from codellama.cluster.connection import ray
from codellama.errors import ConfigError, EngineFailed

PORT = 6379
TOKEN = Path.home() / ".ray" / "auth_token"


def up(
    *, join: str | None, host: str | None, port: int = PORT, cpus: int | None, gpus: int | None
) -> str:
    """Makes this machine the first of a cluster, or one more of the cluster at `join`.

    Returns:
        What other machines run to join, or a word that this one did.

    Raises:
        EngineFailed: Ray does not start.
        ConfigError: `join` is not HOST:PORT.
        MissingExtra: Ray is not installed.
    """
    words = ["start", "--disable-usage-stats"]
    if join is None:
        _make_token()
        words += ["--head", f"--port={port}", "--include-dashboard=false"]
    else:
        name, mark, number = join.rpartition(":")
        if not mark or not name or not number.isdecimal():
            raise ConfigError(f"{join!r} is not HOST:PORT")
        words.append(f"--address={join}")
    if host is not None:
        words.append(f"--node-ip-address={host}")
    words += [f"--num-{name}={n}" for name, n in (("cpus", cpus), ("gpus", gpus)) if n is not None]
    _ray(words)
    if join is not None:
        return f"this machine is part of the cluster at {join}"
    return f"codellama cluster up --join {host or _own_address()}:{port}"


def _make_token() -> None:
    """Makes the secret that Ray asks everybody for, where there is none and nobody chose to have
    none. Versions of Ray that know of no such thing are left as they are."""
    if "RAY_AUTH_MODE" in os.environ or TOKEN.exists():
        return
    with contextlib.suppress(EngineFailed):
        _ray(["get-auth-token", "--generate"])
    if TOKEN.exists():
        TOKEN.chmod(0o600)


def status() -> str:
    """Machines and what of them is in use. Raises as `up` does."""
    return _ray(["status"])


def down() -> None:
    """Ends Ray on this machine. Raises as `up` does."""
    _ray(["stop"])


def _own_address() -> str:
    from importlib import import_module

    found: str = import_module("ray.util").get_node_ip_address()
    return found


def _ray(words: list[str]) -> str:
    ray()
    program = Path(sys.executable).with_name("ray")
    done = subprocess.run([str(program), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise EngineFailed(
            f"ray {words[0]} failed: {lines[-1] if lines else 'it said nothing'}",
            hint="codellama cluster down ends what an earlier start has left",
        )
    return done.stdout
