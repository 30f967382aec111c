"""What a user can set, on the command line or in the editor's settings."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codellama.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the language server.

    Without `url` it starts a server over `model` and ends it with itself. `tokenizer` is a model
    whose vocabulary the server at `url` has, so that tokens are counted here; without it the server
    is asked. `completion` says whether suggestions also come as ordinary completions: "auto" where
    the editor has no inline ones. `off_for` lists languages in which nothing is suggested.
    """

    url: str | None = None
    model: str = "nano"
    tokenizer: str | None = None
    is_on: bool = True
    completion: str = "auto"
    off_for: tuple[str, ...] = ()
    debounce_ms: int = 25
    context_tokens: int = 1024
    max_tokens: int = 128
    max_lines: int = 24
    candidates: int = 3
    temperature: float = 0.4
    timeout_s: float = 10.0
    definitions: bool = True
    recent_edits: bool = True
    repository: bool = True
    rank: bool = True

    def __post_init__(self) -> None:
        if self.completion not in ("auto", "on", "off"):
            raise ConfigError(f"`completion` is {self.completion!r}; expected auto, on or off")
        for name, least, most in (
            ("debounce_ms", 0, 5000), ("context_tokens", 64, 1 << 20), ("max_tokens", 1, 4096),
            ("max_lines", 1, 500), ("candidates", 1, 8), ("temperature", 0, 2),
            ("timeout_s", 0.1, 600),
        ):  # fmt: skip
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"`{name}` is {value}; expected {least} to {most}")

    def changed(self, found: Any) -> Settings:
        """These settings with those of an editor over them; null leaves a setting as it is.

        Raises:
            ConfigError: `found` is no table, a name is unknown, or a value cannot be honoured.
        """
        if found is None:
            return self
        if not isinstance(found, Mapping):
            raise ConfigError(f"the settings are {found!r}; expected a table")
        known = {item.name: item for item in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for name, value in found.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(known)}"
                raise ConfigError(f"there is no setting `{name}`", hint=hint)
            if value is not None:
                values[name] = _typed(name, str(known[name].type), value)
        return dataclasses.replace(self, **values)


def _typed(name: str, annotation: str, value: Any) -> Any:
    kind = annotation.removesuffix(" | None")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind.startswith("tuple"):
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif kind == "bool":
        if isinstance(value, bool):
            return value
    elif kind == "float":
        if is_number:
            return float(value)
    elif kind == "int":
        if is_number and value == int(value):
            return int(value)
    elif isinstance(value, str):
        return value
    raise ConfigError(f"`{name}` is {value!r}; expected a value of type {kind}")
