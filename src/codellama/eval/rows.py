"""Fields of rows that users' files bring."""

from __future__ import annotations

from typing import Any

from codellama.errors import ConfigError
from codellama.eval.suite import Row


def text(row: Row, name: str) -> str:
    """A field that is a text. Raises ConfigError where there is none."""
    value = _field(row, name)
    if not isinstance(value, str):
        raise ConfigError(f"{_named(row)}: `{name}` is a {type(value).__name__}; expected a text")
    return value


def texts(row: Row, name: str) -> list[str]:
    """A field that is a list of texts. Raises ConfigError where there is none."""
    value = _field(row, name)
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{_named(row)}: `{name}` is not a list of texts")
    return list(value)


def first(row: Row, *names: str) -> str:
    """The first of these fields that the row has, as a text. Raises ConfigError for none."""
    name = next((name for name in names if name in row), names[0])
    return text(row, name)


def _field(row: Row, name: str) -> Any:
    if name not in row:
        has = ", ".join(sorted(map(str, row))[:12]) or "nothing"
        raise ConfigError(
            f"{_named(row)} has no field `{name}`; it has {has}",
            hint="is this the file of the suite that was named?",
        )
    return row[name]


def _named(row: Row) -> str:
    for name in ("task_id", "problem_id", "name", "id"):
        if name in row:
            return f"the row {row[name]!r}"
    return "a row"
