"""A Ray cluster, joined by this process and asked what it has."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError, EngineFailed, MissingExtra


def ray() -> Any:
    """The module `ray`, with Ray Serve in it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import_module("ray.serve")
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingExtra("a cluster", "ray") from error


def connect() -> Any:
    """Joins the cluster of this machine, or starts Ray here alone where there is none.

    Raises:
        EngineFailed: Ray does not start, or what `RAY_ADDRESS` names does not answer.
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers of each use
    found = ray()
    if not found.is_initialized():
        try:
            try:
                found.init(address="auto", log_to_driver=False, logging_level="error")
            except ConnectionError:
                found.init(log_to_driver=False, logging_level="error", include_dashboard=False)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineFailed(
                f"Ray does not start: {lines[0][:300]}",
                hint="look at it with: codellama cluster status",
            ) from error
    return found


def has_gpus(cluster: Any) -> bool:
    """Whether any machine of the cluster lends a GPU."""
    return bool(cluster.cluster_resources().get("GPU"))


def require(cluster: Any, what: str, n: int, *, cpus: int, gpus: int = 0) -> None:
    """Refuses `n` processes that the cluster's machines could not hold at a time, even if nothing
    else ran: Ray would wait for further machines without a word.

    Args:
        what: the processes, as the user asked for them.
        cpus, gpus: of each process, which all must be in one machine.

    Raises:
        ConfigError: there is room for fewer.
    """
    machines = [node["Resources"] for node in cluster.nodes() if node["Alive"]]
    room = 0
    for machine in machines:
        fits = [int(machine.get("CPU", 0) // cpus)]
        if gpus:
            fits.append(int(machine.get("GPU", 0) // gpus))
        room += min(fits)
    if room < n:
        each = f"{_counted(cpus, 'core')} and {_counted(gpus, 'GPU')}" if gpus else _counted(
            cpus, "core"
        )  # fmt: skip
        held = ", ".join(
            f"{_counted(int(m.get('CPU', 0)), 'core')} and {_counted(int(m.get('GPU', 0)), 'GPU')}"
            for m in machines[:4]
        )
        more = ", ..." if len(machines) > 4 else ""
        raise ConfigError(
            f"{what} {n}: each needs {each}, and the cluster has room for {room}: its machines "
            f"lend {held or 'nothing'}{more}",
            hint="ask for fewer, or let further machines join: codellama cluster up --join",
        )


def everywhere(model: str) -> str:
    """A model's path as other processes find it too, whatever folder they run in; other names as
    they are."""
    path = Path(model)
    return str(path.absolute()) if path.exists() else model


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
