"""Engines of others that this package can be measured against."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from codellama.bench.process import BODIES
from codellama.errors import ConfigError

_PATIENCE_S = 60


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another engine: the body that drives it, what it is imported as and how it is installed."""

    name: str
    body: Path
    module: str
    install: str


PEERS = {
    "llama-cpp": Peer(
        name="llama.cpp",
        body=BODIES / "llama_cpp.py",
        module="llama_cpp",
        install="pip install llama-cpp-python",
    ),
}


def require(peer: Peer, python: Path) -> None:
    """Raises ConfigError unless that Python runs and has the peer."""
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec({peer.module!r}) is None)"
    hint = (
        f"install it into a Python of your choice and name that: {peer.install}, then "
        "--peer-python PATH; in the sources `make bench-peers` makes build/peers/bin/python"
    )
    try:
        done = subprocess.run([python, "-c", look], capture_output=True, timeout=_PATIENCE_S)
    except OSError as error:
        raise ConfigError(
            f"the Python for {peer.name}, {python}, cannot be run: {error.strerror}", hint=hint
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"the Python for {peer.name}, {python}, does not answer") from error
    if done.returncode != 0:
        raise ConfigError(f"{peer.name} is not installed for {python}", hint=hint)
