"""The suites, by name.

A suite's module is imported when it is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from codellama.engine.prompts import Order
from codellama.errors import ConfigError
from codellama.eval.suite import Suite

_MODULES = {
    "humaneval": "humaneval",
    "humaneval-plus": "humaneval",
    "mbpp": "mbpp",
    "apps": "apps",
    "multipl-e": "multipl_e",
    "infill-single-line": "infilling",
    "infill-multi-line": "infilling",
    "infill-random-span": "infilling",
    "docstrings": "docstrings",
    "lines": "lines",
    "perplexity": "perplexity",
    "keys": "keys",
    "truthfulqa": "safety",
    "toxigen": "safety",
    "bold": "safety",
}
NAMES = tuple(_MODULES)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose beside the sampling; a suite reads what concerns it."""

    order: Order = "psm"
    """Of infilling prompts."""
    language: str | None = None
    chat: bool = False
    """Ask as one asks a model that was tuned to follow instructions."""
    lengths: tuple[int, ...] = ()
    """In tokens."""
    examples: int | None = None
    seed: int = 0
    count: Callable[[str], int] = len
    """Tokens of a text."""


def suite(name: str, options: Options) -> Suite:
    """The suite of this name.

    Raises:
        ConfigError: there is none, or it cannot honour an option.
    """
    if name not in _MODULES:
        near = difflib.get_close_matches(name, NAMES, 1)
        raise ConfigError(
            f"there is no suite called {name!r}",
            hint=f"did you mean {near[0]}?" if near else f"the suites are {', '.join(NAMES)}",
        )
    module = import_module(f"codellama.eval.suites.{_MODULES[name]}")
    makers: Mapping[str, Callable[[Options], Suite]] = module.SUITES
    return makers[name](options)
