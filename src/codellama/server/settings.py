"""What a server is told when it starts: flags or one TOML file, checked once."""

from __future__ import annotations

import dataclasses
import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from codellama.errors import ConfigError

MIN_KEY_CHARS = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps that hold before anything is allocated in proportion to what was sent.

    Sizes in bytes, times in seconds. Connections from the machine itself are not counted per
    address. `receiving` bounds the connections that have begun a request and not finished it.
    `waiting` replies queue for a place at most, `reply_bytes` all replies together may take in
    memory, and `cache_overcommit` times the cache is what they may have been promised of it.
    """

    body_bytes: int = 4 << 20
    head_bytes: int = 16 << 10
    n_headers: int = 64
    url_bytes: int = 8 << 10
    head_s: float = 10
    body_s: float = 30
    idle_s: float = 15
    connections: int = 4096
    connections_per_address: int = 64
    receiving: int = 256
    unread_bytes: int = 256 << 10
    unread_s: float = 30
    json_depth: int = 32
    json_keys: int = 4096
    prompts: int = 16
    messages: int = 1024
    choices: int = 8
    waiting: int = 128
    reply_bytes: int = 256 << 20
    cache_overcommit: float = 8
    run_s: float = 600

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise ConfigError(f"limits.{item.name} is {value!r}; expected a positive number")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A server's settings. `--config` reads them from TOML; flags go before the file.

    `models` maps names to paths; the first is the default, and the base of the LoRA `adapters`,
    which are served beside it by names of their own. `hosts` are further values of the Host
    header that are served, `origins` pages of other origins that may call; "editors" stands for
    editors' web views. A `key_file` holds one key a line. `step_tokens` bounds the work of one
    step, and with it the gap that a long prompt makes in the replies beside it; None takes
    one for each reply and 128 of prompts (1024 while a crowd waits for its first tokens), and 2048
    on a GPU. `infill_order` is how holes are told where a request
    does not say: "psm", "spm", or what the cache makes cheaper. `engine`, `device`, `weights`,
    `kv_cache`, `speculation` and `draft_model` are those of `LLM.load`. A further engine, "vllm",
    lays each replica over `tensor_parallel` times `pipeline_parallel` devices. `replicas` are whole
    engines, at most, and `min_replicas` at least where the queue decides (None: as many as at
    most).
    """

    models: Mapping[str, str] = field(default_factory=lambda: {"codellama-nano": "nano"})
    adapters: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8012
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    key_file: str | None = None
    insecure_no_auth: bool = False
    public_metrics: bool = False
    share_across_keys: bool = False
    strict_models: bool = False
    infill_text: bool = True
    infill_order: str = "auto"
    done_after_error: bool = False
    temperature: float = 0.2
    top_p: float = 0.95
    engine: str | None = None
    device: str | None = None
    weights: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    replicas: int = 1
    min_replicas: int | None = None
    threads: int | None = None
    max_seq_len: int | None = None
    kv_cache: str | None = None
    speculation: str = "lookup"
    draft_model: str | None = None
    max_num_seqs: int = 32
    step_tokens: int | None = None
    drain_s: float = 30
    stall_s: float = 12
    stall_exit_s: float = 60
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("no model is named", hint='give one, such as models = {a = "nano"}')
        twice = sorted(self.models.keys() & self.adapters.keys())
        if twice:
            raise ConfigError(f"`{twice[0]}` is the name of a model and of an adapter")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port is {self.port}; expected 0 to 65535")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError(
                f"log_level is {self.log_level!r}; expected debug, info, warning or error"
            )
        if self.engine not in (None, "cpu", "torch", "vllm"):
            raise ConfigError(f"engine is {self.engine!r}; expected cpu, torch or vllm")
        for name in ("tensor_parallel", "pipeline_parallel", "replicas"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")
            if value > 1 and self.engine != "vllm" and name != "replicas":
                raise ConfigError(
                    f"{name} is for the engine vllm, and this one is {self.engine or 'cpu'}"
                )
        if self.engine == "vllm" and (self.device is not None or self.weights is not None):
            raise ConfigError("device and weights are for the engine torch, and this one is vllm")
        if self.infill_order not in ("auto", "psm", "spm"):
            raise ConfigError(f"infill_order is {self.infill_order!r}; expected auto, psm or spm")
        if self.speculation not in ("lookup", "off"):
            raise ConfigError(f"speculation is {self.speculation!r}; expected lookup or off")

    @property
    def is_loopback(self) -> bool:
        return self.host in ("127.0.0.1", "localhost", "::1")

    @classmethod
    def read(
        cls, path: Path | None, flags: Mapping[str, Any], *, max_waiting: int | None = None
    ) -> Self:
        """The settings of a TOML file, and over them those flags that were given.

        Raises:
            ConfigError: the file is not TOML, a key is unknown or a value has the wrong type.
        """
        found = {} if path is None else _read_toml(path)
        found |= {name: value for name, value in flags.items() if value is not None}
        if max_waiting is not None:
            found["limits"] = {**found.get("limits", {}), "waiting": max_waiting}
        if "limits" in found:
            found["limits"] = Limits(**_typed(Limits, found["limits"], "limits."))
        return cls(**_typed(cls, found, ""))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def _typed(kind: type, found: Any, where: str) -> dict[str, Any]:
    """`found` with every key known and every value of its field's type."""
    if not isinstance(found, Mapping):
        raise ConfigError(f"`{where.rstrip('.')}` is {found!r}; expected a table")
    known = {item.name: str(item.type) for item in dataclasses.fields(kind)}
    out: dict[str, Any] = {}
    for name, value in found.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"unknown key `{where}{name}`" + (f"; did you mean `{near[0]}`?" if near else "")
            )
        out[name] = _value(known[name], value, f"{where}{name}")
    return out


def _value(annotation: str, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    if kind.startswith("tuple"):
        fits = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        value = tuple(value) if fits else value
    elif kind.startswith("Mapping"):
        fits = isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
    elif kind == "bool":
        fits = isinstance(value, bool)
    elif kind == "int":
        fits = is_number and isinstance(value, int)
    elif kind == "float":
        fits = is_number
    else:
        fits = isinstance(value, str) if kind == "str" else True
    if not fits:
        raise ConfigError(f"`{where}` is {value!r}; expected a value of type {kind}")
    return value


def read_keys(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that clients may present: from the key file, or from CODELLAMA_API_KEY.

    Raises:
        ConfigError: the file can be read by others, a key is short, or the server listens to other
            machines without any key.
    """
    keys: list[str] = []
    if settings.key_file is not None:
        path = Path(settings.key_file)
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"{path}: can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}"
                )
            keys = [line.strip() for line in file if line.strip()]
        if not keys:
            raise ConfigError(f"{path}: holds no key")
    elif environment.get("CODELLAMA_API_KEY"):
        keys = [environment["CODELLAMA_API_KEY"]]
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable():
            raise ConfigError(
                f"key {number} has {len(key)} characters; expected at least {MIN_KEY_CHARS} "
                "printable ones",
                hint="make one with: openssl rand -hex 32",
            )
    if not keys and not settings.is_loopback and not settings.insecure_no_auth:
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and there is no key",
            hint="give --key-file, or --insecure-no-auth if something in front checks access",
        )
    return tuple(keys)
