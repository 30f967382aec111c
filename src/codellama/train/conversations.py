"""Conversations for the instruct stage, made without a language model.

Two sources: documented functions of the corpus, asked for in several wordings, and hand-written
exchanges. Everything follows from a seed.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from codellama.train.corpus import Document
from codellama.train.recipe import read_toml, strict

Conversation = list[dict[str, str]]

_WRITE = (
    "Write a Python function `{name}` that does this: {summary}",
    "Write a function named `{name}`. {summary}",
    "Please write the Python function `{call}`. {summary}",
    "Implement `{call}` in Python: {summary}",
    "I need a function `{call}`. {summary}",
    "Write Python code for this: {summary} Call it `{name}`.",
)
_COMPLETE = (
    "Complete this function:\n\n```python\n{head}\n```",
    "Fill in the body of this function.\n\n```python\n{head}\n```",
    "Finish this Python function:\n\n```python\n{head}\n```",
    "Write the rest of this function:\n\n```python\n{head}\n```",
)
_EXPLAIN = (
    "What does this function do?\n\n```python\n{bare}\n```",
    "Explain this function.\n\n```python\n{bare}\n```",
    "Describe in a sentence what this code does:\n\n```python\n{bare}\n```",
)
_DOCUMENT = (
    "Write a docstring for this function.\n\n```python\n{bare}\n```",
    "Document this function:\n\n```python\n{bare}\n```",
)
_PROBLEM = (
    "Write a function that {what}.",
    "Write a Python function that {what}.",
    "write a function that {what}",
    "Please write a Python function that {what}.",
    "Can you write a function that {what}?",
    "I need a Python function that {what}.",
    "Give me code that {what}.",
    "Show me a Python function that {what}.",
    "Implement a function that {what} in Python.",
    "How do I write a function that {what}?",
)
_SYSTEM = (
    "You are a helpful programming assistant.",
    "You are a helpful assistant. Answer with Python code.",
    "Answer briefly.",
    "You write Python.",
)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A hand-written question in several wordings, and its answer."""

    ask: tuple[str, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A small task in several wordings ("that ..."), and its solution."""

    ask: tuple[str, ...]
    code: str


@dataclass(frozen=True, kw_only=True)
class HandWritten:
    """The file of hand-written exchanges."""

    exchange: tuple[Exchange, ...]
    problem: tuple[Problem, ...]

    @classmethod
    def read(cls, path: Path) -> HandWritten:
        """Raises ConfigError when the file does not have this shape."""
        return strict(cls, read_toml(path), path.name)


def make_conversations(
    functions: Sequence[Document], written: HandWritten, n: int, seed: int
) -> list[Conversation]:
    """`n` conversations: six in ten from functions, the rest hand-written; shuffled."""
    random = Random(seed)
    order = list(functions)
    random.shuffle(order)
    made: list[Conversation] = []
    for document in order:
        if len(made) >= n * 6 // 10:
            break
        made += [_dress(talk, random) for talk in _about(document, random)]
    hand = _hand_written(written, random)
    while len(made) < n:
        made.append(_dress(next(hand), random))
    random.shuffle(made)
    return made


def about_functions(documents: Sequence[Document], seed: int) -> Iterator[Conversation]:
    """One conversation about each function that lends itself to it, in order."""
    random = Random(seed)
    for document in documents:
        yield from _about(document, random)


def _about(document: Document, random: Random, max_chars: int = 900) -> Iterator[Conversation]:
    """At most one conversation about a function of the corpus."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = ast.parse(document.text).body[0]
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.decorator_list:
        return
    lines = document.text.rstrip("\n").split("\n")
    docstring = ast.get_docstring(node) or ""
    summary = " ".join(docstring.split("\n\n")[0].split())
    expression, first = node.body[0], node.body[1]
    is_long = len(document.text) > max_chars or not 15 <= len(summary) <= 160
    is_private = node.name.startswith("_") or re.search(r"[:`<>\[\]{}|]", summary) is not None
    is_method = bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
    if is_long or is_private or is_method or first.lineno <= (expression.end_lineno or 0):
        return
    summary = summary if summary.endswith(".") else summary + "."
    head = "\n".join(lines[: expression.end_lineno])
    bare = "\n".join(lines[: expression.lineno - 1] + lines[expression.end_lineno :])
    call = f"{node.name}({ast.unparse(node.args)})"
    kind = random.choices(("write", "complete", "explain", "document"), (45, 25, 20, 10))[0]
    block = f"```python\n{document.text.rstrip()}\n```"
    if kind == "write":
        short = call if len(call) <= 80 else node.name
        ask = random.choice(_WRITE).format(name=node.name, call=short, summary=summary)
        brief = [*lines[: expression.lineno - 1], f'    """{summary}"""',
                 *lines[expression.end_lineno :]]  # fmt: skip
        yield _pair(ask, "```python\n" + "\n".join(brief) + "\n```")
    elif kind == "complete":
        yield _pair(random.choice(_COMPLETE).format(head=head), block)
    elif kind == "explain":
        names = [a.arg for a in node.args.args]
        takes = f" It takes {_listed(names)}." if names else " It takes no arguments."
        answer = f"`{node.name}`: {summary}{takes}"
        yield _pair(random.choice(_EXPLAIN).format(bare=bare), answer)
    else:
        yield _pair(random.choice(_DOCUMENT).format(bare=bare), f"```python\n{head}\n```")


def _hand_written(written: HandWritten, random: Random) -> Iterator[Conversation]:
    """Endless; problems and exchanges in turn, each list reshuffled when it is through."""
    problems: list[Conversation] = []
    exchanges: list[Conversation] = []
    while True:
        if not problems:
            problems = [
                _pair(random.choice(_PROBLEM).format(what=what),
                      f"```python\n{problem.code.strip()}\n```")
                for problem in written.problem for what in problem.ask
            ]  # fmt: skip
            random.shuffle(problems)
        if not exchanges:
            exchanges = [_pair(ask, e.answer) for e in written.exchange for ask in e.ask]
            random.shuffle(exchanges)
        yield problems.pop()
        yield exchanges.pop()


def _dress(talk: Conversation, random: Random) -> Conversation:
    """Puts a system message in front of some conversations."""
    if random.random() < 0.15:
        return [{"role": "system", "content": random.choice(_SYSTEM)}, *talk]
    return talk


def _pair(ask: str, answer: str) -> Conversation:
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
