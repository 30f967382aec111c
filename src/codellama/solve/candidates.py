"""From what a model wrote to source that could be the answer."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass
from typing import ClassVar, Protocol

_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_TAGGED = re.compile(r"\[PYTHON\](.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL)
_MAX_DROPPED = 64  # lines at a reply's end
# Where a function that is being continued has ended (HumanEval's stop strings).
_NEXT_STATEMENTS = (
    "class ", "def ", "async def ", "@", "#", "if ", "print(", "assert ", '"""', "'''", "```",
)  # fmt: skip
_NEXT_STATEMENT = re.compile(rf"\n(?={'|'.join(map(re.escape, _NEXT_STATEMENTS))})")


class Form(Protocol):
    """How a reply becomes source."""

    @property
    def before(self) -> str:
        """The source as it was, for showing what changes."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end a reply: what follows them is not used."""
        ...

    def source(self, text: str) -> str | None:
        """The whole source with the reply in it; None where the reply holds none."""
        ...


@dataclass(frozen=True)
class Hole:
    """The reply stands between two texts."""

    prefix: str
    suffix: str
    stops: ClassVar[tuple[str, ...]] = ()

    @property
    def before(self) -> str:
        return self.prefix + self.suffix

    def source(self, text: str) -> str | None:
        """With the whole reply, or else with as many of its lines as make Python."""
        lines = text.splitlines(keepends=True)
        for kept in range(len(lines), max(0, len(lines) - _MAX_DROPPED), -1):
            reply = "".join(lines[:kept])
            if kept < len(lines) and self.suffix.startswith("\n"):
                reply = reply.removesuffix("\n")
            if parsed(self.prefix + reply + self.suffix) is not None:
                return self.prefix + reply + self.suffix
        return None


@dataclass(frozen=True)
class Continuation:
    """The reply goes on with a text that stops inside a function; it counts up to its end."""

    prefix: str
    stops: ClassVar[tuple[str, ...]] = tuple("\n" + one for one in _NEXT_STATEMENTS)

    @property
    def before(self) -> str:
        return self.prefix

    def source(self, text: str) -> str | None:
        found = _NEXT_STATEMENT.search("\n" + text)
        kept = text if found is None else text[: max(0, found.start() - 1)]
        return self.prefix + kept.rstrip() + "\n"


@dataclass(frozen=True)
class Answer:
    """The reply is talk with code in it, in fences or between [PYTHON] tags."""

    before: str = ""
    stops: ClassVar[tuple[str, ...]] = ()

    def source(self, text: str) -> str | None:
        blocks = [found[1] for found in _FENCE.finditer(text)]
        blocks = blocks or [found[1] for found in _TAGGED.finditer(text)]
        if not blocks:
            return textwrap.dedent(text).strip() + "\n" if parsed(textwrap.dedent(text)) else None
        return "\n\n".join(textwrap.dedent(block).strip() for block in blocks) + "\n"


def parsed(source: str) -> ast.Module | None:
    """The syntax tree of a source that has any statement; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if tree.body else None


def same_as(tree: ast.Module) -> str:
    """A text that is equal for sources that differ in layout and comments only."""
    return ast.dump(tree)
