"""Conversations that a program has verified, made without a model.

Documented functions whose docstrings hold examples are run by themselves in the sandbox. Where the
examples come true, the docstring asks for the function; and where a small change of its code makes
them fail, the changed function asks to be mended. Functions that need their module do not get
through, but for modules of the standard library, which are imported for them.
"""

from __future__ import annotations

import ast
import copy
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from codellama.train.cleaning import parsed
from codellama.train.corpus import Document
from codellama.train.self_instruct import append_line, read_lines

MAX_MUTANTS = 8

_WRITE = (
    "Write a Python function `{name}` with this docstring:\n\n{docstring}",
    "Implement `{name}`. The examples in its docstring must come true.\n\n{docstring}",
    "I need the function `{name}`, which does this:\n\n{docstring}",
)
_MEND = (
    "This function has a bug. Find and fix it.\n\n```python\n{code}\n```",
    "The examples in the docstring fail. Mend the function.\n\n```python\n{code}\n```",
    "What I get from this is wrong. Please correct it.\n\n```python\n{code}\n```",
)
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip


class Runs(Protocol):
    """What runs a program: a sandbox."""

    def run(self, program: str) -> Any: ...


def make_verified(
    functions: Sequence[Document],
    folder: Path,
    box: Runs,
    *,
    seed: int = 7,
    note: Callable[[str], None] = lambda _: None,
) -> Counter[str]:
    """Writes conversations.jsonl into `folder`; gives how many functions ended how.

    verdicts.jsonl there has a line for every function that was looked at, so a run that was stopped
    goes on with the next one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "verdicts.jsonl"
    done = {line["path"]: line for line in read_lines(path)}
    candidates = [f for f in functions if ">>>" in f.text]
    for i, document in enumerate(candidates, 1):
        place = f"{document.project}/{document.path}"
        if place not in done:
            done[place] = {"path": place, **_verdict(document, box, Random(f"{seed}/{place}"))}
            append_line(path, done[place])
            if i % 50 == 0:
                note(f"{i} of {len(candidates)} functions with examples")
    lines = [done[f"{d.project}/{d.path}"] for d in candidates]
    with (folder / "conversations.jsonl").open("w", encoding="utf-8") as out:
        for line in lines:
            for talk in line["talks"]:
                out.write(json.dumps(talk, ensure_ascii=False) + "\n")
    return Counter(line["verdict"] for line in lines)


def _verdict(document: Document, box: Runs, random: Random) -> dict[str, Any]:
    tree = parsed(document.text)
    node = tree.body[0] if tree is not None and tree.body else None
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return {"verdict": "no plain function", "talks": []}
    if not _passes(document.text, box):
        return {"verdict": "examples fail alone", "talks": []}
    docstring = textwrap.indent(ast.get_docstring(node) or "", "    ")
    answer = f"```python\n{document.text.rstrip()}\n```"
    talks = [_pair(random.choice(_WRITE).format(name=node.name, docstring=docstring), answer)]
    for mutant in _some(document.text, random):
        if not _passes(mutant, box):
            ask = random.choice(_MEND).format(code=mutant.rstrip())
            plain = f"```python\n{ast.unparse(ast.parse(document.text))}\n```"
            talks.append(_pair(ask, plain))
            return {"verdict": "verified, with a bug to fix", "talks": talks}
    return {"verdict": "verified", "talks": talks}


def mutants(text: str) -> Iterator[str]:
    """The function with one comparison, operator, number, condition or truth value changed each.

    Written by `ast.unparse`: comments go and the docstring stays.
    """
    tree = ast.parse(text)
    for at, node in enumerate(ast.walk(tree)):
        for change in _changes(node):
            changed = copy.deepcopy(tree)
            change(next(n for i, n in enumerate(ast.walk(changed)) if i == at))
            yield ast.unparse(ast.fix_missing_locations(changed)) + "\n"


def program(text: str) -> str:
    """A program that ends well when all examples of the function's docstring come true."""
    tree = ast.parse(text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    used = {name.id for name in names} - bound
    imports = "".join(f"import {name}\n" for name in sorted(used & sys.stdlib_module_names))
    return (
        f"{imports}{text}\nimport doctest, sys\nresult = doctest.testmod()\n"
        "sys.exit(0 if result.attempted and not result.failed else 1)\n"
    )


def _changes(node: ast.AST) -> Iterator[Callable[[Any], None]]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        other = _COMPARISONS[type(node.ops[0])]
        yield lambda n: n.ops.__setitem__(0, other())
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _ARITHMETIC:
        swapped = _ARITHMETIC[type(node.op)]
        yield lambda n: setattr(n, "op", swapped())
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    elif isinstance(node, ast.BoolOp):
        flipped = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield lambda n: setattr(n, "op", flipped())


def _some(text: str, random: Random) -> list[str]:
    found = list(mutants(text))
    return random.sample(found, min(MAX_MUTANTS, len(found)))


def _passes(text: str, box: Runs) -> bool:
    return box.run(program(text)).status == "ok"  # type: ignore[no-any-return]  # Any in a library's stubs


def _pair(ask: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
